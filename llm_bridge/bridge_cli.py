# SPDX-License-Identifier: Apache-2.0
"""The `spatial-bridge` command: a trained bridge into a release, and adapters into other forms."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spatial_core.errors import InputError, run_command

_EPILOG = """examples:
  spatial-bridge release runs/bridge_tiny my-bridge --card results.md
  spatial-bridge merge my-bridge merged-bridge
  spatial-bridge export-peft my-bridge peft-folder
  spatial-bridge import-peft peft-folder my-bridge other-bridge
  spatial-ask room.wav --mics my_array.json --model my-bridge "Where is the voice?"

BRIDGE is the folder of a training run or of a release, or the name of a bridge that ships. Adapters are
low-rank matrices (LoRA) beside those of the language model.
Exit codes: 0 done, 2 the input cannot be used, 130 stopped by Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 unusable input, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], Path] = arguments.run

    def command() -> int:
        if Path(arguments.out).exists() and any(Path(arguments.out).iterdir()):
            raise InputError(f"{arguments.out} is not empty: name a new folder")
        print(f"written: {run(arguments)}")
        return 0

    return run_command("spatial-bridge", command)


def build_parser() -> argparse.ArgumentParser:
    """The command line; the documentation's commands are tested against it."""
    parser = argparse.ArgumentParser(
        prog="spatial-bridge",
        description="A trained bridge into a release; its adapters merged, or exchanged with peft.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    release = commands.add_parser("release", help="a training run as a folder that can be copied")
    release.add_argument("bridge", metavar="RUN", help="folder of a training run")
    release.add_argument(
        "--card", metavar="FILE", help="Markdown that ends the card: results, licences"
    )
    release.add_argument(
        "--half",
        action="store_true",
        help="bfloat16 for float32: half as large, 8 significant bits",
    )
    release.set_defaults(run=_release)
    merge = commands.add_parser("merge", help="fold the adapters into the language model")
    _add_bridge(merge)
    merge.add_argument(
        "--weights", metavar="DIR", help="the base model's weights, if they are yours to bring"
    )
    merge.set_defaults(run=_merge)
    outward = commands.add_parser("export-peft", help="the adapters as a folder of peft")
    _add_bridge(outward)
    outward.set_defaults(run=_export)
    inward = commands.add_parser("import-peft", help="a bridge with the adapters of a peft folder")
    inward.add_argument("adapter", metavar="PEFT", help="folder that save_pretrained wrote")
    _add_bridge(inward)
    inward.add_argument(
        "--targets", metavar="REGEX", help="linear maps that PEFT adapts; default: the bridge's"
    )
    inward.set_defaults(run=_import)
    for command in (release, merge, outward, inward):
        command.add_argument("out", metavar="OUT", help="new folder")
        command.add_argument(
            "--which", metavar="STEP", help='checkpoint of a run: a step, "best" or "latest"'
        )
    return parser


def _add_bridge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bridge", metavar="BRIDGE", help="folder of a run or of a release")


def _which(arguments: argparse.Namespace) -> str | int | None:
    given: str | None = arguments.which
    return int(given) if given is not None and given.isdecimal() else given


def _release(arguments: argparse.Namespace) -> Path:
    from llm_bridge.adapters import release_run
    from llm_bridge.trained import best_or_latest

    run = Path(arguments.bridge)
    results = Path(arguments.card).read_text(encoding="utf-8") if arguments.card else ""
    return release_run(
        run,
        arguments.out,
        _which(arguments) or best_or_latest(run),
        results=results,
        half=arguments.half,
    )


def _merge(arguments: argparse.Namespace) -> Path:
    from llm_bridge.exchange import merge_bridge

    return merge_bridge(arguments.bridge, arguments.out, _which(arguments), arguments.weights)


def _export(arguments: argparse.Namespace) -> Path:
    from llm_bridge.exchange import export_peft

    return export_peft(arguments.bridge, arguments.out, _which(arguments))


def _import(arguments: argparse.Namespace) -> Path:
    from llm_bridge.exchange import import_peft

    return import_peft(
        arguments.adapter, arguments.bridge, arguments.out, _which(arguments), arguments.targets
    )


if __name__ == "__main__":
    sys.exit(main())
