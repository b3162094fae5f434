# SPDX-License-Identifier: Apache-2.0
"""The `spatial-ask` command: a question about a recording, and the answer in words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spatial_core import waits
from spatial_core.errors import InputError, run_command

if TYPE_CHECKING:
    from llm_bridge.api import Answer, BridgeModel, Heard
    from llm_bridge.sound import Sound

_DESCRIPTION = """Ask about a recording of a microphone array in plain words.

You stand at the centre of the array and look along its +y axis: +x is right, -x left. In answers
azimuth 0 is right, 90 in front, 180 left and 270 behind you."""
_EPILOG = """what can be asked:
  where somebody is           "Where are they all standing?"
  yes or no                   "Is somebody talking to the left of me?"
                              "Is the voice I hear first at the smaller range?"
  who says what, and where    "Who says what, and from where?"
  the words of one talker     "What does the one on my left say?"

examples:
  spatial-ask room.wav --mics respeaker_4mic "Where is the voice?"
  spatial-ask room.wav --mics my_array.json "Who is on my left, and what do they say?"
  spatial-ask meeting.wav --mics my_array.json --start 60 --seconds 20 "Who says what, and from where?"
  spatial-ask room.wav --mics my_array.json < questions.txt          # one question a line

The answer is told in words; --json has the model's own text and the values.
Which of the four kinds a question is, is guessed from its words; --task says it outright. At most 30 s
are heard at once: choose them with --start and --seconds. Where the talkers are, without a language
model and every 160 ms: `phasecoder localize`.
Exit codes: 0 done, 2 the input cannot be used, 130 stopped by Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer; returns the exit code (0 done, 2 unusable input, 130 interrupted)."""
    arguments = build_parser().parse_intermixed_args(argv)
    return run_command("spatial-ask", lambda: _run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The command line; the documentation's flags are tested against it."""
    parser = argparse.ArgumentParser(
        prog="spatial-ask",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "audio", metavar="AUDIO", help="wav, flac, ogg, mp3 or aiff; one channel each mic"
    )
    parser.add_argument(
        "question", metavar="QUESTION", nargs="?", help="left out: questions are read line by line"
    )
    parser.add_argument(
        "--mics", required=True, metavar="ARRAY", help="preset name or JSON file of positions"
    )
    parser.add_argument(
        "--model", metavar="DIR", help="a trained bridge: a run or a release; default: the shipped"
    )
    parser.add_argument(
        "--encoder",
        metavar="DIR",
        help="the encoder it was trained with; default: the one of those that ship",
    )
    parser.add_argument(
        "--weights",
        metavar="DIR",
        help="the base model's weights, if they are yours to bring (or $LLM_BRIDGE_WEIGHTS)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="its tokenizer, if not in that folder (or $LLM_BRIDGE_TOKENIZER)",
    )
    parser.add_argument(
        "--task",
        type=int,
        choices=(1, 2, 3, 4),
        help="1 where, 2 yes or no, 3 who says what and where, 4 the words of one talker",
    )
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="begin there")
    parser.add_argument("--seconds", type=float, metavar="SECONDS", help="hear so much, up to 30")
    parser.add_argument(
        "--max-new", type=int, default=160, metavar="IDS", help="length of the answer (160)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead of text, a line each for several questions",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    # What is wrong is said before the models are loaded, which takes a while.
    sound = _checked(arguments)
    waits.keep_programs()
    with waits.told():
        waits.say("loading the language model")
        from llm_bridge.api import load_model

        model = load_model(
            arguments.model, arguments.encoder, arguments.weights, arguments.tokenizer
        )
        heard = model.hear(sound)
        answers = [
            _answer(model, heard, question, arguments)
            for question in _questions(arguments.question, arguments.json)
        ]
    if not arguments.json:
        _print_notes(heard, answers)
    return 0


def _print_notes(heard: Heard, answers: Sequence[Answer]) -> None:
    """What to know of the recording and of the answers, and the angles' convention if there are any."""
    from llm_bridge.spoken import CONVENTION

    notes = [*heard.notes, *(note for answer in answers for note in answer.notes)]
    for note in dict.fromkeys(notes):
        print(f"Note: {note}.")
    if any(talker.azimuth is not None for answer in answers for talker in answer.talkers):
        print(f"Convention: {CONVENTION}.")


def _checked(arguments: argparse.Namespace) -> Sound:
    """The recording; InputError for any argument that cannot be used."""
    from llm_bridge.routing import check_task

    if arguments.question is not None:
        check_task(arguments.task, arguments.question)
    if arguments.max_new < 1:
        raise InputError(f"--max-new {arguments.max_new}: give at least 1")
    for flag, path in (("--weights", arguments.weights), ("--tokenizer", arguments.tokenizer)):
        if path is not None and not Path(path).exists():
            raise InputError(f"{flag} {path}: there is nothing")
    from llm_bridge.shipped import SHIPPED
    from llm_bridge.sound import read_sound
    from phasecoder.pretrained import SHIPPED as ENCODERS

    SHIPPED.resolve(arguments.model)
    ENCODERS.resolve(arguments.encoder)
    return read_sound(
        arguments.audio, arguments.mics, start=arguments.start, seconds=arguments.seconds
    )


def _answer(
    model: BridgeModel, heard: Heard, question: str, arguments: argparse.Namespace
) -> Answer:
    """Prints one answer in words, the model's own text where it says no place."""
    text = "".join(model.stream(heard, question, arguments.task, arguments.max_new))
    answer = model.answer(heard, question, text, arguments.task)
    if arguments.json:
        print(answer.to_json(2 if arguments.question is not None else None), flush=True)
        return answer
    for line in (answer.explain() or answer.text).splitlines():
        print(line, flush=True)
    for problem in answer.problems:
        print(f"  Unclear: {problem}.", flush=True)
    return answer


def _questions(given: str | None, as_json: bool) -> Iterator[str]:
    """The one of the command line, else those of standard input."""
    if given is not None:
        yield given
        return
    asked = sys.stdin.isatty()
    while True:
        if asked:
            print("? ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            if not (asked or as_json):  # answers among answers, and nobody sees what was typed
                print(f"> {line.strip()}", flush=True)
            yield line.strip()


if __name__ == "__main__":
    sys.exit(main())
