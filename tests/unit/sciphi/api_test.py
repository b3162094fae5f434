# SPDX-License-Identifier: Apache-2.0
"""describe: the right zone through every convention, rate and file type; misuse refused with advice."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from llm_bridge.generate import Told
from sciphi.api import describe, describe_stream
from sciphi.json_format import from_json
from sciphi.text_format import parse_text
from spatial_core.audio.ambisonics import AmbisonicFormat
from spatial_core.errors import InputError
from tests.unit.sciphi.ear import Ear, capsules_from, noise_from

AMBIX = {"order": "ACN", "norm": "SN3D"}
# Not along an axis: a channel that is silent is said to be.
PLACES = {
    (45, 3): "horizontal front-left",
    (-85, 45): "upper right",
    (175, -40): "lower back",
    (20, 80): "above",
}


@pytest.mark.parametrize("order", ["ACN", "FuMa"])
@pytest.mark.parametrize("norm", ["SN3D", "N3D", "FuMa"])
def test_every_convention_gives_the_same_answer_when_it_is_said(order, norm):
    for (azimuth, elevation), zone in PLACES.items():
        audio = noise_from(azimuth, elevation, rate=24000, fmt=AmbisonicFormat(order, norm))
        result = describe(audio, order, norm, 24000, model=Ear())
        (source,) = result.description.sources
        assert source.zone == zone
        assert source.loudness == -20  # RMS 0.1 of W in SN3D, whatever came in
        assert result.notes == () and result.problems == ()


@pytest.mark.parametrize(
    ("name", "rate", "subtype"),
    [("a.wav", 48000, "PCM_24"), ("a.flac", 44100, "PCM_16"), ("a.wav", 96000, "FLOAT")],
)
def test_files_of_any_rate_and_type(tmp_path, name, rate, subtype):
    path = tmp_path / name
    soundfile.write(path, noise_from(135, -4, rate=rate).T, rate, subtype=subtype)
    result = describe(path, **AMBIX, model=Ear())
    assert result.description.sources[0].zone == "horizontal back-left"
    assert result.notes == (f"resampled from {rate} Hz to 24000 Hz",)
    assert (result.source, result.source_rate) == (str(path), rate)


def test_capsules_of_a_tetrahedron_give_the_direction():
    for (azimuth, elevation), zone in PLACES.items():
        capsules = capsules_from(azimuth, elevation)
        result = describe(capsules, rate=24000, a_format="ambeo", model=Ear())
        assert result.description.sources[0].zone == zone
        assert result.format == "A-format (ambeo)" and result.notes == ()


def test_capsules_given_as_b_format_and_the_other_way_round_are_noticed():
    result = describe(capsules_from(-135, 20), **AMBIX, rate=24000, model=Ear())
    assert "look like capsules (A-format; a_format='ambeo'" in result.notes[0]
    result = describe(noise_from(-135, 20, rate=24000), rate=24000, a_format="ambeo", model=Ear())
    assert "are these four capsules" in result.notes[0]


def test_fuma_taken_for_sn3d_is_called_fuma_where_capsules_would_fit_as_well():
    """A dry source at 45 degrees, nearly level: the channels' sum is that of a tetrahedron's, too."""
    sn3d = noise_from(45, 5, rate=24000)
    fuma = np.stack([sn3d[0] / np.sqrt(2), sn3d[3], sn3d[1], sn3d[2]])
    result = describe(fuma, order="ACN", norm="SN3D", rate=24000, model=Ear())
    assert any("a file in FuMa looks like that, and so may capsules" in n for n in result.notes)


def test_capsules_are_converted_without_seams_between_blocks():
    capsules = np.concatenate([noise_from(0, 0, 3.0, 24000, seed=i)[:1] for i in range(4)])
    ears = Ear(seconds=3.0), Ear(seconds=3.0)
    describe(capsules, rate=24000, a_format="ambeo", model=ears[0])
    blocks = (capsules[:, i : i + 3001] for i in range(0, capsules.shape[1], 3001))
    describe(blocks, rate=24000, a_format="ambeo", model=ears[1])
    # The filters' tails beyond 0.1 s differ, 60 dB under the sound.
    np.testing.assert_allclose(ears[0].seen[0], ears[1].seen[0], atol=2e-4)


def test_long_recordings_are_heard_in_windows_and_told_once():
    audio = np.concatenate([noise_from(45, 0, 5.0, 24000), noise_from(-135, 0, 2.5, 24000)], 1)
    result = describe(audio, **AMBIX, rate=24000, model=Ear())
    assert [(w.start, w.end) for w in result.windows] == [(0, 2), (2, 4), (4, 6), (5.5, 7.5)]
    first, second = result.timeline[0], result.timeline[-1]
    assert first.source.zone == "horizontal front-left" and first.windows[:2] == (0, 1)
    assert first.source.onset == 0 and second.source.zone == "horizontal back-right"
    assert second.source.offset == pytest.approx(7.5)
    assert len(result.description.sources) == len(result.timeline)


def test_a_hop_makes_windows_overlap():
    audio = noise_from(0, 0, 5.0, 24000)
    result = describe(audio, **AMBIX, rate=24000, model=Ear(), hop=1.0)
    assert [w.start for w in result.windows] == [0, 1, 2, 3]
    (item,) = result.timeline
    assert (item.source.onset, item.source.offset) == (0, 5) and item.windows == (0, 1, 2, 3)
    for hop in (0.0, 2.5, -1.0, float("nan")):
        with pytest.raises(InputError, match="time between windows"):
            describe(audio, **AMBIX, rate=24000, model=Ear(), hop=hop)


@pytest.mark.parametrize("size", [977, 24001, 200000])
def test_live_blocks_give_the_windows_of_the_whole(size):
    audio = noise_from(-45, 0, 7.3, 48000)
    whole = describe(audio, **AMBIX, rate=48000, model=Ear())
    blocks = (audio[:, i : i + size] for i in range(0, audio.shape[1], size))
    live = list(describe_stream(blocks, **AMBIX, rate=48000, model=Ear()))
    assert [(w.start, w.end, w.text) for w in live] == [
        (w.start, w.end, w.text) for w in whole.windows
    ]


def test_a_window_is_told_as_soon_as_its_sound_is_there():
    given = []

    def blocks():
        for i in range(40):
            given.append(i)
            yield noise_from(0, 0, 0.25, 24000, seed=i)

    next(describe_stream(blocks(), **AMBIX, rate=24000, model=Ear()))
    assert len(given) == 8  # 2 s


def test_a_part_keeps_the_times_of_the_recording():
    audio = noise_from(90, 0, 9.0, 24000)
    audio[:, : 4 * 24000] = noise_from(-90, 0, 4.0, 24000)
    result = describe(audio, **AMBIX, rate=24000, model=Ear(), start=5.0, seconds=3.0)
    assert [(w.start, w.end) for w in result.windows] == [(5, 7), (6, 8)]
    (item,) = result.timeline
    assert (item.source.zone, item.source.onset, item.source.offset) == ("horizontal left", 5, 8)
    result = describe(audio, **AMBIX, rate=24000, model=Ear(), start=5.0, seconds=1.5)
    assert [(s.onset, s.offset) for s in result.description.sources] == [(5.0, 6.5)]
    assert result.windows[0].description.sources[0].onset == 0
    with pytest.raises(InputError, match="nothing is left from 20 s on"):
        describe(audio, **AMBIX, rate=24000, model=Ear(), start=20.0)
    with pytest.raises(InputError, match="start at 0 s or later"):
        describe(audio, **AMBIX, rate=24000, model=Ear(), start=-1.0)


def test_short_recordings_are_padded_and_said_so():
    result = describe(noise_from(0, 0, 0.5, 24000), **AMBIX, rate=24000, model=Ear())
    assert any("only 0.5 s long" in note for note in result.notes)
    assert result.description.sources[0].offset <= 0.5 and result.end_seconds == 0.5


def test_less_than_any_sound_of_the_training_is_refused():
    with pytest.raises(InputError, match=r"0\.10 s of the audio are too short"):
        describe(noise_from(0, 0, 0.1, 24000), **AMBIX, rate=24000, model=Ear())


class Unsure(Ear):
    """Says how likely each of its ids is: single characters, of which those of `doubts` are 50%."""

    def __init__(self, *doubts):
        super().__init__()
        self.doubts = doubts

    def tell(self, foas):
        return [self._told(text) for text in self.describe(foas)]

    def _told(self, text):
        chances = np.ones(len(text))
        for doubt in self.doubts:
            at = text.index(doubt) + len(doubt)
            chances[at - 3 : at] = 0.5
        pieces = [(i, i + 1, float(chance)) for i, chance in enumerate(chances)]
        return Told(text, tuple(pieces))


def test_what_the_model_doubts_is_told_and_goes_into_json(tmp_path):
    audio = noise_from(90, 0, 4.0, 24000)
    result = describe(audio, **AMBIX, rate=24000, model=Unsure("horizontal left"))
    (source,) = result.description.sources
    assert source.confidence == pytest.approx(1 / 8) and result.description.count_confidence == 1
    assert any("where these are: noise" in note for note in result.notes)
    assert "13 %" in result.to_text() or "12 %" in result.to_text()
    (content,) = result.to_dict()["description"]["sources"]
    assert (content["azimuth_deg"], content["elevation_deg"]) == (90, 0)
    assert (
        content["zone_confidence"] == 0.125
        and from_json(result.to_dict()["description"]) == result.description
    )
    assert result.to_dict()["timeline"][0]["zone_confidence"] == 0.125
    counted = describe(audio, **AMBIX, rate=24000, model=Unsure("n_src=1"))
    assert counted.description.count_confidence == 0.5  # of the three, only 1 is the number
    assert any("how many sources" in note for note in counted.notes)
    assert counted.plot(tmp_path / "a.png").stat().st_size > 10_000
    sure = describe(audio, **AMBIX, rate=24000, model=Unsure())
    assert not any("doubt" in note for note in sure.notes)
    assert describe(audio, **AMBIX, rate=24000, model=Ear()).description.count_confidence is None


def test_what_is_told_of_the_padding_is_left_out():
    class Dreamer(Ear):
        def _tell(self, foa):
            late = "; late:(1.2s-1.9s, above, 1.0m, -30dB, 3dB)."
            return super()._tell(foa).replace("0.5s", "1.8s").removesuffix(".") + late

    result = describe(noise_from(0, 0, 0.5, 24000), **AMBIX, rate=24000, model=Dreamer())
    assert [(s.label, s.offset) for s in result.description.sources] == [("noise", 0.5)]


def test_silent_windows_are_not_shown_to_the_model():
    audio = np.concatenate(
        [noise_from(0, 0, 2.0, 24000), np.zeros((4, 48000)), noise_from(0, 0, 2.0, 24000)], 1
    ).astype(np.float32)
    ear = Ear()
    result = describe(audio, **AMBIX, rate=24000, model=ear)
    assert [w.silent for w in result.windows] == [False, True, False] and len(ear.seen) == 2
    assert len(result.timeline) == 2  # two seconds of silence lie between


def test_faint_noise_is_answered_as_silence_without_a_description():
    audio = (1e-5 * np.random.default_rng(0).normal(size=(4, 48000))).astype(np.float32)
    result = describe(audio, **AMBIX, rate=24000, model=Ear())
    assert result.description is None and result.text == "" and result.timeline == ()
    assert "Silence: nothing to describe." in result.to_text()
    assert json.loads(result.to_json())["description"] is None


def test_quiet_recordings_are_raised_for_the_model_and_told_as_they_are():
    audio = noise_from(45, 0, 2.0, 24000, level=1e-4)  # -80 dB
    ear = Ear()
    result = describe(audio, **AMBIX, rate=24000, model=ear)
    assert 20 * np.log10(np.std(ear.seen[0][0])) == pytest.approx(-45, abs=1)
    assert result.description.sources[0].loudness == -80
    assert any("+35 dB" in note for note in result.notes)


def test_unclear_answers_are_named_with_their_window():
    class Mumbler(Ear):
        def _tell(self, foa):
            return super()._tell(foa).replace("1.5m", "far")

    result = describe(noise_from(0, 0, 4.0, 24000), **AMBIX, rate=24000, model=Mumbler())
    assert len(result.problems) == 2 and result.problems[1].startswith("2.0 to 4.0 s: ")
    assert result.description.sources[0].distance is None


def test_the_answer_as_text_and_json_reads_back():
    result = describe(noise_from(45, 0, 5.0, 24000), **AMBIX, rate=24000, model=Ear())
    assert parse_text(result.text) == (result.description, ())
    content = json.loads(result.to_json())
    assert from_json(content["description"]) == result.description
    assert content["timeline"][0]["azimuth_deg"] == 45
    assert [w["start_s"] for w in content["windows"]] == [0, 2, 3]
    text = result.to_text()
    assert "horizontal front-left" in text and "45°" in text and "Room of about 200 m³" in text
    assert text.count("noise") == 1
    assert result.to_text(every_window=True).count("noise") == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give the order and norm .* never guessed"),
        ({"order": "ACN"}, "give the norm .* --norm SN3D"),
        ({"norm": "SN3D"}, "give the order .* never guessed"),
        ({"order": "WXYZ", "norm": "SN3D"}, "order 'WXYZ' is unknown"),
        ({"order": "ACN", "norm": "loud"}, "norm 'loud' is unknown"),
        ({"a_format": "ambeo", "order": "ACN"}, "one or the other"),
        ({"a_format": "zoom"}, "choose 'ambeo'"),
    ],
)
def test_conventions_are_never_guessed(given, message):
    with pytest.raises(InputError, match=message):
        describe(noise_from(0, 0), rate=48000, model=Ear(), **given)


def test_names_of_conventions_in_any_case():
    result = describe(noise_from(0, 0), "acn", "sn3d", 48000, model=Ear())
    assert result.format == "ACN/SN3D"


@pytest.mark.parametrize(
    ("channels", "message"),
    [(1, "mono"), (2, "stereo"), (3, "horizontal only"), (5, "exactly 4"), (6, "head-locked")],
)
def test_other_numbers_of_channels_are_refused_with_advice(tmp_path, channels, message):
    audio = np.random.default_rng(0).normal(size=(channels, 9600)).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", audio.T, 48000)
    with pytest.raises(InputError, match=message):
        describe(tmp_path / "a.wav", **AMBIX, model=Ear())
    with pytest.raises(InputError, match=message):
        describe(audio, **AMBIX, rate=48000, model=Ear())


def test_of_a_higher_order_the_first_four_channels_are_used():
    audio = np.concatenate([noise_from(90, 0), np.ones((5, 96000), np.float32)])
    result = describe(audio, **AMBIX, rate=48000, model=Ear())
    assert result.description.sources[0].zone == "horizontal left"
    assert any("order 2" in note for note in result.notes)


def test_arrays_of_other_libraries_are_read():
    audio = jnp.asarray(noise_from(90, 3, 1.0, 24000))
    result = describe(audio, **AMBIX, rate=24000, model=Ear())
    assert result.description.sources[0].zone == "horizontal left"


def test_arrays_need_a_rate_and_files_refuse_a_wrong_one(tmp_path):
    with pytest.raises(InputError, match="needs rate="):
        describe(noise_from(0, 0), **AMBIX, model=Ear())
    with pytest.raises(InputError, match="its transpose"):
        describe(noise_from(0, 0).T, **AMBIX, rate=48000, model=Ear())
    soundfile.write(tmp_path / "a.wav", noise_from(0, 0).T, 48000)
    with pytest.raises(InputError, match="has 48000 Hz, not rate=24000"):
        describe(tmp_path / "a.wav", **AMBIX, rate=24000, model=Ear())


def test_recordings_without_sound_or_direction_are_refused():
    noise = noise_from(0, 0, 1.0, 24000)
    mono = np.repeat(noise[:1], 4, axis=0)
    only_w = noise * np.array([[1], [0], [0], [0]], np.float32)
    no_w = noise * np.array([[0], [1], [1], [1]], np.float32)
    nan = noise.copy()
    nan[2, 240] = np.nan
    for audio, message in (
        (np.zeros((4, 24000), np.float32), "digital silence"),
        (np.full((4, 24000), 0.1, np.float32), "digital silence"),
        (np.zeros((4, 0), np.float32), "no samples"),
        (mono, "one microphone copied"),
        (only_w, "only channel 1 .W. carries sound"),
        (no_w, "channel 1 .W. is silent"),
        (nan, "0.010 s of channel 3 is nan"),
    ):
        with pytest.raises(InputError, match=message):
            describe(audio, **AMBIX, rate=24000, model=Ear())
    with pytest.raises(InputError, match="all four capsules are needed"):
        describe(only_w + no_w * [[1], [0], [1], [1]], rate=24000, a_format="ambeo", model=Ear())


def test_a_silent_axis_is_named():
    audio = noise_from(0, 0, 1.0, 24000, AmbisonicFormat("FuMa", "FuMa"))
    result = describe(audio, "FuMa", "FuMa", 24000, model=Ear())
    assert "channel 3 (Y)" in result.notes[0] and "left and right" in result.notes[0]
    assert "channel 4 (Z)" in result.notes[0] and "up and down" in result.notes[0]
