"""Dataset directories: read and write conversations, in a file for each split."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import FORMAT, new_directory, sha256_of, write_atomic, write_json
from ..user_files import read_text
from .containers import SUFFIXES
from .formats import Reader, parse_example, read_rows, stem_of
from .hub import hub_hash, is_hub, parse_hub, split_names
from .import_report import ImportReport
from .jsonl import read_jsonl
from .schema import MOST_WEIGHT, ROLES, SPLITS, Example, Span, is_number, is_text, parse_spans

__all__ = [
    "CARD",
    "HELD_OUT",
    "MOST_WEIGHT",
    "ROLES",
    "SPLITS",
    "Example",
    "Span",
    "data_hash",
    "dataset_files",
    "dataset_hashes",
    "is_number",
    "is_text",
    "parse_example",
    "parse_spans",
    "read_card",
    "read_examples",
    "read_jsonl",
    "read_split",
    "read_trainable",
    "split_file",
    "split_files",
    "split_of",
    "write_dataset",
]

NO_VALIDATION = (
    "There are no validation rows: training on this has no validation loss to stop early or keep the best step by."
)
CARD = "card.json"
# Names, or last parts of names, of files that hold evaluation rows.
HELD_OUT = {
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "eval", "evaluation", "heldout", "holdout"), "test"),
}
# Names of a split's file in a dataset directory, and of a split of the Hub.
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
# A directory without a train split is read as loose files of these kinds; JSON is too often something else.
_LOOSE = tuple(suffix for suffix in SUFFIXES if suffix != ".json")


def split_files(path: str | Path) -> list[tuple[str, Path]]:
    """Return (split, file) of all files in a dataset: train, then valid, then test.

    A dataset is a directory with a file for each split (``train.jsonl``, ``valid.csv``, ``test.parquet.gz``); a
    directory of other files, each of the split that its name states (:func:`split_of`); a single file; or
    ``hf:OWNER/NAME[/CONFIG][:SPLIT]``.

    Raises:
        UserError: there is no dataset, or two files of one split.
    """
    path = Path(path)
    if is_hub(path):
        return _hub_splits(path)
    if not path.is_dir():
        return [(split_of(path), path)]
    files = sorted(file for file in path.iterdir() if _has_suffix(file, SUFFIXES))
    found: dict[str, Path] = {}
    for file in files:
        split = SPLIT_NAMES.get(stem_of(file))
        if split is not None and split in found:
            raise UserError(
                f"{path}: {found[split].name} and {file.name} are both its {split} split; remove one of them"
            )
        if split is not None:
            found[split] = file
    if "train" not in found:
        loose = [(split_of(file), file) for file in files if _has_suffix(file, _LOOSE)]
        if not loose:
            raise UserError(
                f"{path}: there is no data file in this directory; give a dataset directory (train.jsonl, or .json, "
                ".csv, .tsv, .parquet), or the files"
            )
        return loose
    return [(split, found[split]) for split in SPLITS if split in found]


def _has_suffix(file: Path, suffixes: tuple[str, ...]) -> bool:
    return file.name.removesuffix(".gz").endswith(suffixes) and not file.name.startswith(".")


def _hub_splits(path: Path) -> list[tuple[str, Path]]:
    spec = parse_hub(path)
    names = [spec.split] if spec.split else split_names(path)
    if not names:
        return [("train", path)]
    found = [(split_of(spec.with_split(name)), spec.with_split(name)) for name in names]
    known = [
        (split, file) for (split, file), name in zip(found, names, strict=True) if spec.split or name in SPLIT_NAMES
    ]
    if not any(split == "train" for split, _ in known) and not spec.split:
        raise UserError(f"{path}: this dataset has the splits {', '.join(names)} and no train; name one: {path}:SPLIT")
    return sorted(known, key=lambda pair: SPLITS.index(pair[0]))


def split_of(file: str | Path) -> str:
    """Return train, valid or test by the last word of a file's name (``claims_dev.jsonl``), or of a split's name."""
    name = parse_hub(file).split if is_hub(file) else stem_of(file)
    words = re.split(r"[^a-z]+", (name or "").partition("[")[0].lower())
    return HELD_OUT.get(words[-1]) or (HELD_OUT.get(words[0], "train") if is_hub(file) else "train")


def split_file(directory: str | Path, split: str) -> Path:
    """Return the (first) file that a split is read from, or ``DIR/SPLIT.jsonl`` where there is none."""
    return next((file for name, file in split_files(directory) if name == split), Path(directory) / f"{split}.jsonl")


def read_examples(path: str | Path, read: Reader = read_rows) -> list[Example]:
    """Return all examples of one file.

    Raises:
        UserError: the first row that cannot be trained on, with its place.
    """
    examples = []
    for row in read(Path(path)):
        if row.refusal:
            raise UserError(row.refusal)
        examples.append(row.example())
    return examples


def read_split(directory: str | Path, split: str, read: Reader = read_rows) -> list[Example]:
    """Return the examples of one split of a dataset; an absent valid or test split is empty.

    Args:
        read: reads the rows of a file, see :func:`~mlx_lora.data.formats.remembering`.

    Raises:
        UserError: no such dataset, no train split or an empty one, or a row that cannot be trained on.
    """
    if not is_hub(directory) and not Path(directory).exists():
        raise UserError(f"{directory}: there is no such dataset directory; make one with `mlx-lora data`")
    files = [file for name, file in split_files(directory) if name == split]
    examples = [example for file in files for example in read_examples(file, read)]
    if split == "train" and not files:
        raise UserError(f"{directory}: all of it is held out by its name, so there is nothing to train on")
    if split == "train" and not examples:
        raise UserError(f"{files[0]}: the file is empty, so there is nothing to train on")
    return examples


def read_trainable(directory: str | Path, read: Reader = read_rows) -> list[Example]:
    """Return the examples of the train split whose weight is above 0.

    Raises:
        UserError: there is none; or see :func:`read_split`.
    """
    examples = [example for example in read_split(directory, "train", read) if example.weight > 0]
    if not examples:
        file = split_file(directory, "train")
        raise UserError(f"{file}: every example has the weight 0, so there is nothing to train on")
    return examples


def dataset_files(directory: str | Path) -> dict[str, Path]:
    """Return the file of each split, by the split's name; of several loose files of one split, by theirs as well."""
    files: dict[str, Path] = {}
    for split, file in split_files(directory):
        files[split if split not in files else f"{split} {file.name}"] = file
    return files


