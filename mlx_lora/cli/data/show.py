"""``mlx-lora data show``: an example as the model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import visible
from ..options import json_option
from ..output import print_json

if TYPE_CHECKING:
    from ...data.example_view import ExampleView

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
    from ...data.example_view import card_base, find_row, view_example
    from ...models.tokenizer import load_tokenizer

    split, row = find_row(path, number, split)
    base = base or card_base(path) or DEFAULT_BASE
    view = view_example(split, row, base, load_tokenizer(base, **template), max_seq_length)
    if as_json:
        print_json({"path": str(path), "example": number, **view.to_dict()})
    else:
        _print(view)


def _print(view: ExampleView) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in view.head():
        console.print(Text(visible(line)))
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
