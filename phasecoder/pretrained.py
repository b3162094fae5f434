# SPDX-License-Identifier: Apache-2.0
"""Trained encoders: save, load with checksums, and predict from NumPy batches.

The checkpoint that ships with the package is the default of `load`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from spatial_core import waits
from spatial_core.audio.io import load_audio
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array
from spatial_core.io import export
from spatial_core.io.shipped import Shipped

if TYPE_CHECKING:
    import jax

    from phasecoder.task import PhaseCoderTask

# Few shapes, few compilations: clips are padded up to these and the padding is masked.
CHANNEL_BUCKETS = (2, 3, 4, 6, 8, 12, 16)
MAX_CLIPS = 64
MAX_MICS = CHANNEL_BUCKETS[-1]
# The level that training clips have on average; only features of the paper's kind depend on it.
TARGET_RMS = 0.05
# A channel this far (60 dB) under the median of its neighbours carries no sound.
DEAD_POWER = 1e-6
SHIPPED = Shipped(
    Path(__file__).parent / "pretrained",
    export.CONFIG_FILE,
    what="checkpoint",
    default="plus-small-2",
)
_INPUTS = ("audio", "mic_positions", "mic_mask")

Batch = dict[str, NDArray[Any]]


class Predictor(Protocol):
    """What an Encoder needs from a task."""

    def predict(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Answers with the clips on axis 0; an `azimuth_grid` attribute [n] names the bins."""
        ...