def data_hash(file: Path) -> str:
    """Return the sha256 of a file's bytes, or of the rows of a dataset of the Hub."""
    return hub_hash(file) if is_hub(file) else sha256_of(file)


def dataset_hashes(directory: str | Path) -> dict[str, str]:
    """Return the sha256 of each split's file, by the names of :func:`dataset_files`."""
    return {split: data_hash(file) for split, file in dataset_files(directory).items()}


def write_dataset(
    out: str | Path,
    splits: Mapping[str, Sequence[Example]],
    card: Mapping[str, Any],
    report: ImportReport | None = None,
) -> dict[str, Any]:
    """Write a new dataset directory with a ``card.json`` that describes it, and return the card.

    Args:
        report: the import report; written next to the data as ``report.json`` and ``report.md``.

    Raises:
        UserError: the directory exists, or cannot be written; nothing is left half-written.
    """
    if report is not None and not splits.get("valid"):
        report.notes.append(NO_VALIDATION)
    with new_directory(out) as directory:
        for split in SPLITS:
            with open(directory / f"{split}.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(e.to_dict(), ensure_ascii=False) + "\n" for e in splits.get(split, ()))
        full = {
            "format": FORMAT,
            **card,
            "splits": {split: len(splits.get(split, ())) for split in SPLITS},
            "sha256": dataset_hashes(directory),
        }
        write_json(directory / CARD, full)
        if report is not None:
            write_json(directory / "report.json", report.to_dict(every=True))
            write_atomic(directory / "report.md", report.to_markdown())
    return full


def read_card(directory: Path) -> dict[str, Any]:
    """Return the card of a dataset directory; empty where there is none, or it cannot be read."""
    try:
        card = json.loads(read_text(directory / CARD))
    except (OSError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}
