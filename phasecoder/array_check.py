# SPDX-License-Identifier: Apache-2.0
"""Check an array description, alone or against a recording made with it.

What users get wrong most: units, the order of channels, an inverted or dead channel, devices that
do not share a clock. The recording should hold one sound source in the air, such as a person
talking for some seconds at a metre or two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phasecoder.array_fit import (
    SPEED_OF_SOUND,
    ArrayFit,
    Hypothesis,
    free_score,
    in_range_peak,
    undetectable_swaps,
)
from phasecoder.array_report import ArrayReport, Finding, PairLag
from phasecoder.array_sync import LateChannel, Synchrony, measure_synchrony
from phasecoder.array_unit import longest_lag, too_large, too_small
from spatial_core.audio.checks import (
    alternating_level_db,
    check_channels,
    dead_channels,
    identical_channels,
    name_channels,
)
from spatial_core.audio.delays import Correlations, pair_correlations
from spatial_core.audio.io import Audio
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray

FAULT_SECONDS = 1.0  # shorter recordings prove nothing
LARGE_APERTURE = 0.4  # metres
WEAK_CHANNEL_DB = 15.0
# Right coordinates, also with a second sound or on a rigid sphere, gained up to 1.077 in rooms.
SUSPECT_GAIN, SURE_GAIN = 1.08, 1.2
POOR_FIT = 0.7  # share of the fit that the pairs reach one by one
GOOD_FIT = 0.85
SMALL_APERTURE = 0.015

CLEAR = 6.5  # deviations of chance
_NO_SOUND = Finding(
    "warn",
    "no sound that reaches several channels was found clearly enough, so order, unit and synchrony "
    "could not be tested: record a person talking for some seconds at one or two metres",
)


def check_array(array: MicArray, audio: Audio | None = None) -> ArrayReport:
    """Check the coordinates and, given a recording, units, channel order, polarity and synchrony.

    Never raises for a bad recording: what is wrong with it becomes a finding.
    """
    findings = _check_geometry(array)
    if audio is None:
        return ArrayReport(array, findings)
    findings += [Finding("warn", text) for text in audio.warnings]
    try:
        warnings = check_channels(audio.samples, array, audio.path)
    except InputError as error:
        return ArrayReport(array, [*findings, Finding("error", str(error))])
    serious = ("dead", "identical")
    findings += [Finding("error" if w.startswith(serious) else "warn", w) for w in warnings]
    usable, faulty = _usable_channels(audio.samples, findings)
    if len(usable) < 2:
        return ArrayReport(array, findings, suspects=tuple(faulty))
    part = MicArray(array.positions[usable], array.name)
    try:
        correlations = pair_correlations(
            audio.samples[usable], audio.sample_rate, longest_lag(part)
        )
    except InputError as error:
        return ArrayReport(array, [*findings, Finding("error", str(error))], suspects=tuple(faulty))
    if correlations is None:
        findings.append(Finding("warn", "the recording is silent: delays cannot be compared"))
        return ArrayReport(array, findings, suspects=tuple(faulty))
    return _check_delays(array, part, usable, correlations, findings, faulty)


def delay_fault(
    array: MicArray, samples: NDArray[np.floating], rate: int, channels: Sequence[int]
) -> str | None:
    """What the delays of a recording [c, t] at `rate` Hz say is wrong with its array, in a clause.

    The part of `check_array` that finds errors of order, polarity, synchrony and unit, among
    `channels`; None if there are none or the recording is shorter than 1 s.
    """
    usable = [k for k in _usable_channels(samples, [])[0] if k in channels]
    if len(usable) < 2 or samples.shape[1] < FAULT_SECONDS * rate:
        return None
    part = MicArray(array.positions[usable], array.name)
    correlations = pair_correlations(samples[usable], rate, longest_lag(part))
    if correlations is None:
        return None
    report = _check_delays(array, part, usable, correlations, [], [])
    faults = [text for level, text in report.findings if level == "error"]
    if report.suspects:  # also channels that only may be swapped
        faults += [text for level, text in report.findings if level == "warn"]
    return re.split(r"[;:]| \(", faults[0])[0] if faults else None


def _check_geometry(array: MicArray) -> list[Finding]:
    """Findings that need no recording."""
    size = f"{100 * array.aperture:.1f} cm"
    findings = [Finding("ok", f"{array.num_mics} microphones, {size} across, {array.shape}")]
    if array.aperture > LARGE_APERTURE:
        findings.append(
            Finding(
                "warn",
                f"{array.aperture:.2f} m across is large for an array: is it centimetres? If the "
                'numbers are centimetres or millimetres, say "unit": "cm" or "mm" in the JSON file',
            )
        )
    if array.aperture < SMALL_APERTURE:
        findings.append(
            Finding(
                "warn",
                f"{1000 * array.aperture:.1f} mm across is small for an array: directions will be "
                "coarse; is the unit right?",
            )
        )
    ambiguity = array.ambiguity()
    if ambiguity:
        findings.append(Finding("warn", ambiguity))
    return findings


def _usable_channels(
    samples: NDArray[np.floating], findings: list[Finding]
) -> tuple[list[int], list[int]]:
    """Channels to compare and faulty ones; adds a finding for each that is much weaker."""
    levels = alternating_level_db(samples)
    faulty = set(dead_channels(levels).tolist())
    for group in identical_channels(samples):
        faulty.update(group)
    usable = [k for k in range(len(samples)) if k not in faulty]
    if usable:
        median = float(np.median(levels[usable]))
        weak = [k for k in usable if levels[k] < median - WEAK_CHANNEL_DB]
        if weak:
            findings.append(
                Finding(
                    "warn",
                    f"{name_channels(weak)}: {median - levels[weak].min():.0f} dB weaker than the "
                    "others; check gain, cable or a covered microphone",
                )
            )
    return usable, sorted(faulty)


def _check_delays(
    array: MicArray,
    part: MicArray,
    usable: list[int],
    correlations: Correlations,
    findings: list[Finding],
    faulty: list[int],
) -> ArrayReport:
    """Synchrony, units and order from the correlations of the usable channels (`part`)."""
    synchrony = measure_synchrony(part, correlations)
    lags = _lag_table(part, usable, correlations, synchrony)
    if not _is_clear(part, correlations):
        return ArrayReport(array, [*findings, _NO_SOUND], lags, suspects=tuple(faulty))
    unit = too_small(part, correlations)
    if unit:
        return ArrayReport(array, [*findings, unit], lags, suspects=tuple(faulty))
    suspects = [*faulty, *(usable[late.channel] for late in synchrony.late)]
    if len(synchrony.together) < 2:
        findings.append(_nothing_in_common(part, synchrony, lags))
        return ArrayReport(array, findings, lags, suspects=tuple(sorted(suspects)))
    if synchrony.late:
        findings += [_late_finding(late, usable) for late in synchrony.late]
    else:
        findings.append(Finding("ok", "synchrony: all delays are within what the distances allow"))
    keep = synchrony.together
    inner = MicArray(part.positions[keep], part.name)
    channels = [usable[k] for k in keep]
    kept = _restrict(correlations, keep)
    direction = None
    unit = too_large(inner, kept)
    if unit:
        findings.append(unit)
    elif len(keep) < 3:
        findings.append(
            Finding("warn", "channel order: cannot be tested with fewer than 3 usable channels")
        )
    else:
        order, direction, moved = _check_order(inner, channels, kept)
        findings += order
        suspects += moved
    return ArrayReport(array, findings, lags, direction, tuple(sorted(set(suspects))))


def _lag_table(
    part: MicArray, usable: list[int], correlations: Correlations, synchrony: Synchrony
) -> list[PairLag]:
    """One row for each pair of usable channels."""
    table = []
    for p, (i, j) in enumerate(correlations.pairs):
        distance = float(np.linalg.norm(part.positions[i] - part.positions[j]))
        table.append(
            PairLag(
                usable[i] + 1,
                usable[j] + 1,
                100 * distance,
                1000 * float(synchrony.pair_lag[p]),
                1000 * distance / SPEED_OF_SOUND,
                float(synchrony.pair_strength[p]),
            )
        )
    return table


def _is_clear(part: MicArray, correlations: Correlations) -> bool:
    """Whether a quarter of the pairs, at any lag, have something in common beyond chance.

    The strongest of thousands of chance values stands 4 to 6 deviations out, and in rooms full of
    noise or echoes all pairs stay there; with one channel of three replaced by noise, the remaining
    pair reaches 8 and more.
    """
    peak = np.maximum(in_range_peak(part, correlations)[0], correlations.far_peak)
    return bool(np.quantile(np.median(peak / correlations.noise, axis=0), 0.75) >= CLEAR)


def _nothing_in_common(part: MicArray, synchrony: Synchrony, lags: list[PairLag]) -> Finding:
    """No two channels agree within the array's limits: too small a unit, no clock, or no sound."""
    if not synchrony.pair_broken.any():
        return _NO_SOUND
    ratio = float(np.median([abs(lag.lag_ms) / lag.limit_ms for lag in lags]))
    return Finding(
        "error",
        f"the delays between channels are about {ratio:.3g} times what the distances allow: either "
        f"the coordinates are too small (wrong unit?) or the channels are not synchronised",
    )