class Encoder:
    """A trained model with NumPy in and out.

    Batches are padded to a few fixed shapes with the padding masked, so that few programs are
    compiled; a clip's answer depends neither on the padding nor on what else is in the batch.
    """

    def __init__(
        self,
        task: Predictor,
        params: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        card: str = "",
    ) -> None:
        import jax

        self.task = task
        self.config = dict(config or {})
        self.card = card
        self._params = jax.device_put(params)
        self._predict = jax.jit(task.predict)
        self._ready: set[tuple[int, int]] = set()

    @property
    def name(self) -> str:
        """The checkpoint's name, for tables and plots."""
        return str(self.config.get("name", "encoder"))

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters, on the device."""
        return self._params

    def predict(self, batch: Mapping[str, NDArray[Any]]) -> Batch:
        """Directions of a batch of clips.

        Args:
            batch: audio [b, m, 4000] at 16 kHz, mic_positions [b, m, 3] metres about the centroid,
                mic_mask [b, m]; other keys are ignored.

        Returns:
            azimuth, elevation (degrees), distance (metres), speech_probability, confidence [b] and
            what else the model gives (azimuth_probs [b, n] over azimuth_grid [n], token [b, 256]).

        Raises InputError for wrong shapes, a clip with fewer than 2 microphones or more than 16.
        """
        audio, positions, mask = _check_batch(batch)
        most = int(mask.sum(axis=1).max(initial=2))
        mics = min(size for size in CHANNEL_BUCKETS if size >= most)
        answers: dict[str, list[NDArray[Any]]] = {}
        for chunk, clips in _chunks(len(audio)):
            padded = _compact(audio[chunk], positions[chunk], mask[chunk], mics, clips)
            if (mics, clips) not in self._ready:
                self._ready.add((mics, clips))
                waits.compiling(f"{most} channels")
            for key, value in self._answer(padded).items():
                answers.setdefault(key, []).append(np.asarray(value)[: chunk.stop - chunk.start])
        joined = {key: np.concatenate(parts) for key, parts in answers.items()}
        grid = getattr(self.task, "azimuth_grid", None)
        if grid is not None and "azimuth_probs" in joined:
            joined["azimuth_grid"] = np.asarray(grid, np.float32)
        return joined

    def _answer(self, padded: Batch) -> dict[str, jax.Array]:
        from spatial_core.train import partition

        return self._predict(self._params, partition.beside(self._params, padded))

    def spread(self) -> Encoder:
        """This encoder, from now on on all devices of this process: each answers its share of the clips.

        Answers are the same to rounding.
        """
        import jax

        from spatial_core.train import partition

        self._params = jax.device_put(self._params, partition.whole_here())
        return self

    def tokens(
        self,
        audio: NDArray[np.floating[Any]] | str | Path,
        array: MicArray | str | Path,
        hop: int = HOP,
    ) -> NDArray[np.float32]:
        """Spatial tokens [n, 256], one each `hop` samples; n = ceil(t / hop), the end is padded.

        Args:
            audio: [m, t] at 16 kHz, or the path of a recording of any rate.
            array: the microphones, one per channel: a MicArray, a preset's name or a JSON file.
            hop: samples from token to token; 2560 is the 160 ms of the paper.
        """
        if not isinstance(array, MicArray):
            array = load_array(array)
        if isinstance(audio, str | Path):
            audio = load_audio(audio).samples
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 2:
            raise InputError(f"tokens need audio [channels, samples], got shape {audio.shape}")
        if not np.isfinite(audio).all():
            raise InputError("tokens need finite audio: it holds NaN or infinity")
        array.require_channels(audio.shape[0], "the audio")
        count = -(-audio.shape[1] // hop)
        if count == 0:
            raise InputError("tokens need at least one sample of audio")
        padded = np.pad(audio, ((0, 0), (0, (count - 1) * hop + WINDOW - audio.shape[1])))
        tokens = []
        for first in range(0, count, MAX_CLIPS):
            starts = range(first * hop, min(first + MAX_CLIPS, count) * hop, hop)
            windows = np.stack([padded[:, s : s + WINDOW] for s in starts])
            answer = self.predict(window_batch(windows, array.centred))
            if "token" not in answer:
                raise InputError(f"model {self.name!r} gives no spatial tokens")
            tokens.append(answer["token"])
        return np.concatenate(tokens).astype(np.float32)


def window_batch(windows: NDArray[np.floating[Any]], positions: NDArray[np.floating[Any]]) -> Batch:
    """The model's input from windows [b, m, 4000] of one array with positions [m, 3] (metres).

    Each channel loses its mean (a DC offset is no sound) and each window is brought to the level of
    the training clips (RMS 0.05); digital silence stays. A microphone that is 60 dB weaker than the
    others in a window is dead and masked there.
    """
    windows = np.asarray(windows, np.float32)
    windows = windows - windows.mean(axis=2, keepdims=True)
    power = np.mean(np.square(windows, dtype=np.float64), axis=2)
    live = power > DEAD_POWER * np.median(power, axis=1, keepdims=True)
    mask = live | (live.sum(axis=1, keepdims=True) < 2)
    count = mask.sum(axis=1)[:, None, None]
    rms = np.sqrt(np.sum(power * mask, axis=1)[:, None, None] / count)
    scale = mask[..., None] * np.where(rms > 0, TARGET_RMS / np.maximum(rms, 1e-12), 1.0)
    where = np.asarray(positions, np.float64)[None] * mask[..., None]
    centred = (where - where.sum(axis=1, keepdims=True) / count) * mask[..., None]
    return {
        "audio": (windows * scale).astype(np.float32),
        "mic_positions": centred.astype(np.float32),
        "mic_mask": mask,
    }


def save_pretrained(
    directory: str | Path,
    params: Mapping[str, Any],
    model_config: Any,
    card: str,
    *,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Write model.safetensors, config.json and README.md (the card); returns the directory.

    Args:
        directory: made if missing.
        params: the task's nested dict of arrays.
        model_config: the PaperConfig or PlusConfig (a frozen dataclass with `family`).
        card: the model card, Markdown.
        name: shown in tables; the directory's name by default.
        info: plain JSON kept in config.json under "info" (training, measured table).
    """
    directory = Path(directory)
    config = {
        "name": name or directory.name,
        "family": model_config.family,
        "sample_rate": SAMPLE_RATE,
        "window": WINDOW,
        "model": export.to_json(dataclasses.asdict(model_config)),
        "info": dict(info or {}),
    }
    return export.write_release(directory, params, config, card)


def read_card(path: str | Path | None = None) -> str:
    """The model card of a checkpoint (as in `load`), Markdown."""
    card = SHIPPED.resolve(path) / export.CARD_FILE
    if not card.is_file():
        raise InputError(f"{card} is missing: this checkpoint has no card")
    return card.read_text(encoding="utf-8").rstrip()


