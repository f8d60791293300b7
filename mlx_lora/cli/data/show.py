"""``mlx-lora data show``: an example as the model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import visible
from ..output import json_option, print_json

if TYPE_CHECKING:
<<<<<<< HEAD
    from ...data.formats import DataRow
    from ...data.tokenize import EncodedExample, Segment
=======
    from ...data.segments import ExampleView
>>>>>>> sources

DEFAULT_BASE = "builtin/tiny-lumen"


@click.command()
@click.argument("path", metavar="DIR|FILE", type=click.Path(path_type=Path))
@click.argument("number", metavar="[N]", type=click.IntRange(1), default=1)
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="[default: train, or the file's own]")
@click.option("--base", metavar="MODEL", help=f"Whose tokenizer and template; the card's model, or {DEFAULT_BASE}.")
@click.option("--chat-template", metavar="chatml|FILE", help="A chat template instead of the base's own.")
@click.option("--max-seq-length", type=click.IntRange(8), default=512, show_default=True, help="Tokens.")
@json_option
def show(
    path: Path, number: int, split: str | None, base: str | None, max_seq_length: int, as_json: bool, **template: str
) -> None:
    """Show the Nth example (counted from 1) in the base model's template: what is learned in colour, weights, length.

    \b
    mlx-lora data show data/eisv
    mlx-lora data show data/eisv 3 --base Qwen/Qwen2.5-0.5B-Instruct
    """
<<<<<<< HEAD
    from ...data.tokenize import encode_example, segments
=======
    from ...data.segments import card_base, find_row, view_example
>>>>>>> sources
    from ...models.tokenizer import load_tokenizer

    split, row = find_row(path, number, split)
    base = base or card_base(path) or DEFAULT_BASE
    view = view_example(split, row, base, load_tokenizer(base, **template), max_seq_length)
    if as_json:
        print_json({"path": str(path), "example": number, **view.to_dict()})
    else:
        _print(view)


<<<<<<< HEAD
def find_row(path: Path, number: int, split: str | None) -> tuple[str, DataRow]:
    """Return the Nth row of a split, rows that training refuses included, and its split.

    Raises:
        UserError: there are fewer rows, or training refuses the row, in the same sentence.
    """
    from itertools import chain

    from ...data.dataset import split_files
    from ...data.formats import read_rows

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


def _card_base(path: Path) -> str | None:
    """Return the model that the dataset's card names, or None."""
    try:
        card = json.loads(read_text(path / "card.json"))
        return next((card[key] for key in ("base", "base_model", "model_name") if isinstance(card.get(key), str)), None)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _facts(row: DataRow, split: str, base: str, example: EncodedExample, parts: list[Segment]) -> dict[str, Any]:
    return {
        "file": row.file,
        "line": row.line,
        "split": split,
        "base": base,
        "tokens": len(example),
        "supervised_tokens": int(example.supervised.sum()),
        "cut": example.truncated,
        "weight": example.weight,
        "segments": [asdict(part) for part in parts],
    }


def _print(row: DataRow, split: str, base: str, example: EncodedExample, parts: list[Segment]) -> None:
=======
def _print(view: ExampleView) -> None:
>>>>>>> sources
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
<<<<<<< HEAD
    learned = int(example.supervised.sum())
    cut = f", {example.truncated} of the prompt left out" if example.truncated else ""
    console.print(Text(visible(f"{row.where} ({split}), as {base} sees it")))
    console.print(
        Text(f"{len(example)} tokens, {learned} of them learned{cut}; the example's weight is {row.weight:g}")
    )
=======
    for line in view.head():
        console.print(Text(visible(line)))
>>>>>>> sources
    text = Text()
    for part in view.segments:
        # Without colours, brackets mark the same.
        before, after = ("", "") if console.is_terminal or not part.supervised else ("⟦", "⟧")
        heavier = part.supervised and part.weight > view.usual_weight
        style = "bold yellow" if heavier else "bold green" if part.supervised else "dim"
        text.append(before + visible(part.text) + after, style)
        if heavier:
            text.append(f"×{part.weight:.3g}", "yellow")
    console.print(text)
    if view.legend:
        console.print(Text(view.legend))
