"""``mlx-lora data instructions``: instruction files."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from .summary import print_dataset


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory to make; it must not exist.")
@click.option("--plan", metavar="FILE|NAME", help="Rows each bucket should have: YAML, JSON, or coder.")
@click.option("--leave-out", multiple=True, metavar="BUCKET", help="A task_type not to import; may be repeated.")
@click.option("--keep-duplicates", is_flag=True, help="Keep rows that occur before, word for word.")
@json_option
def instructions(
    files: tuple[Path, ...],
    out: Path,
    plan: str | None,
    leave_out: tuple[str, ...],
    keep_duplicates: bool,
    as_json: bool,
) -> None:
    """Turn instruction rows (instruction/input/output, messages, prompt/completion, text) into conversations.

    Rows marked is_eval, or of the bucket eval, become the test split; those marked is_negative_example or
    never_train are left out, as is every copy, and every training row with an evaluation row's prompt.

    \b
    mlx-lora data instructions style_core.jsonl tool_core.jsonl eval.jsonl --out data/coder --plan coder
    """
    from ...sources.instructions import load_plan, make_dataset

    card = make_dataset(
        out,
        files=files,
        plan=None if plan is None else load_plan(plan),
        keep_duplicates=keep_duplicates,
        leave_out=leave_out,
    )
    print_dataset(card, as_json)
