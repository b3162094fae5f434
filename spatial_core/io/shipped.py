# SPDX-License-Identifier: Apache-2.0
"""Which folder a trained model's name means: known before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatial_core.errors import InputError


@dataclass(frozen=True)
class Shipped:
    """The trained models inside a package.

    folder: holds a folder for each, by its name. config: a file that each has. what: is shipped, for
    messages ("bridge"). default: the one that is meant if nobody says. missing: what to do without any.
    """

    folder: Path
    config: str
    what: str
    default: str
    missing: str = "give the folder of a trained one"

    def models(self) -> dict[str, Path]:
        """Their folders, by name."""
        found = sorted(self.folder.glob(f"*/{self.config}"))
        return {path.parent.name: path.parent for path in found}

    def resolve(self, model: str | Path | None) -> Path:
        """The folder that is meant: by a path, by the name of a shipped model, or by None, the default.

        InputError if there is none.
        """
        known = self.models()
        if model is None:
            if not known:
                raise InputError(f"no {self.what} ships with this installation: {self.missing}")
            return known.get(self.default) or next(iter(known.values()))
        if str(model) in known:
            return known[str(model)]
        path = Path(model)
        if not path.is_dir():
            names = ", ".join(known) or "none in this installation"
            raise InputError(
                f"model {str(model)!r} is neither a folder nor a shipped {self.what} ({names})"
            )
        return path
