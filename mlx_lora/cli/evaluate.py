"""``mlx-lora eval``: measure a target on suites."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from .eval_check import check
from .evaluation_output import print_evaluation, print_report, print_suites
from .lm_eval import evaluate_tasks, interoperation_options
from .output import backend_option, finite, json_option, print_json, print_notes, progress

file_path = click.Path(path_type=Path)
suite_option = click.option(
    "--suite", "--suites", "suites", metavar="NAMES", help="Suites by name, group (coder) or FILE.yaml, with commas."
)


@click.group(invoke_without_command=True)
@suite_option
@click.option(
    "--target", metavar="TARGET", help="A run, a base, FILE.gguf, ollama:NAME, http://HOST/v1#MODEL, answers:FILE."
)
@click.option(
    "--cases",
    type=file_path,
    metavar="FILE.jsonl",
    help="Cases in place of the suite's own: {id, prompt, expect}, or dataset rows.",
)
@click.option(
    "--temperature", type=click.FloatRange(0), callback=finite, help="0 is greedy; by default the suite's own."
)
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer; by default the suite's own.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="By default the suite's own.")
@click.option(
    "--hide-shape", is_flag=True, help="eisv_gate1: ask without the shape's name, to be inferred from the numbers."
)
@click.option(
    "--out", type=file_path, help="Directory for reports, samples and report.html; or a file, for one suite's report."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    help="Seconds a server may take for one case.",
)
@click.option("--list", "listed", is_flag=True, help="List the published suites.")
@interoperation_options
@backend_option
@json_option
@click.pass_context
def evaluate(ctx: click.Context, **options: Any) -> None:
    """Measure a model on suites of cases; `mlx-lora gate` judges the reports, `compare` two targets.

    \b
    mlx-lora eval --suites coder --target adapters/coder --out eval/coder
    mlx-lora eval --suite eisv_gate1 --target adapters/lumen --cases data/eisv/test.jsonl --out results.json
    mlx-lora eval --lm-eval arc_easy --target adapters/coder --limit 100
    mlx-lora eval --lm-eval arc_easy --target adapters/coder --limit 100
    mlx-lora eval --list
    """
    if ctx.invoked_subcommand is None and not evaluate_tasks(options):
        _evaluate(**options)


def _evaluate(listed: bool, suites: str | None, target: str | None, as_json: bool, **options: Any) -> None:
    from ..evaluation.session import evaluate_suites, list_suites

    if listed:
        print_suites(list_suites(), as_json)
        return
    for name, value in (("--suite", suites), ("--target", target)):
        if value is None:
            raise click.UsageError(f"Missing option '{name}'.")
    result = evaluate_suites(suites or "", target or "", progress=progress, notes=print_notes, **options)
    if as_json:
        print_json(result.summary)
    elif len(result.reports) == 1:
        print_report(result.reports[0])
    else:
        print_evaluation(result.summary, result.reports)
    if all(report["not_answered"] == report["total_tests"] for report in result.reports):
        first = result.reports[0]
        raise UserError(f"{first['target']}: no case was answered: {first['results'][0]['error']}")
    sys.exit(0 if len(result.reports) == 1 or result.summary["cleared_for_deployment"] else 1)


evaluate.add_command(check)