def load(path: str | Path | None = None, all_devices: bool = False) -> Encoder:
    """A trained encoder from a directory, a shipped checkpoint's name, or the shipped default.

    A directory is a released model's or a training run's (`trained.load_run`). all_devices: see `spread`.

    Raises InputError if the checkpoint is missing, damaged (SHA-256), of a newer version, or if
    its tensors do not fit its config.
    """
    directory = SHIPPED.resolve(path)
    if all_devices:
        return load(directory).spread()
    waits.say(f"loading {directory.name}")
    if (directory / "checkpoints").is_dir():
        from phasecoder.trained import load_run

        return load_run(directory)
    released = export.read_release(directory)  # before jax, which takes seconds to import
    import jax

    from phasecoder.task import PhaseCoderTask, config_from_json

    task = PhaseCoderTask(config_from_json(released.config.get("model", {})))
    like = jax.eval_shape(task.init, jax.random.key(0))
    params = export.fill_tree(like, released.tensors, str(released.path / export.TENSOR_FILE))
    return Encoder(task, params, released.config, released.card)


def pretrained_task(path: str | Path | None = None) -> PhaseCoderTask:
    """The task of a checkpoint (as in `load`), to train it further or to adapt it to a device."""
    return cast("PhaseCoderTask", load(path).task)


def pretrained_params(path: str | Path | None = None) -> Mapping[str, Any]:
    """The parameters of a checkpoint (as in `load`), for `TrainConfig.init_from`."""
    return load(path).params


def _check_batch(
    batch: Mapping[str, NDArray[Any]],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    missing = [key for key in _INPUTS if key not in batch]
    if missing:
        raise InputError(f"the batch lacks {', '.join(missing)}; it needs {', '.join(_INPUTS)}")
    audio = np.asarray(batch["audio"], np.float32)
    positions = np.asarray(batch["mic_positions"], np.float32)
    mask = np.asarray(batch["mic_mask"], bool)
    if audio.ndim != 3 or audio.shape[2] != WINDOW:
        raise InputError(f"audio must be [clips, microphones, {WINDOW}], got {audio.shape}")
    if positions.shape != (*audio.shape[:2], 3) or mask.shape != audio.shape[:2]:
        raise InputError(
            f"audio {audio.shape} needs mic_positions {(*audio.shape[:2], 3)} and mic_mask "
            f"{audio.shape[:2]}, got {positions.shape} and {mask.shape}"
        )
    counts = mask.sum(axis=1)
    wrong = np.flatnonzero((counts < 2) | (counts > MAX_MICS))
    if wrong.size:
        raise InputError(
            f"clip {wrong[0]} has {counts[wrong[0]]} microphones; the encoder takes 2 to {MAX_MICS}"
        )
    return audio, positions, mask


def _chunks(count: int) -> Iterator[tuple[slice, int]]:
    """Clips in pieces of at most 64, each with the padded size it runs at.

    After a full piece the rest runs at 64 as well: padding is cheaper than a compilation.
    """
    size = MAX_CLIPS if count > MAX_CLIPS else 1 << max(count - 1, 0).bit_length()
    for first in range(0, count, size):
        yield slice(first, min(first + size, count)), size


def _compact(
    audio: NDArray[np.float32],
    positions: NDArray[np.float32],
    mask: NDArray[np.bool_],
    mics: int,
    clips: int,
) -> Batch:
    """Valid microphones first, in their order, then zeros up to `mics`; clips up to `clips`.

    Padding clips repeat the last one: every row stays a valid input.
    """
    order = np.argsort(~mask, axis=1, kind="stable")[:, :mics]
    order = np.pad(order, ((0, clips - len(order)), (0, 0)), mode="edge")
    rows = np.minimum(np.arange(clips), len(audio) - 1)[:, None]
    kept = mask[rows, order]
    packed = {
        "audio": np.where(kept[..., None], audio[rows, order], np.float32(0)),
        "mic_positions": np.where(kept[..., None], positions[rows, order], np.float32(0)),
        "mic_mask": kept,
    }
    short = mics - order.shape[1]
    if short > 0:
        packed = {
            key: np.pad(value, ((0, 0), (0, short)) + ((0, 0),) * (value.ndim - 2))
            for key, value in packed.items()
        }
    return packed
