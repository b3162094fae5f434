# SPDX-License-Identifier: Apache-2.0
"""The `sciphi` command: describe a scene, convert Ambisonic files, read and release models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spatial_core import waits
from spatial_core.command import check_new_wav, check_plot, make_parser
from spatial_core.errors import InputError, run_command

_DESCRIPTION = "From a first-order Ambisonic recording to what sounds where, and in what room."
_FORMATS = """what the four channels are must be said, it is never guessed:
  --order ACN --norm SN3D     AmbiX, what most recorders, plug-ins and data sets write: W, Y, Z, X
  --order FuMa --norm FuMa    older B-format: W, X, Y, Z, with W 3 dB down
  --order ACN --norm N3D      ACN with the gains of full normalisation
  --a-format ambeo            the four capsules of a tetrahedral microphone, not yet B-format:
                              front left up, front right down, back left down, back right up
"""
_EPILOG = f"""examples:
  sciphi example scene.wav                               # no recording yet? a simulated one
  sciphi describe scene.wav --order ACN --norm SN3D --plot scene.png
  sciphi describe raw.wav --a-format ambeo --json
  sciphi convert old.wav new.wav --from FuMa --to ACN/SN3D
  sciphi model card
  sciphi model release runs/sciphi_tiny my-describer --card results.md

{_FORMATS}"""
_DESCRIBE = """Say what sounds in a recording: each source's label, time, direction, distance and loudness,
the room's size and reverberation, and the sound in the background.

Directions are seen from the microphone; its front is +x of the Ambisonic channels. Azimuth is in
degrees counter-clockwise from there: 90 is left, -90 right, 180 behind; elevation is up."""
_DESCRIBE_EPILOG = f"""{_FORMATS}
Any length and sample rate: a long recording is heard in windows, and a sound that goes on from one to
the next is told once; --every-window shows what was said of each.

examples:
  sciphi describe scene.wav --order ACN --norm SN3D --plot scene.png
  sciphi describe meeting.flac --order ACN --norm SN3D --start 60 --seconds 30 --hop 5
  sciphi describe raw.wav --a-format ambeo --json > scene.json

Exit codes: 0 done, 2 the input cannot be used, 130 stopped by Ctrl-C.
"""
_CONVERT = (
    """Write an Ambisonic file again in another order and normalisation, or capsules as B-format."""
)
_CONVERT_EPILOG = """formats:
  ACN/SN3D (or AmbiX), ACN/N3D, FuMa/FuMa (or FuMa); --from also: ambeo (A-format)

examples:
  sciphi convert old.wav new.wav --from FuMa --to ACN/SN3D
  sciphi convert raw.wav bformat.wav --from ambeo --to AmbiX

