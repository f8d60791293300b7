"""``mlx-lora compare``: judge a candidate against a reference on the same cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .evaluation_output import print_comparison
from .output import backend_option, finite, json_option, print_json, print_notes, progress

file_path = click.Path(path_type=Path)


SUITES = "Suites by name, group (coder) or FILE.yaml, with commas."
RERUNS = "Runs of the reference that find unstable cases; by default 2 where answers are sampled, else 1."


@click.command()
@click.argument("targets", metavar="[SHOWN]... REFERENCE CANDIDATE", nargs=-1, required=True)
@click.option("--suites", "--suite", "suites", metavar="NAMES", help=SUITES)
@click.option(
    "--data", type=file_path, multiple=True, metavar="DIR", help="Dataset: compare the loss of its held-out rows."
)
@click.option("--cases", type=file_path, metavar="FILE.jsonl", help="Cases in place of the suite's own; see eval.")
@click.option("--anchor", "anchors", multiple=True, metavar="NAME", help="Target that the candidate must match too.")
@click.option(
    "--reruns",
    type=click.IntRange(0, 20),
    metavar="N",
    help=RERUNS,
)
@click.option("--temperature", type=click.FloatRange(0), callback=finite, help="By default each suite's own.")
@click.option("--max-tokens", type=click.IntRange(1), help="By default each suite's own.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="By default each suite's own.")
@click.option("--out", type=file_path, help="Directory for answers and results: what is there is not asked again.")
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

    found = compare_targets(targets, progress=progress, notes=print_notes, **options)
    if as_json:
        print_json(found.summary)
    else:
        print_comparison(found.summary)
    sys.exit(found.comparison.exit_status)
