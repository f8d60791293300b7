"""View of one example of a dataset: the tokens and weights that a model sees."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import UserError
from .dataset import read_card, split_files
from .formats import DataRow, read_rows
from .tokenize import EncodedExample, Segment, encode_example, segments


@dataclass
class ExampleView:
    """Row of a dataset, encoded with the tokenizer of a base."""

    row: DataRow
    split: str
    base: str
    example: EncodedExample
    segments: list[Segment]

    @property
    def learned(self) -> int:
        """Number of supervised tokens."""
        return int(self.example.supervised.sum())

    @property
    def usual_weight(self) -> float:
        """Least weight of a supervised token."""
        return min((part.weight for part in self.segments if part.supervised), default=0.0)

    @property
    def legend(self) -> str:
        """Meaning of the sign ×, where parts of the example weigh more than others."""
        if all(part.weight <= self.usual_weight for part in self.segments):
            return ""
        return f"×: what this part's loss is multiplied by; ×{self.usual_weight:.3g} where nothing is said"

    def head(self) -> list[str]:
        """Return the place, the length and the weight, a sentence each."""
        cut = f", {self.example.truncated} of the prompt left out" if self.example.truncated else ""
        return [
            f"{self.row.where} ({self.split}), as {self.base} sees it",
            f"{len(self.example)} tokens, {self.learned} of them learned{cut}; "
            f"the example's weight is {self.row.weight:g}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the view as ``data show --json`` prints it."""
        return {
            "file": self.row.file,
            "line": self.row.line,
            "split": self.split,
            "base": self.base,
            "tokens": len(self.example),
            "supervised_tokens": self.learned,
            "cut": self.example.truncated,
            "weight": self.example.weight,
            "segments": [asdict(part) for part in self.segments],
        }


def view_example(split: str, row: DataRow, base: str, tokenizer: Any, max_seq_length: int) -> ExampleView:
    """Encode a row with the tokenizer of ``base``.

    Raises:
        UserError: the row cannot be encoded, with its place.
    """
    try:
        example = encode_example(tokenizer, row.example(), max_seq_length)
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error
    return ExampleView(row, split, base, example, list(segments(tokenizer, example)))


def find_row(path: Path, number: int, split: str | None) -> tuple[str, DataRow]:
    """Return the Nth row of a split, rows that training refuses included, and its split.

    Raises:
        UserError: there are fewer rows, or training refuses the row, in the same sentence.
    """
    files = split_files(path)
    split = split or ("train" if len(files) > 1 else None)
    chosen = [(name, file) for name, file in files if split in (None, name)]
    rows = chain.from_iterable(((name, row) for row in read_rows(file)) for name, file in chosen)
    found = 0
    for found, (name, row) in enumerate(rows, 1):
        if found == number:
            if row.refusal:
                raise UserError(row.refusal)
            return name, row
    of = f" of the split {split}" if split else ""
    raise UserError(f"{path}: there are {found} examples{of}, so there is no example {number}")


def card_base(path: Path) -> str | None:
    """Return the model that the dataset's card names, or None."""
    card = read_card(path)
    return next((card[key] for key in ("base", "base_model", "model_name") if isinstance(card.get(key), str)), None)
