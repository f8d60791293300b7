"""``mlx-lora eval``: measure a target on suites."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .eval_check import check
from .lm_eval import evaluate_tasks, interoperation_options
from .options import backend_option, cases_option, finite, generation_options, json_option, suites_option
from .output import print_json, print_lines, print_notes, print_table, print_warnings, progress

TARGETS = "A run, a base, FILE.gguf, ollama:NAME, http://HOST/v1#MODEL, answers:FILE."
OUT = "Directory for reports, samples and report.html; or a file, for one suite's report."
SECONDS = click.FloatRange(0, min_open=True)


@click.group(invoke_without_command=True)
@suites_option
@click.option("--target", metavar="TARGET", help=TARGETS)
@cases_option
@generation_options
@click.option("--hide-shape", is_flag=True, help="eisv_gate1: do not name the shape, to be inferred from the numbers.")
@click.option("--out", type=click.Path(path_type=Path), help=OUT)
@click.option("--timeout", type=SECONDS, callback=finite, help="Seconds a server may take for one case.")
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
    mlx-lora eval --list
    """
    if ctx.invoked_subcommand is None and not evaluate_tasks(options):
        _evaluate(**options)


def _evaluate(listed: bool, suites: str | None, target: str | None, as_json: bool, **options: Any) -> None:
    from ..evaluation.session import evaluate_suites, list_suites
    from ..evaluation.views.report_tables import decision, evaluation_table, first_failures, report_table, suites_table

    if listed:
        print_json({"suites": list_suites()}) if as_json else print_table(*suites_table(list_suites()))
        return
    if suites is None or target is None:
        raise click.UsageError(f"Missing option '{'--suite' if suites is None else '--target'}'.")
    result = evaluate_suites(suites, target, progress=progress, notes=print_notes, **options)
    if as_json:
        print_json(result.summary)
    elif len(result.reports) == 1:
        print_table(*report_table(result.reports[0]))
        print_lines(first_failures(result.reports[0]))
        print_warnings(result.reports[0]["warnings"])
    else:
        print_table(*evaluation_table(result.reports))
        print_warnings([f"{r['suite']}: {warning}" for r in result.reports for warning in r["warnings"]])
        print_lines(decision(result.summary))
    sys.exit(result.exit_status())


evaluate.add_command(check)
