"""``mlx-lora bench``: our trainer against mlx-lm's own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .output import json_option, print_json, print_table


@click.command()
@click.option("--data", help="eisv, eisv-like, salience, unique, worst or traces; without it the standard ones.")
@click.option("--shape", default="llama-3.2-1b", show_default=True, help="A real model's shape, with random weights.")
@click.option("--layers", type=click.IntRange(1), help="Only so many layers.")
@click.option("--hidden", type=click.IntRange(32), help="A smaller model of the same proportions.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--grad-checkpoint", is_flag=True, help="On both sides.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Both sides so often, in turns.")
@click.option("--steps", type=click.IntRange(2), default=10, show_default=True, help="Timed steps a round.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write bench.json, bench.md and a picture there.")
@json_option
def bench(
    data: str | None,
    shape: str,
    layers: int | None,
    hidden: int | None,
    batch_size: int,
    grad_checkpoint: bool,
    rounds: int,
    steps: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time our trainer against mlx_lm's own on the same model, data and hyper-parameters.

    Ratios are ours over theirs; the arithmetic ratio counts both sides' multiplications. Memory is the peak above
    the weights.

    \b
    mlx-lora bench
    mlx-lora bench --data salience --shape qwen2.5-0.5b --layers 2
    """
    from rich.console import Console
    from rich.progress import Progress

    from ..bench.compare import STANDARD, Case, compare
    from ..bench.record import COLUMNS, table_rows, write_results

    cases = [Case(data, shape, batch_size, layers, hidden, grad_checkpoint)] if data else STANDARD
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rounds", total=2 * rounds * len(cases))
        results = [compare(case, rounds, steps, seed, lambda: bar.advance(task)) for case in cases]
    if out is not None:
        write_results(out, results, " ".join(["mlx-lora", *sys.argv[1:]]))
    if as_json:
        print_json({"results": results})
    else:
        print_table("ours / mlx_lm.lora", COLUMNS, table_rows(results))
