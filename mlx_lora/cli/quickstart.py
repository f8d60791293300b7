"""``mlx-lora quickstart``: data, training and gate with the built-in base and nothing to download."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import backend_option, json_option
from .output import print_json, print_table, progress, say


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("quickstart"),
    show_default=True,
    help="Directory for dataset, run and results; an earlier quickstart there is replaced.",
)
@backend_option
@json_option
def quickstart(out: Path, backend: str | None, as_json: bool) -> None:
    """Make EISV data, ask the base, train an adapter, ask again, and judge both by Gate 1.

    Exit status 0: the adapter passed the gate. 1: it did not.
    """
    from ..evaluation.quickstart import answer_rows, make_data, quickstart_config, score_rows, summary, train_and_judge
    from .data.summary import print_dataset

    def head(text: str) -> None:
        if not as_json:
            say(f"\n{text}", bold=True)

    card = make_data(out)
    head("1. A dataset: trajectories of the nine shapes, and what Lumen would say")
    if not as_json:
        print_dataset(card)
    config = quickstart_config(out, backend or "auto")
    announced = f"2. Training an adapter for {config.model_name}"
    reports = train_and_judge(config, out, progress, lambda: head(announced), quiet=as_json)
    if as_json:
        print_json({"path": str(out), **summary(reports)})
    else:
        head("3. What the model says, before and after")
        print_table("", ("trajectory", "before", "after"), answer_rows(reports))
        head("4. Gate 1: mean coherence above 0.933, at least 90 % of the answers valid; sampled is at temperature 1")
        columns = ("", "coherence", "balanced", "valid", "tokens in use", "Gate 1")
        print_table("", columns, score_rows(reports))
        say(f"The adapter is in {out / 'run'}; ask it something:\n")
        prompt = "TRAJECTORY:\\nshape: convergence\\nwindow: 4 states over 7s"
        say(f"  mlx-lora generate --target {out / 'run'} --temperature 1 --prompt $'{prompt}'")
    sys.exit(0 if reports["adapter"]["gate_passed"] else 1)
