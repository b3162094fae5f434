# SPDX-License-Identifier: Apache-2.0
"""Pictures and sound players for notebooks, small enough to be kept with them."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from numpy.typing import ArrayLike
from PIL import Image

from spatial_core.audio.io import SAMPLE_RATE, encode_mp3

_COLOURS = 128


class Picture:
    """What a notebook shows as a PNG."""

    def __init__(self, png: bytes) -> None:
        self.png = png

    def __repr__(self) -> str:
        return "a picture"

    def _repr_png_(self) -> bytes:
        return self.png


class Player:
    """What a notebook shows as HTML: a caption over a sound player."""

    def __init__(self, page: str) -> None:
        self.page = page

    def __repr__(self) -> str:
        return "a sound player"

    def _repr_html_(self) -> str:
        return self.page


def show(path: str | Path, width: int = 900) -> Picture:
    """A picture file of at most `width` pixels and 128 colours."""
    with Image.open(path) as picture:
        drawn = picture.convert("RGB")
    if drawn.width > width:
        height = round(drawn.height * width / drawn.width)
        drawn = drawn.resize((width, height), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    drawn.quantize(_COLOURS, dither=Image.Dither.NONE).save(sink, "PNG", optimize=True)
    return Picture(sink.getvalue())


def listen(audio: ArrayLike, rate: int = SAMPLE_RATE, caption: str = "") -> Player:
    """A player of one or two channels, [t] or [c, t], as mp3: for ears, not for measuring."""
    data = base64.b64encode(encode_mp3(audio, rate)).decode("ascii")
    return Player(
        f"<div>{html.escape(caption)}</div>"
        f'<audio controls src="data:audio/mpeg;base64,{data}"></audio>'
    )
