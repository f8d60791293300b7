"""``mlx-lora eval``, ``gate`` and ``baseline``: measure a model and judge the results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .output import (
    backend_option,
    finite,
    json_option,
    print_json,
    print_notes,
    print_table,
    print_warnings,
    progress,
    say,
)

SUITES = ["eisv_gate1"]
file_path = click.Path(path_type=Path)


@click.command()
@click.option("--suite", type=click.Choice(SUITES), required=True)
@click.option(
    "--target", required=True, metavar="RUN_OR_MODEL", help="A run directory, or a base model by name or directory."
)
@click.option(
    "--cases", type=file_path, required=True, metavar="FILE.jsonl", help="Dataset rows, or trajectory windows."
)
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, callback=finite, help="0 is greedy."
)
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="Longest answer.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--hide-shape", is_flag=True, help="Ask without the shape's name: it must be inferred from the numbers.")
@click.option("--out", type=file_path, help="Write the results, with every answer, to this JSON file.")
@backend_option
@json_option
def evaluate(
    suite: str,
    target: str,
    cases: Path,
    temperature: float,
    max_tokens: int,
    seed: int,
    hide_shape: bool,
    out: Path | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Measure a model or an adapter; `mlx-lora gate` judges what this writes.

    \b
    mlx-lora eval --suite eisv_gate1 --target adapters/lumen --cases data/eisv/test.jsonl --out results.json
    """
    from ..evaluation.eisv_gate1 import read_cases, run_gate1, with_shape
    from ..evaluation.targets import load_target
    from ..files import check_writable, write_json

    if out is not None:
        check_writable(out)
    found = read_cases(cases)
    if hide_shape:
        found = with_shape(found, named=False)
    loaded = load_target(target, backend or "auto")
    print_notes(loaded.backend.precision)
    with progress(f"{suite}: {target}", len(found)) as advance:
        report = run_gate1(loaded, found, temperature=temperature, seed=seed, max_tokens=max_tokens, advance=advance)
    report |= {"cases": str(cases), "hide_shape": hide_shape}
    if out is not None:
        write_json(out, report)
    summary = {key: value for key, value in report.items() if key != "answers"}
    if as_json:
        print_json(summary)
    else:
        print_results(summary)


def print_results(report: dict[str, Any]) -> None:
    """Print a report of ``eval`` as a table, and its warnings."""
    constant = report["best_constant"]
    rows = [
        ("mean coherence", f"{report['mean_coherence']:.3f}"),
        ("balanced coherence (mean over shapes)", f"{report['balanced_coherence']:.3f}"),
        ("best constant answer", f"{constant['score']:.3f} ({constant['answer']})"),
        ("distinct answers", f"{report['distinct_answers']} of {report['n_total']}"),
        ("valid", f"{report['n_valid']} of {report['n_total']} ({report['valid_rate']:.3f})"),
        ("pattern accuracy", f"{report['pattern_accuracy']:.3f}"),
        ("diversity", f"{report['diversity']:.3f}"),
        ("tokens in use", f"{report['tokens_in_use']} of 15"),
        *((f"  {shape}", f"{value:.3f}") for shape, value in sorted(report["per_shape_coherence"].items())),
        ("Gate 1", "passed" if report["gate_passed"] else "FAILED"),
    ]
    print_table(f"{report['suite']}: {report['target']} on {report['cases']}", ("measure", "reached"), rows)
    print_warnings(report["warnings"])


@click.command()
@click.argument("results", type=file_path)
@json_option
def gate(results: Path, as_json: bool) -> None:
    """Judge RESULTS.json, written by `mlx-lora eval --out`: exit status 0 passed, 1 failed, 2 unreadable."""
    from ..evaluation.eisv_gate1 import criteria, read_results
    from ..sources.eisv import check_gate1

    report, measured = read_results(results)
    passed, reasons = check_gate1(measured)
    rows = criteria(measured)
    warnings = report["warnings"]
    if as_json:
        keys = ("criterion", "asked", "reached", "met")
        print_json(
            {
                "suite": report.get("suite"),
                "target": report.get("target"),
                "gate_passed": passed,
                "reasons": reasons,
                "warnings": warnings,
                "criteria": [dict(zip(keys, row, strict=True)) for row in rows],
            }
        )
    else:
        table = [(name, asked, reached, "yes" if met else "NO") for name, asked, reached, met in rows]
        print_table(f"Gate 1: {report.get('target')}", ("criterion", "asked for", "reached", "met"), table)
        say("passed" if passed else "FAILED: " + "; ".join(reasons))
        print_warnings(warnings)
    sys.exit(0 if passed else 1)


@click.command()
@click.option(
    "--cases", type=file_path, required=True, metavar="FILE.jsonl", help="Dataset rows, or trajectory windows."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@json_option
def baseline(cases: Path, seed: int, as_json: bool) -> None:
    """Show what the same cases score without a model: chance, prompted guessing, the rules, and the best possible."""
    from ..evaluation.eisv_baselines import run_baselines
    from ..evaluation.eisv_gate1 import read_cases

    found = run_baselines([case.shape for case in read_cases(cases)], seed)
    if as_json:
        print_json({"cases": str(cases), "seed": seed, "baselines": found})
        return
    rows = [(b["condition"], f"{b['mean_coherence']:.3f}") for b in found]
    print_table(f"Baselines on {cases}", ("condition", "mean coherence"), rows)
