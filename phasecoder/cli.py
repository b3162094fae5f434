# SPDX-License-Identifier: Apache-2.0
"""The `phasecoder` command: localise a recording, look at an array, read the model card."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from spatial_core import waits
from spatial_core.command import check_new_wav, check_plot, make_parser
from spatial_core.errors import run_command

_EPILOG = """examples:
  phasecoder example room.wav --mics respeaker_4mic      # no recording yet? a simulated one
  phasecoder localize room.wav --mics respeaker_4mic
  phasecoder localize room.wav --mics my_array.json --plot room.png
  phasecoder array check my_array.json room.wav --plot array.png
  phasecoder array presets

A microphone array is a preset's name or a JSON file, one position per channel, in its order:
  {"name": "desk", "unit": "cm", "positions": [[3, 0, 0], [0, 3, 0], [-3, 0, 0], [0, -3, 0]]}
"""
_LOCALIZE = """Say where the talker is, every 160 ms and overall.

Azimuth is in degrees counter-clockwise (seen from above) from the array's +x axis: with +x to the
front, 90 is left, -90 is right and 180 is behind. Elevation is up from the horizontal."""
_LOCALIZE_EPILOG = """examples:
  phasecoder localize room.wav --mics my_array.json
  phasecoder localize room.wav --mics my_array.json --plot room.png
  phasecoder localize room.wav --mics my_array.json --context 2    # the talker stays put
  phasecoder localize room.wav --mics tetrahedron --json > room.json

First time with this array? `phasecoder array check my_array.json room.wav` finds wrong units,
swapped channels and channels that were not recorded together.
"""
_CHECK = """Check an array, and a recording made with it, before trusting a direction.

Without a recording: units, size and what the shape cannot tell apart. With one: whether the delays
between channels fit the positions (channel order, synchrony), dead, copied or inverted channels.
Exit code 1 if something is wrong."""
_CHECK_EPILOG = """examples:
  phasecoder array check my_array.json
  phasecoder array check my_array.json room.wav --plot array.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 check failed, 2 unusable input)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run_command("phasecoder", lambda: run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the documentation's flags are tested against it."""
    parser = make_parser(
        argparse.ArgumentParser,
        prog="phasecoder",
        description="From the sound at a few microphones to the direction of the talker.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_localize(commands)
    _add_example(commands)
    _add_array(commands)
    model = make_parser(commands.add_parser, "model", help="the model that ships with the package")
    verbs = model.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    card = verbs.add_parser("card", help="what it was trained on and how well it does")
    _add_model(card)
    card.set_defaults(run=_model_card)
    return parser


def _add_localize(commands: argparse._SubParsersAction) -> None:
    parser = make_parser(
        commands.add_parser,
        "localize",
        help="where the talker is in a recording",
        description=_LOCALIZE,
        epilog=_LOCALIZE_EPILOG,
    )
    parser.add_argument(
        "audio", metavar="AUDIO", help="wav, flac, ogg, mp3 or aiff; one channel each mic"
    )
    parser.add_argument(
        "--mics", required=True, metavar="ARRAY", help="preset name or JSON file of positions"
    )
    parser.add_argument("--plot", metavar="PNG", help="draw the direction over time")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--hop", type=float, default=0.16, metavar="SECONDS", help="time between estimates (0.16)"
    )
    parser.add_argument(
        "--context",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="combine the windows around each estimate, for a talker who stays put (0: none)",
    )
    parser.add_argument(
        "--every-window", action="store_true", help="one table row for each estimate"
    )
    _add_model(parser)
    parser.set_defaults(run=_localize)


def _add_example(commands: argparse._SubParsersAction) -> None:
    parser = make_parser(
        commands.add_parser,
        "example",
        help="make a recording to try the tools with",
        description="Simulate two people in a living room, one after the other, and say who is where.",
    )
    parser.add_argument("out", metavar="OUT", help="the new file, .wav")
    parser.add_argument(
        "--mics", required=True, metavar="ARRAY", help="preset name or JSON file of positions"
    )
    parser.add_argument("--seed", type=int, default=0, help="another one for each number (0)")
    parser.set_defaults(run=_example)


def _add_array(commands: argparse._SubParsersAction) -> None:
    array = make_parser(commands.add_parser, "array", help="draw and check microphone arrays")
    verbs = array.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    check = make_parser(
        verbs.add_parser,
        "check",
        help="find wrong units, swapped channels, unsynchronised channels",
        description=_CHECK,
        epilog=_CHECK_EPILOG,
    )
    check.add_argument("array", metavar="ARRAY", help="preset name or JSON file of positions")
    check.add_argument("audio", metavar="AUDIO", nargs="?", help="a recording of someone talking")
    check.add_argument("--plot", metavar="PNG", help="draw the array; faulty channels circled")
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.set_defaults(run=_array_check)
    show = verbs.add_parser("show", help="positions, size and ambiguity of an array")
    show.add_argument("array", metavar="ARRAY", help="preset name or JSON file of positions")
    show.add_argument("--plot", metavar="PNG", help="draw channel numbers, 0 degrees, positive way")
    show.set_defaults(run=_array_show)
    presets = verbs.add_parser("presets", help="the arrays that are known by name")
    presets.set_defaults(run=_array_presets)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="DIR", help="a trained checkpoint; the shipped one by default"
    )


