# SPDX-License-Identifier: Apache-2.0
"""Published folder layouts of speech and sound collections, and who belongs to which split."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spatial_core.errors import InputError

SPLITS = ("train", "validation", "test")
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".aiff", ".aif", ".mp3"})
_LIBRISPEECH_NAME = re.compile(r"(?P<speaker>\d+)-(?P<chapter>\d+)-(?P<utterance>\d+)")
_ESC_NAME = re.compile(r"(?P<fold>\d)-(?P<source>\d+)-(?P<take>[A-Z])")
_SUBSETS = {"train": "train-", "validation": "dev-", "test": "test-"}  # LibriSpeech's own


@dataclass(frozen=True)
class Clip:
    """One file: `label` is its speaker or sound class, `group` what may not be split apart."""

    path: Path
    label: str
    group: str


def check_split(split: str) -> str:
    """Return a known split name or "all"; InputError otherwise."""
    if split not in (*SPLITS, "all"):
        raise InputError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)} or all")
    return split


def existing_folder(root: str | Path) -> Path:
    """Return the folder as a path; InputError where there is none."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the audio")
    return folder


def audio_files(folder: Path) -> list[Path]:
    """All audio files below a folder in a stable order; InputError where there are none."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise InputError(
            f"{folder}: no audio files in it; expected {', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return files


def assign_splits(
    groups: Sequence[str], fractions: tuple[float, float, float], what: str
) -> dict[str, str]:
    """Assign every group to one split: ranked by a hash of its name, cut at the fractions.

    The same folder always gives the same splits, on any machine; every split whose fraction is not
    zero gets at least one group. Raises InputError where there are too few groups for that.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-6:
        raise InputError(f"split fractions {fractions} must be three numbers >= 0 that sum to 1")
    ranked = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(ranked) < wanted:
        raise InputError(
            f"{len(ranked)} {what} cannot be divided into {wanted} splits; "
            "add more, or take them all with split='all'"
        )
    held_out = [max(1, round(len(ranked) * f)) if f > 0 else 0 for f in fractions[1:]]
    train = len(ranked) - sum(held_out)
    if fractions[0] > 0 and train < 1:
        train, held_out = 1, [1, len(ranked) - 2]
    names = ["train"] * train + ["validation"] * held_out[0] + ["test"] * held_out[1]
    return dict(zip(ranked, names, strict=True))


def select(
    clips: Sequence[Clip], split: str, fractions: tuple[float, float, float], what: str
) -> list[Clip]:
    """Keep the clips whose group belongs to the split."""
    if split == "all":
        return list(clips)
    splits = assign_splits([clip.group for clip in clips], fractions, what)
    chosen = [clip for clip in clips if splits[clip.group] == split]
    if not chosen:
        raise InputError(f"split {split!r} holds no {what} with fractions {fractions}")
    return chosen


def librispeech(root: str | Path, split: str, fractions: tuple[float, float, float]) -> list[Clip]:
    """Utterances of a folder in LibriSpeech's layout, speakers kept apart by split.

    Files are named speaker-chapter-utterance.flac at any depth (published:
    subset/speaker/chapter/). Where the folder has LibriSpeech's own train-*, dev-* and test-*
    subsets, those are the splits; otherwise speakers are divided by `fractions`.
    Source: Panayotov et al. 2015, openslr.org/12.
    """
    check_split(split)
    folder = existing_folder(root)
    clips = []
    for path in audio_files(folder):
        match = _LIBRISPEECH_NAME.fullmatch(path.stem)
        if match:
            clips.append(Clip(path, match["speaker"], match["speaker"]))
    if not clips:
        raise InputError(
            f"{folder}: not in LibriSpeech's layout; files must be named "
            "speaker-chapter-utterance.flac, such as 84-121123-0000.flac"
        )
    subsets = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    if all(any(name.startswith(p) for name in subsets) for p in _SUBSETS.values()):
        prefixes = tuple(_SUBSETS.values()) if split == "all" else (_SUBSETS[split],)
        return [c for c in clips if c.path.relative_to(folder).parts[0].startswith(prefixes)]
    return select(clips, split, fractions, "speakers")


