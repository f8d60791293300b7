"""``mlx-lora compare``: judge a candidate against a reference on the same cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import backend_option, cases_option, generation_options, json_option, suites_option
from .output import print_json, print_lines, print_notes, print_table, print_warnings, progress

FILE = click.Path(path_type=Path)
RERUNS = "Runs of the reference that find unstable cases; by default 2 where answers are sampled, else 1."


@click.command()
@click.argument("targets", metavar="[SHOWN]... REFERENCE CANDIDATE", nargs=-1, required=True)
@suites_option
@click.option("--data", type=FILE, multiple=True, metavar="DIR", help="Dataset: compare the loss of its held-out rows.")
@cases_option
@click.option("--anchor", "anchors", multiple=True, metavar="NAME", help="Target that the candidate must match too.")
@click.option("--reruns", type=click.IntRange(0, 20), metavar="N", help=RERUNS)
@generation_options
@click.option("--out", type=FILE, help="Directory for answers and results: what is there is not asked again.")
@backend_option
@json_option
def compare(targets: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Judge CANDIDATE against REFERENCE on the same cases, prompts, seeds and batches.

    The verdict is on the candidate, the last target named; the one before it is the reference. Others before these two
    are shown beside them, and not judged. Exit status: 0 better or not worse, 1 worse or not settled, 2 could not run.

    \b
    mlx-lora compare adapters/live adapters/tonight --suites coder --out compare/tonight
    mlx-lora compare adapters/live adapters/tonight --data data/eisv
    mlx-lora compare base live candidate candidate.gguf --suites coder --anchor base
    """
    from ..evaluation.compare_targets import compare_targets
    from ..evaluation.views.report_tables import comparison_tables, comparison_verdict, limits_of_comparison

    found = compare_targets(targets, progress=progress, notes=print_notes, **options)
    if as_json:
        print_json(found.summary)
    else:
        for table in comparison_tables(found.summary):
            print_table(*table)
        print_lines(limits_of_comparison(found.summary))
        print_warnings(found.summary["warnings"])
        print_lines(comparison_verdict(found.summary))
    sys.exit(found.comparison.exit_status)
