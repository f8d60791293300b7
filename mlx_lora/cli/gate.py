"""``mlx-lora gate``: decide from reports whether a model may ship; ``baseline``: scores without a model."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import json_option
from .output import print_json, print_lines, print_table, print_warnings

file_path = click.Path(path_type=Path)


@click.command()
@click.argument("reports", nargs=-1, required=True, type=file_path)
@click.option("--suites", metavar="NAMES", help="Suites that must have a report (coder, or names with commas).")
@click.option("--waive", multiple=True, metavar="SUITE=REASON", help="Let a quality suite fail, with the reason.")
@click.option("--on-inconclusive", type=click.Choice(["pass", "block"]), default="pass", show_default=True)
@click.option("--out", type=file_path, help="Write the decision to this JSON file.")
@json_option
def gate(
    reports: tuple[Path, ...],
    suites: str | None,
    waive: tuple[str, ...],
    on_inconclusive: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Judge REPORTS, files or directories of `mlx-lora eval --out`: exit status 0 cleared, 1 not, 2 unreadable.

    \b
    mlx-lora gate eval/coder --suites coder --waive tron_format="fixed in the prompt"
    """
    from ..evaluation.reports import judge_files
    from ..evaluation.views.report_tables import decision, gates_table
    from ..files import write_json

    final = judge_files(reports, suites, waive, on_inconclusive)
    if out is not None:
        write_json(out, final)
    if as_json:
        print_json(final)
    else:
        print_table(*gates_table(final))
        print_lines(decision(final))
        print_warnings(final["warnings"])
    sys.exit(0 if final["gate_passed"] else 1)


@click.command()
@click.option(
    "--cases", type=file_path, required=True, metavar="FILE.jsonl", help="Dataset rows, or trajectory windows."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@json_option
def baseline(cases: Path, seed: int, as_json: bool) -> None:
    """Show what the same cases score without a model: chance, prompted guessing, the rules, and the best possible."""
    from ..evaluation.eisv_cases import read_eisv_cases
    from ..evaluation.eisv_scoring import run_baselines

    found = run_baselines([case.group for case in read_eisv_cases(cases)], seed)
    if as_json:
        print_json({"cases": str(cases), "seed": seed, "baselines": found})
        return
    rows = [(b["condition"], f"{b['mean_coherence']:.3f}") for b in found]
    print_table(f"Baselines on {cases}", ("condition", "mean coherence"), rows)