def esc(root: str | Path, split: str) -> list[Clip]:
    """Clips of ESC-50 (meta/esc50.csv and audio/) or ESC-10 (one folder per class).

    Clips cut from one recording share a fold, so whole folds are split: the last fold is the test
    split, the one before it validation, the rest training. Source: Piczak 2015.
    """
    check_split(split)
    folder = existing_folder(root)
    folds: dict[int, list[Clip]] = {}
    table = folder / "meta" / "esc50.csv"
    if table.is_file():
        for row in _read_table(table, ("filename", "fold", "category")):
            path = folder / "audio" / row["filename"]
            if not path.is_file():
                raise InputError(f"{path}: named in {table} but missing; unpack ESC-50 again")
            folds.setdefault(int(row["fold"]), []).append(Clip(path, row["category"], path.stem))
    else:
        for path in audio_files(folder):
            match = _ESC_NAME.fullmatch(path.stem)
            if match and path.parent != folder:
                label = re.sub(r"^\d{3} - ", "", path.parent.name)  # ESC-10: "001 - Dog bark"
                folds.setdefault(int(match["fold"]), []).append(Clip(path, label, path.stem))
    if not folds:
        raise InputError(
            f"{folder}: not in ESC's layout; expected meta/esc50.csv with audio/, or class folders "
            "with files named fold-source-take.ogg, such as dog_bark/1-100032-A.ogg"
        )
    ordered = sorted(folds)
    if split == "all":
        chosen = ordered
    elif len(ordered) < 3:
        raise InputError(
            f"{folder}: {len(ordered)} fold(s) cannot be divided into three splits; "
            "take them all with split='all'"
        )
    else:
        chosen = {"train": ordered[:-2], "validation": ordered[-2:-1], "test": ordered[-1:]}[split]
    return [clip for fold in chosen for clip in folds[fold]]


def fsd50k(root: str | Path, split: str, exclude: Sequence[str] = ()) -> list[Clip]:
    """Clips of FSD50K: dev.csv's own train and val splits, and the evaluation set as test.

    Layout: FSD50K.dev_audio/, FSD50K.eval_audio/, FSD50K.ground_truth/{dev,eval}.csv.
    Clips that carry a label in `exclude` are left out. Source: Fonseca et al. 2022.
    """
    check_split(split)
    folder = existing_folder(root)
    truth = folder / "FSD50K.ground_truth"
    if not (truth / "dev.csv").is_file():
        raise InputError(
            f"{folder}: not in FSD50K's layout; expected FSD50K.ground_truth/dev.csv "
            "and FSD50K.dev_audio/"
        )
    wanted = {"train": ("train",), "validation": ("val",), "test": (), "all": ("train", "val")}
    rows = [
        (row, "FSD50K.dev_audio")
        for row in _read_table(truth / "dev.csv", ("fname", "labels", "split"))
        if row["split"] in wanted[split]
    ]
    if split == "test" or (split == "all" and (truth / "eval.csv").is_file()):
        if not (truth / "eval.csv").is_file():
            raise InputError(f"{folder}: the test split needs FSD50K.ground_truth/eval.csv")
        table = _read_table(truth / "eval.csv", ("fname", "labels"))
        rows += [(row, "FSD50K.eval_audio") for row in table]
    clips = []
    for row, audio in rows:
        labels = row["labels"].split(",")
        path = folder / audio / f"{row['fname']}.wav"
        if not path.is_file():
            raise InputError(f"{path}: named in FSD50K.ground_truth but missing; unpack it again")
        if not set(labels) & set(exclude):
            clips.append(Clip(path, labels[0], path.stem))
    if not clips:
        raise InputError(f"{folder}: split {split!r} holds no clips once {exclude} are left out")
    return clips


def flat(root: str | Path, split: str, fractions: tuple[float, float, float]) -> list[Clip]:
    """Any folder of audio files, divided by file; a file's class is the folder that it lies in."""
    check_split(split)
    folder = existing_folder(root)
    clips = []
    for path in audio_files(folder):
        label = path.parent.name if path.parent != folder else "sound"
        clips.append(Clip(path, label, path.relative_to(folder).as_posix()))
    return select(clips, split, fractions, "files")


def detect_noise_layout(root: str | Path) -> str:
    """Name the layout of a folder of sounds: "fsd50k", "esc" or "flat"."""
    folder = existing_folder(root)
    if (folder / "FSD50K.ground_truth").is_dir() or (folder / "FSD50K.dev_audio").is_dir():
        return "fsd50k"
    if (folder / "meta" / "esc50.csv").is_file():
        return "esc"
    files = audio_files(folder)
    named = sum(bool(_ESC_NAME.fullmatch(path.stem)) and path.parent != folder for path in files)
    return "esc" if named == len(files) else "flat"


def _read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: has no column {', '.join(missing)}; is it the right table?")
        return list(reader)