def _late_finding(late: LateChannel, usable: list[int]) -> Finding:
    """Text for a channel outside the synchronous group."""
    name = name_channels([usable[late.channel]])
    if late.delay is None:
        return Finding(
            "error",
            f"{name} does not carry the same sound as the others: another source, only noise, or "
            "more than 0.2 s apart",
        )
    when = "late" if late.delay > 0 else "early"
    text = f"{name} is {1000 * abs(late.delay):.2f} ms {when}: not synchronised with the others"
    if late.drift:
        text += (
            f", and its clock drifts by {1e6 * late.drift:+.0f} microseconds each second: record "
            "all channels with one device"
        )
    return Finding("error", text)


def _restrict(correlations: Correlations, keep: list[int]) -> Correlations:
    """The correlations between the channels `keep` (ascending), renumbered."""
    inside = np.isin(correlations.pairs, keep).all(axis=1)
    return Correlations(
        np.searchsorted(keep, correlations.pairs[inside]),
        correlations.times,
        correlations.lags,
        correlations.near[:, inside],
        correlations.far_lag[:, inside],
        correlations.far_peak[:, inside],
        correlations.noise[:, inside],
    )


def _check_order(
    inner: MicArray, channels: list[int], correlations: Correlations
) -> tuple[list[Finding], tuple[float, float] | None, list[int]]:
    """Findings on order and polarity, the direction of the strongest sound, suspect channels."""
    fit = ArrayFit(inner.positions, correlations)
    given = fit.evaluate()
    hypotheses = fit.search()
    best = hypotheses[0]
    free = max(free_score(inner, correlations), 1e-6)
    gain = best.score / max(given.score, 0.02 * free, 1e-6)
    findings: list[Finding] = []
    suspects: list[int] = []
    share = given.score / free
    sure = gain >= SURE_GAIN and best.score >= GOOD_FIT * free
    if not best.is_given and gain >= SUSPECT_GAIN:
        findings += _change_findings(hypotheses, channels, sure, gain)
        suspects = [channels[k] for k in {*best.moved, *best.inverted}]
        if sure or share >= POOR_FIT:
            return findings, None, suspects
    if share < POOR_FIT:
        findings.append(
            Finding(
                "error",
                f"the delays fit these coordinates badly ({100 * share:.0f}% of what the channels "
                "have in common): wrong positions or unit, or an order that differs in several places",
            )
        )
        return findings, None, list(channels)
    findings.append(
        Finding(
            "ok",
            f"channel order and polarity: the delays fit the coordinates ({100 * share:.0f}%), and "
            "no exchange of two channels fits better",
        )
    )
    findings += _limits_of_order(inner, channels)
    findings.append(_direction_finding(inner, given))
    azimuth, elevation = given.direction
    if inner.shape == "planar" and abs(inner.axes[2][2]) > 0.98:
        # A level array hears no sign; above is the likelier of the two.
        elevation = abs(elevation)
    return findings, (azimuth, elevation), suspects