The new file has the rate and the length of the old one; .wav holds 32-bit floats, .flac 24 bits.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 unusable input, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run_command("sciphi", lambda: run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the documentation's flags are tested against it."""
    parser = make_parser(
        argparse.ArgumentParser, prog="sciphi", description=_DESCRIPTION, epilog=_EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_describe(commands)
    _add_example(commands)
    _add_convert(commands)
    model = make_parser(
        commands.add_parser, "model", help="what ships with the package; releases of your own"
    )
    verbs = model.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    card = verbs.add_parser("card", help="what it was trained on and how well it does")
    _add_model(card)
    card.set_defaults(run=_model_card)
    release = verbs.add_parser("release", help="a training run as a folder that can be copied")
    release.add_argument("run_folder", metavar="RUN", help="folder of a training run")
    release.add_argument("out", metavar="OUT", help="new folder")
    release.add_argument("--card", metavar="FILE", help="Markdown of the card: results, licences")
    release.add_argument(
        "--half",
        action="store_true",
        help="bfloat16 for float32: half as large, 8 significant bits",
    )
    release.set_defaults(run=_model_release)
    return parser


def _add_describe(commands: argparse._SubParsersAction) -> None:
    parser = make_parser(
        commands.add_parser,
        "describe",
        help="what sounds where in a recording",
        description=_DESCRIBE,
        epilog=_DESCRIBE_EPILOG,
    )
    parser.add_argument("audio", metavar="AUDIO", help="wav, flac, ogg, mp3 or aiff of 4 channels")
    parser.add_argument("--order", metavar="ORDER", help="of the channels: ACN or FuMa")
    parser.add_argument("--norm", metavar="NORM", help="their gains: SN3D, N3D or FuMa")
    parser.add_argument(
        "--a-format", metavar="MIC", help="the channels are capsules: ambeo; instead of the two"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--plot", metavar="PNG", help="draw the scene from above and over time")
    parser.add_argument(
        "--every-window", action="store_true", help="print what was said of each window"
    )
    parser.add_argument(
        "--hop", type=float, metavar="SECONDS", help="between windows; their length by default"
    )
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="begin there")
    parser.add_argument("--seconds", type=float, metavar="SECONDS", help="hear so much")
    _add_model(parser)
    parser.add_argument(
        "--weights",
        metavar="DIR",
        help="the base model's weights, if they are yours to bring (or $LLM_BRIDGE_WEIGHTS)",
    )
    parser.set_defaults(run=_describe)


def _add_example(commands: argparse._SubParsersAction) -> None:
    parser = make_parser(
        commands.add_parser,
        "example",
        help="make a scene to try describe with",
        description="Simulate 5 s of up to three sources in a room, AmbiX at 24 kHz, and say what is there.",
    )
    parser.add_argument("out", metavar="OUT", help="the new file, .wav")
    parser.add_argument("--seed", type=int, default=0, help="another one for each number (0)")
    parser.set_defaults(run=_example)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = make_parser(
        commands.add_parser,
        "convert",
        help="another channel order and normalisation; A-format to B-format",
        description=_CONVERT,
        epilog=_CONVERT_EPILOG,
    )
    parser.add_argument("source", metavar="IN", help="wav, flac, ogg, mp3 or aiff of 4 channels")
    parser.add_argument("target", metavar="OUT", help="the new file, .wav or .flac")
    parser.add_argument("--from", dest="was", required=True, metavar="FORMAT", help="what IN is")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="what OUT is to be")
    parser.set_defaults(run=_convert)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="DIR", help="a trained model: a run or a release; default: the shipped"
    )


def _describe(arguments: argparse.Namespace) -> int:
    check_plot(arguments.plot)
    waits.keep_programs()
    from sciphi.api import describe
    from sciphi.result import CONVENTION

    with waits.told():
        result = describe(
            arguments.audio,
            arguments.order,
            arguments.norm,
            a_format=arguments.a_format,
            model=arguments.model,
            hop=arguments.hop,
            start=arguments.start,
            seconds=arguments.seconds,
            weights=arguments.weights,
        )
    if arguments.plot:
        result.plot(arguments.plot)
    if arguments.json:
        print(result.to_json())
        return 0
    print(result.to_text(arguments.every_window))
    print()
    for problem in result.problems:
        print(f"Unclear: {problem}.")
    for note in result.notes:
        print(f"Note: {note}.")
    print(f"Convention: {CONVENTION}.")
    if arguments.plot:
        print(f"Plot: {arguments.plot}")
    return 0


def _example(arguments: argparse.Namespace) -> int:
    check_new_wav(arguments.out)
    with waits.told():
        waits.say("simulating a scene")
        from sciphi.example import make_example
        from sciphi.records import FOA_RATE
        from sciphi.result import description_lines
        from sciphi.schema import describe_truth
        from spatial_core.audio.io import write_wav

        scene = make_example(arguments.seed)
    write_wav(arguments.out, scene.foa, FOA_RATE)
    print(
        f"{arguments.out}: {scene.seconds:.1f} s, 4 channels (--order ACN --norm SN3D). In truth:"
    )
    truth = describe_truth(scene.truth, order="onset")
    print("\n".join(description_lines(truth, truth.sources)))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from sciphi.convert import convert_file

    done = convert_file(arguments.source, arguments.target, arguments.was, arguments.to)
    print(
        f"{done.path}: {arguments.to}, {done.seconds:.2f} s at {done.rate} Hz, peak {done.peak:.3f}"
    )
    return 0


def _model_card(arguments: argparse.Namespace) -> int:
    from sciphi.shipped import RELEASE, SHIPPED
    from spatial_core.io import export

    folder = SHIPPED.resolve(arguments.model)
    if not (folder / RELEASE.config).is_file():
        raise InputError(f"{folder} has no card: only released models do")
    print(export.read_release(folder, RELEASE).card)
    return 0


def _model_release(arguments: argparse.Namespace) -> int:
    from sciphi.trained import release_describer

    out = Path(arguments.out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: name a new folder")
    results = Path(arguments.card).read_text(encoding="utf-8") if arguments.card else ""
    written = release_describer(arguments.run_folder, out, results, half=arguments.half)
    print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
