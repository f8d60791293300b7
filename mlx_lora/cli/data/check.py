"""``mlx-lora data check``: find the problems of a dataset before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import json_option
from ..output import print_json, print_lines, print_table
from .summary import advancing


@click.command()
@click.argument("paths", metavar="DIR|FILE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--plan", metavar="FILE|NAME", help="Rows each bucket should have: YAML, JSON, or coder.")
@click.option("--base", metavar="MODEL", help="Check with this model's tokenizer and chat template too.")
@click.option("--chat-template", metavar="chatml|FILE", help="With --base: a template instead of the model's own.")
@click.option("--max-seq-length", type=click.IntRange(8), default=512, show_default=True, help="Tokens, with --base.")
@click.option("--fix", metavar="OUT", type=click.Path(path_type=Path), help="Write a cleaned copy to a new directory.")
@click.option("--strip", is_flag=True, help="With --fix: take control tokens such as <|cit|> out of the messages.")
@json_option
def check(
    paths: tuple[Path, ...], plan: str | None, base: str | None, fix: Path | None, as_json: bool, **options: Any
) -> int:
    """Find duplicates, leaks, contradictions, secrets and what training would refuse, by file and line.

    Takes a dataset directory, files (JSONL, JSON, CSV, TSV, Parquet, each also .gz) of rows in any dialect (messages,
    ShareGPT, Alpaca, prompt and completion, text), or hf:OWNER/NAME[/CONFIG][:SPLIT]. Files named valid, dev, test or
    eval (or ..._eval) hold what is not trained on.

    Exit status: 0 no error (warnings are none), 1 a check of severity error found something, 2 bad input.

    \b
    mlx-lora data check data/eisv --base builtin/tiny-lumen
    mlx-lora data check style_core.jsonl eval.jsonl --plan coder --fix data/clean
    """
    from ...data.checks import read_table
    from ...data.checks.check_report import check_dataset
    from ...errors import UserError
    from ...files import check_absent

    if fix is not None:
        check_absent(fix)
    elif options["strip"]:
        raise UserError("--strip changes a cleaned copy; name it with --fix OUT")
    table = read_table(paths)
    if plan is not None:
        from ...sources.instructions import load_plan

        loaded = load_plan(plan)
        table.plan, table.stated_total = loaded.buckets, loaded.stated_total
    if base is not None:
        from ...models.tokenizer import load_tokenizer

        table.tokenizer = load_tokenizer(base, chat_template=options["chat_template"])
        table.max_seq_length = options["max_seq_length"]
    elif options["chat_template"] is not None:
        raise UserError("--chat-template needs a tokenizer; name the base with --base MODEL")
    with advancing(table, quiet=as_json):
        report = check_dataset(table, fix, options["strip"])
    if as_json:
        print_json(report.to_dict())
    else:
        if report.findings:
            rows = [(f.check, f.severity, f"{f.count:,}", f.means) for f in report.findings]
            print_table("Findings", ("check", "severity", "count", "what"), rows)
        print_lines(report.lines())
    return int(bool(report.errors))
