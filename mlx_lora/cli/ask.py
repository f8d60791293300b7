"""``mlx-lora ask``: an answer from an index, with its sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import backend_option, cases_option, finite, json_option, suites_option
from .output import print_json, print_lines, print_notes, print_table, print_warnings, progress

ECOSYSTEM = "Where a tool is needed, name those of continue, cursor, copilot or web4_custom, not sources."


@click.command()
@click.argument("question", required=False)
@click.option("--target", required=True, metavar="TARGET", help="A run, a base, FILE.gguf, ollama:NAME, or a server.")
@click.option("--index", "directory", required=True, type=click.Path(path_type=Path), help="Directory of the index.")
@click.option("-k", "k", type=click.IntRange(1, 50), default=5, show_default=True, help="Passages that are given.")
@click.option("--collection", "collections", multiple=True, metavar="NAME", help="Search these; by default all.")
@click.option("--ecosystem", metavar="NAME", help=ECOSYSTEM)
@suites_option
@cases_option
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer: 512, or the suite's own.")
@click.option("--temperature", type=click.FloatRange(0), callback=finite, help="0, or the suite's own; 0 is greedy.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="0, or the suite's own.")
@backend_option
@json_option
def ask(question: str | None, suites: str | None, as_json: bool, **options: Any) -> None:
    """Answer QUESTION from an index: the passages that are most like it are given to the model, which cites them.

    With --suites in place of a question: recall, and the answers with and without context, compared in pairs. Cases
    name the documents that answer them as {"metadata": {"documents": [...]}}. Exit status as of `compare`.

    \b
    mlx-lora ask --target adapters/live --index index "Why was the session restarted?"
    mlx-lora ask --target adapters/live --index index --suites history.yaml --cases questions.jsonl
    """
    from ..errors import UserError
    from ..evaluation.views.report_tables import comparison_tables, comparison_verdict
    from ..retrieval.answering import ask_question, source_lines
    from ..retrieval.judging import judge_suites, recall_line

    if (question is None) == (suites is None):
        raise UserError("give one question, or suites with --suites NAMES, and not both")
    if question is not None:
        answer = ask_question(question, notes=print_notes, warn=print_warnings, **options)
        if as_json:
            print_json(answer)
        else:
            print_lines([answer["answer"], "", *source_lines(answer)])
        return
    found = judge_suites(suites or "", progress=progress, notes=print_notes, **options)
    if as_json:
        print_json(found)
    else:
        for table in comparison_tables(found):
            print_table(*table)
        print_lines([recall_line(found), *comparison_verdict(found)])
        print_warnings(found["warnings"])
    sys.exit(found["exit_status"])
