"""Options that several commands share, with the checks of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SUITES = "Suites by name, group (coder) or FILE.yaml, with commas."
CASES = "Cases in place of the suite's own: {id, prompt, expect}, or dataset rows."
OF_SUITE = "By default the suite's own."


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Check a number in a click callback: nan and inf, which parse as floats, are refused."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("it must be a finite number")
    return value


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that replace a suite's own settings of generation."""
    for add in (
        click.option("--seed", type=click.IntRange(0, 2**63 - 1), help=OF_SUITE),
        click.option("--max-tokens", type=click.IntRange(1), help=f"Longest answer. {OF_SUITE}"),
        click.option("--temperature", type=click.FloatRange(0), callback=finite, help=f"0 is greedy. {OF_SUITE}"),
    ):
        command = add(command)
    return command


suites_option = click.option("--suites", "--suite", "suites", metavar="NAMES", help=SUITES)
cases_option = click.option("--cases", type=click.Path(path_type=Path), metavar="FILE.jsonl", help=CASES)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "mlx", "torch"]),
    help="mlx, torch (CUDA or the CPU; extra torch), or auto: what suits this machine; `mlx-lora doctor` says which.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