def _change_findings(
    hypotheses: list[Hypothesis], channels: list[int], sure: bool, gain: float
) -> list[Finding]:
    """Texts for the better order or polarity."""
    best = hypotheses[0]
    level, verb = ("error", "are") if sure else ("warn", "may be")
    findings = []
    if best.moved:
        text = f"{name_channels([channels[k] for k in best.moved])} {verb} swapped"
        if len(best.moved) > 2:
            order = ", ".join(str(channels[k] + 1) for k in best.order)
            text = (
                f"{name_channels([channels[k] for k in best.moved])} {verb} out of order: "
                f"rows {order} of the coordinates, in this order, fit"
            )
        equal = [h.moved for h in hypotheses[1:] if h.moved and h.signs == best.signs]
        if equal:
            names = "; ".join(name_channels([channels[k] for k in moved]) for moved in equal[:4])
            text += f" (or, with the same delays: {names})"
        findings.append(Finding(level, f"{text}; the delays then fit {gain:.2f} times as well"))
    if best.inverted:
        if sure and len(best.inverted) == 1:
            verb = "is"
        text = f"{name_channels([channels[k] for k in best.inverted])} {verb} inverted (polarity)"
        if 2 * len(best.inverted) == len(channels):
            text += " against the other half"
        findings.append(Finding(level, f"{text}; exchange the two wires or multiply by -1"))
    return findings


def _limits_of_order(inner: MicArray, channels: list[int]) -> list[Finding]:
    """What no recording of this array can show: said, so that 'ok' is not read as more."""
    findings = []
    blind = undetectable_swaps(inner)
    if blind:
        names = ", ".join(f"{channels[a] + 1}-{channels[b] + 1}" for a, b in blind[:6])
        more = " and others" if len(blind) > 6 else ""
        findings.append(
            Finding(
                "warn",
                f"this array is symmetric: exchanging channels {names}{more} would give delays that "
                "fit as well; only a sound from a known direction shows it",
            )
        )
    return findings


def _direction_finding(inner: MicArray, given: Hypothesis) -> Finding:
    """Where the sound came from, for the user to compare: the only check of left and right."""
    azimuth, elevation = given.direction
    if inner.shape == "linear":
        where = f"on the cone around the line through azimuth {azimuth:.0f} degrees"
    elif inner.shape == "planar":
        where = f"from azimuth {azimuth:.0f} degrees (or its mirror image behind the plane)"
    else:
        where = f"from azimuth {azimuth:.0f}, elevation {elevation:.0f} degrees"
    return Finding(
        "ok",
        f"the strongest sound came {where}. Was it there? One recording cannot tell an array from "
        "its mirror image: if left and right come out exchanged, the coordinates are mirrored "
        "(x and y exchanged, or channels counted clockwise)",
    )
