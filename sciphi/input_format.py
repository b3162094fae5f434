# SPDX-License-Identifier: Apache-2.0
"""What the four channels of a recording are, as its owner says, and the way to the inside format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sciphi.records import FOA_RATE
from spatial_core.audio.ambisonics import CAPSULES, INTERNAL, AmbisonicFormat, a_to_b, convert
from spatial_core.errors import InputError

CHANNELS = 4
A_FORMATS = ("ambeo",)
"""Microphones with `CAPSULES` in their order: the AMBEO, and others of its kind."""

_WAYS = (
    "order ACN with norm SN3D (--order ACN --norm SN3D: AmbiX, as most recorders and plug-ins write: W, Y, Z, X), order FuMa with "
    "norm FuMa (older B-format: W, X, Y, Z with W 3 dB down), order ACN with norm N3D, or a_format ambeo "
    "(four capsules)"
)


@dataclass(frozen=True)
class InputFormat:
    """What the channels of a recording are: order and norm of B-format, or the microphone of A-format.

    Raises InputError when it is not said, said twice, or unknown.
    """

    order: str | None = None
    norm: str | None = None
    a_format: str | None = None

    def __post_init__(self) -> None:
        if self.a_format is not None:
            if self.order is not None or self.norm is not None:
                raise InputError(
                    f"a_format={self.a_format!r} says that the channels are capsules, order and norm that "
                    "they are B-format: give one or the other"
                )
            if self.a_format not in A_FORMATS:
                raise InputError(
                    f"a_format is {self.a_format!r}: choose {', '.join(map(repr, A_FORMATS))}, four capsules "
                    f"in the order {', '.join(CAPSULES)}"
                )
            return
        missing = [name for name in ("order", "norm") if getattr(self, name) is None]
        if missing:
            raise InputError(
                f"give the {' and '.join(missing)} of the Ambisonic channels, which are never guessed: {_WAYS}. "
                "The manual of what made the file says which"
            )
        known = AmbisonicFormat.parse(f"{self.order}/{self.norm}")
        object.__setattr__(self, "order", known.order)
        object.__setattr__(self, "norm", known.norm)

    def b_format(self) -> AmbisonicFormat:
        """Order and norm together."""
        return AmbisonicFormat(str(self.order), str(self.norm))

    @property
    def name(self) -> str:
        """`ACN/SN3D`, `FuMa/FuMa` or `A-format (ambeo)`."""
        return f"A-format ({self.a_format})" if self.a_format else str(self.b_format())

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel is called, in the order of the file."""
        return CAPSULES if self.a_format else tuple(self.b_format().channels)

    def inside(
        self, blocks: Iterable[NDArray[np.float32]], rate: int = FOA_RATE
    ) -> Iterator[NDArray[np.float32]]:
        """The same sound as blocks [4, t] of ACN/SN3D: as many samples in all, at the same rate."""
        if self.a_format is None:
            source = self.b_format()
            yield from (convert(block, source, INTERNAL) for block in blocks)
            return
        yield from _overlapped(blocks, rate // 10, lambda capsules: a_to_b(capsules, rate))


def _overlapped(
    blocks: Iterable[NDArray[np.float32]],
    margin: int,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Iterator[NDArray[np.float32]]:
    """`change`, whose filters are short, block by block without seams: each sees `margin` samples of its neighbours."""
    held = np.zeros((CHANNELS, 0), np.float32)
    before = 0  # samples at the start of `held` that were answered already
    for block in blocks:
        held = np.concatenate([held, block], axis=1)
        ready = held.shape[1] - margin
        if ready <= before:
            continue
        yield change(held)[:, before:ready]
        cut = max(0, ready - margin)
        held, before = held[:, cut:], ready - cut
    if held.shape[1] > before:
        yield change(held)[:, before:]