def _localize(arguments: argparse.Namespace) -> int:
    check_plot(arguments.plot)
    waits.keep_programs()
    from phasecoder.api import localize
    from phasecoder.localization import CONVENTION

    with waits.told():
        result = localize(
            arguments.audio,
            arguments.mics,
            model=arguments.model,
            hop_seconds=arguments.hop,
            context=arguments.context,
        )
    if arguments.plot:
        result.plot(arguments.plot)
    if arguments.json:
        print(result.to_json())
        return 0
    print(result.to_table(None if arguments.every_window else 24))
    print()
    print(result.summary())
    for note in result.notes:
        print(f"Note: {note}.")
    print(f"Convention: {CONVENTION}.")
    if arguments.plot:
        print(f"Plot: {arguments.plot}")
    return 0


def _example(arguments: argparse.Namespace) -> int:
    from spatial_core.geometry.arrays import load_array

    check_new_wav(arguments.out)
    array = load_array(arguments.mics)
    with waits.told():
        waits.say("simulating a room")
        from phasecoder.example import make_example
        from spatial_core.audio.io import write_wav
        from spatial_core.data.records import SAMPLE_RATE

        example = make_example(array, arguments.seed)
    write_wav(arguments.out, example.audio, SAMPLE_RATE, subtype="PCM_16")
    seconds = example.audio.shape[1] / SAMPLE_RATE
    print(f"{arguments.out}: {seconds:.1f} s, {array.num_mics} channels of {array.name}. In truth:")
    for talk in example.talks:
        print(
            f"  {talk.start:.2f} - {talk.end:.2f} s  azimuth {talk.azimuth:+.0f}, "
            f"elevation {talk.elevation:+.0f}, {talk.distance:.1f} m"
        )
    return 0


def _array_check(arguments: argparse.Namespace) -> int:
    from phasecoder.array_check import check_array
    from spatial_core.audio.io import load_audio
    from spatial_core.geometry.arrays import load_array

    check_plot(arguments.plot)
    array = load_array(arguments.array)
    audio = load_audio(arguments.audio, sample_rate=None) if arguments.audio else None
    report = check_array(array, audio)
    if arguments.plot:
        from spatial_core.viz.array_plot import draw_array

        draw_array(array, arguments.plot, report.direction, report.suspects)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report.to_text())
        if arguments.plot:
            print(f"Plot: {arguments.plot}")
    return 0 if report.ok else 1


def _array_show(arguments: argparse.Namespace) -> int:
    from spatial_core.geometry.arrays import load_array
    from spatial_core.geometry.coords import to_spherical

    check_plot(arguments.plot)
    array = load_array(arguments.array)
    print(
        f"{array.name}: {array.num_mics} microphones, {100 * array.aperture:.1f} cm across, "
        f"{array.shape}"
    )
    print(f"{'channel':>7}  {'x':>8}  {'y':>8}  {'z':>8} (cm)  {'azimuth':>7}  {'elevation':>9}")
    for channel, position in enumerate(array.centred, 1):
        x, y, z = 100 * position
        azimuth, elevation, _ = to_spherical(position)
        print(
            f"{channel:>7}  {x:>8.2f}  {y:>8.2f}  {z:>8.2f}       "
            f"{azimuth:>7.0f}  {elevation:>9.0f}"
        )
    print("Positions and angles are about the centre of the microphones; channels count from 1.")
    if array.ambiguity() is not None:
        print(f"Note: {array.ambiguity()}")
    if arguments.plot:
        from spatial_core.viz.array_plot import draw_array

        draw_array(array, arguments.plot)
        print(f"Plot: {arguments.plot}")
    return 0


def _array_presets(arguments: argparse.Namespace) -> int:
    from spatial_core.geometry.arrays import PRESETS

    del arguments
    width = max(len(name) for name in PRESETS)
    for name, make in PRESETS.items():
        array = make()
        what = (make.__doc__ or "").split("\n")[0].rstrip(".")
        print(f"{name:<{width}}  {array.num_mics} mics, {100 * array.aperture:4.1f} cm  {what}")
    return 0


def _model_card(arguments: argparse.Namespace) -> int:
    from phasecoder.pretrained import read_card

    print(read_card(arguments.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
