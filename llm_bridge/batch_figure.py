# SPDX-License-Identifier: Apache-2.0
"""Pictures of a batch of questions: what is heard, what is asked, and the answer that is learned."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from llm_bridge.backbones.tiny import FRAMES_PER_TOKEN, MELS
from llm_bridge.layout import Row, rows_of_batch
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.train.task import Exhibit
from spatial_core.viz.style import figure

if TYPE_CHECKING:
    from llm_bridge.task import BridgeTask

_LINE = 118  # letters of a line in a picture

# What draws itself into axes; a title.
Panel = tuple[str, Callable[[Axes], None]]
SpatialPanels = Callable[[NDArray[Any], int], list[Panel]]


def draw_batch(
    task: BridgeTask,
    batch: Mapping[str, NDArray[Any]],
    folder: Path,
    rows: Sequence[int],
    spatial: SpatialPanels,
) -> list[Exhibit]:
    """A picture of each row, with question and answer as its caption.

    spatial: the panels of a row's `tokens`, of which so many soft tokens are valid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {name: value[np.array(rows)] for name, value in batch.items()}
    exhibits = [Exhibit(_sizes(batch))]
    for place, row in enumerate(rows_of_batch(chosen, len(rows))):
        number, (asked, answer) = rows[place], _words(task, row)
        panels = [
            *(spatial(chosen["tokens"][place], row.spatial) if row.spatial else []),
            *(_mono_panels(task, chosen["audio"][place], row.mono) if row.mono else []),
        ]
        title = [*_wrapped(f"row {number}: {asked}"), *_wrapped(f"answer: {answer}")]
        path = folder / f"row_{number:03d}.png"
        with figure(path, 10.0, 1.9 * len(panels) + 0.25 * len(title)) as fig:
            drawn = np.atleast_1d(fig.subplots(len(panels), 1, sharex=True))
            for axis, (name, draw) in zip(drawn, panels, strict=True):
                draw(axis)
                axis.set_title(name, fontweight="normal", fontsize=9)
            drawn[-1].set_xlabel("seconds")
            fig.suptitle("\n".join(title), x=0.01, ha="left", fontsize=10, parse_math=False)
        exhibits.append(Exhibit(f"Row {number}: {asked} Answer: {answer}", path, number))
    return exhibits


def token_panels(tokens: NDArray[Any], count: int) -> list[Panel]:
    """PhaseCoder's tokens [k, 256], one each 160 ms."""
    seconds = count * HOP / SAMPLE_RATE
    reach = float(np.quantile(np.abs(tokens[:count]), 0.99))

    def draw(axis: Axes) -> None:
        heat_map(axis, tokens[:count], seconds, cmap="RdBu_r", vmin=-reach, vmax=reach)
        axis.set_ylabel("of 256 values")

    return [(f"spatial tokens: {count}, one each 160 ms", draw)]


def heat_map(axis: Axes, values: NDArray[Any], seconds: float, **style: Any) -> None:
    """Values [n, w] over time, w upwards."""
    extent = (0.0, seconds, 0.0, float(values.shape[1]))
    shape: dict[str, Any] = {"origin": "lower", "aspect": "auto", "extent": extent}
    axis.imshow(np.asarray(values, np.float32).T, interpolation="nearest", **shape, **style)


def _mono_panels(task: BridgeTask, audio: NDArray[Any], count: int) -> list[Panel]:
    """Features of the mono stream [l, a]; log-mels as a spectrogram, a network's as they are."""
    name, hop = task.backbone.audio_identity[0], task.backbone.audio_hop
    values, seconds = audio[:count], count * hop / SAMPLE_RATE
    log_mel = name == "log-mel" and values.shape[1] == FRAMES_PER_TOKEN * MELS
    if log_mel:
        values = values.reshape(-1, MELS)

    def draw(axis: Axes) -> None:
        heat_map(axis, values, seconds, cmap="magma" if log_mel else "viridis")
        axis.set_ylabel("mel band" if log_mel else f"of {values.shape[1]} values")

    unit = f"one each {1000 * hop / SAMPLE_RATE:.0f} ms"
    return [(f"mono stream, {name}: {count} tokens, {unit}", draw)]


def _words(task: BridgeTask, row: Row) -> tuple[str, str]:
    """Prompt (its system text as well, if it has one) and answer as text."""
    text = task.backbone.tokenizer.decode
    asked = " ".join(text([i for i in row.prompt if i >= 0]).split())
    return asked if len(asked) <= 300 else f"... {asked[-300:]}", text(row.answer)


def _sizes(batch: Mapping[str, NDArray[Any]]) -> str:
    rows, length = batch["ids"].shape
    used = batch["valid"].sum(axis=1)
    answers = (batch["answer_weight"] > 0).sum(axis=1)
    return (
        f"{rows} questions of {used.min()} to {used.max()} ids, soft tokens included, in rows of {length}; "
        f"answers of {answers.min()} to {answers.max()} ids, which are all that the loss looks at."
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _LINE) or [text]
