# SPDX-License-Identifier: Apache-2.0
"""A batch as pictures: the label lies where the steered response is strong, rows and sounds are the right ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from phasecoder import batch_figure
from phasecoder.task import PhaseCoderTask
from spatial_core.eval.steered import SPEED_OF_SOUND
from spatial_core.geometry.coords import azimuth_error, to_cartesian


def plane_waves(azimuths: list[float], level: float = 0.1) -> dict[str, np.ndarray]:
    """Noise from these azimuths, elevation 30, at a tetrahedron of 8 cm; the last row is silent."""
    count = len(azimuths)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.04
    audio = np.zeros((count, 5, 4000), np.float32)
    for row, azimuth in enumerate(azimuths):
        rng = np.random.default_rng(row)
        spectrum = np.fft.rfft(rng.standard_normal(4000))
        lead = corners @ to_cartesian(azimuth, 30.0) / SPEED_OF_SOUND
        turn = np.exp(2j * np.pi * np.fft.rfftfreq(4000, 1 / 16000) * lead[:, None])
        audio[row, :4] = level * np.fft.irfft(spectrum * turn, 4000)
    mask = np.zeros((count, 5), bool)
    mask[:, :4] = True
    positions = np.zeros((count, 5, 3), np.float32)
    positions[:, :4] = corners
    return {
        "audio": audio,
        "direct": audio[:, 0],
        "mic_positions": positions,
        "mic_mask": mask,
        "azimuth": np.array(azimuths, np.float32),
        "elevation": np.full(count, 30, np.float32),
        "distance": np.full(count, 2, np.float32),
        "speech": np.arange(count) < count - 1,
    }


def test_the_label_lies_on_the_peak_of_the_map_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plane wave's steered response peaks at its direction: to the 3 degrees of the map's grid."""
    drawn = []
    monkeypatch.setattr(batch_figure, "draw_row", lambda path, row, power, number: drawn.append((row, power)))  # fmt: skip
    batch_figure.draw_batch(plane_waves([40.0, -135.0, 172.0, 0.0]), tmp_path, [0, 1, 2])
    for row, power in drawn:
        high, wide = np.unravel_index(power.argmax(), power.shape)
        assert azimuth_error(batch_figure._AZIMUTHS[wide], row["azimuth"]) <= 4.5
        assert abs(batch_figure._ELEVATIONS[high] - row["elevation"]) <= 4.5


def test_clips_of_one_place_are_one_dot_as_large_as_they_are_many(tmp_path: Path) -> None:
    batch = plane_waves([40.0, 40.0, 40.0, -135.0, 0.0])
    places, clips = batch_figure.places_of(batch)
    np.testing.assert_array_equal(places, [[-135, 30, 2], [40, 30, 2]])
    assert clips.tolist() == [1, 3]
    exhibits = batch_figure.draw_batch(batch, tmp_path, [0])
    assert "4 of them with speech, from 2 places" in exhibits[0].caption


def test_chosen_rows_become_pictures_and_sounds_with_their_labels(tmp_path: Path) -> None:
    batch = plane_waves([40.0, -135.0, 0.0])
    exhibits = PhaseCoderTask().draw(batch, tmp_path, [1, 2])
    assert [each.row for each in exhibits] == [None, 1, 1, 2, 2]
    assert "3 clips" in exhibits[0].caption and "2 of them with speech" in exhibits[0].caption
    assert "azimuth -135°" in exhibits[1].caption and "4 microphones" in exhibits[1].caption
    assert "nobody speaks" in exhibits[3].caption
    heard, rate = soundfile.read(tmp_path / "row_001.wav")
    assert rate == 16000 and np.corrcoef(heard, batch["audio"][1, 0])[0, 1] > 0.999
    for name in ("labels", "row_001", "row_002"):
        picture = imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 300 and np.ptp(picture) > 0.5
