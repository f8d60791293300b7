"""``mlx-lora bench``: our trainer against another one on the same backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import backend_option, json_option
from .output import print_json, print_table


@click.command()
@backend_option
@click.option("--data", help="eisv, eisv-like, salience, unique, worst, traces or long; without it the standard ones.")
@click.option("--shape", default="llama-3.2-1b", show_default=True, help="A real model's shape, with random weights.")
@click.option("--layers", type=click.IntRange(1), help="Only N layers.")
@click.option("--hidden", type=click.IntRange(32), help="A smaller model of the same proportions.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--grad-checkpoint", is_flag=True, help="On both sides.")
@click.option("--packing", is_flag=True, help="TRL puts examples end to end; --backend torch and --data.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the weights, with --backend torch; float32 on the CPU and bfloat16 on CUDA without it.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Both sides so often, in turns.")
@click.option("--steps", type=click.IntRange(2), default=10, show_default=True, help="Timed steps a round.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write bench.json, bench.md and a picture there.")
@json_option
def bench(rounds: int, steps: int, seed: int, out: Path | None, as_json: bool, **case: Any) -> None:
    """Time our trainer against another on the same model, data and hyper-parameters.

    On MLX that is mlx_lm's own, on torch TRL's SFTTrainer with completion-only loss (extra bench). Ratios are ours
    over theirs; the arithmetic ratio counts both sides' multiplications. Memory is the peak above the weights.

    \b
    mlx-lora bench
    mlx-lora bench --backend torch
    mlx-lora bench --data salience --shape qwen2.5-0.5b --layers 2
    """
    from rich.console import Console
    from rich.progress import Progress

    from ..bench.compare import compare, select_cases, table, title, write_results
    from ..files import check_directory

    if out is not None:
        check_directory(out)
    cases = select_cases(**case)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rounds", total=2 * rounds * len(cases))
        results = compare(cases, rounds, steps, seed, lambda: bar.advance(task))
    if out is not None:
        write_results(out, results, " ".join(["mlx-lora", *sys.argv[1:]]))
    if as_json:
        print_json({"results": results})
    else:
        print_table(title(cases[0].backend), *table(results))
