"""``mlx-lora quickstart``: data, training and gate with the built-in base and nothing to download."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from .output import backend_option, json_option, print_json, print_table, progress, say

RESULTS = "quickstart.json"
SHOWN = 5
# Enough for the adapter to keep the format when it is sampled, and few enough for minutes.
PER_SHAPE = 80
NAMES = {"base": "base", "adapter": "adapter", "adapter_sampled": "adapter, sampled"}


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
    from ..files import write_json
    from ..sources.eisv import make_dataset
    from .data.summary import print_dataset

    _clear(out)
    write_json(out / RESULTS, {})
    card = make_dataset(out / "data", min_per_shape=PER_SHAPE)
    if not as_json:
        _say("1. A dataset: trajectories of the nine shapes, and what Lumen would say")
        print_dataset(card)
    reports = _train_and_ask(out, backend or "auto", as_json)
    for name, report in reports.items():
        write_json(out / f"{name}.json", report)
    summary = {name: {k: v for k, v in report.items() if k != "answers"} for name, report in reports.items()}
    write_json(out / RESULTS, summary)
    if as_json:
        print_json({"path": str(out), **summary})
    else:
        _print(reports, out)
    sys.exit(0 if reports["adapter"]["gate_passed"] else 1)


def _clear(out: Path) -> None:
    if out.exists():
        if not (out / RESULTS).exists():
            raise UserError(f"{out}: this exists and is no earlier quickstart; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _train_and_ask(out: Path, backend: str, quiet: bool) -> dict[str, dict[str, Any]]:
    from ..config import load_config
    from ..evaluation.eisv_gate1 import read_cases, run_gate1
    from ..evaluation.targets import Target, load_target
    from ..training.train import train

    config = replace(
        load_config("quickstart", [f"backend={backend}"]), data=str(out / "data"), output_dir=str(out / "run")
    )
    cases = read_cases(out / "data" / "test.jsonl")

    def ask(target: Target, temperature: float = 0.0) -> dict[str, Any]:
        with progress(f"asking {target.name}", len(cases)) as advance:
            return run_gate1(target, cases, temperature=temperature, advance=advance)

    base = ask(load_target(config.model_name, backend))
    if not quiet:
        _say(f"2. Training an adapter for {config.model_name}")
    train(config, quiet=quiet)
    adapter = load_target(str(out / "run"), backend)
    return {"base": base, "adapter": ask(adapter), "adapter_sampled": ask(adapter, 1.0)}


def _say(text: str) -> None:
    say(f"\n{text}", bold=True)


def _print(reports: dict[str, dict[str, Any]], out: Path) -> None:
    _say("3. What the model says, before and after")
    pairs = list(zip(reports["base"]["answers"], reports["adapter"]["answers"], strict=True))
    shown = {before["shape"]: (before, after) for before, after in pairs}
    rows = [(shape, b["answer"], a["answer"]) for shape, (b, a) in list(shown.items())[:SHOWN]]
    print_table("", ("trajectory", "before", "after"), rows)
    _say("4. Gate 1: mean coherence above 0.933, at least 90 % of the answers valid; sampled is at temperature 1")
    columns = ("", "coherence", "balanced", "valid", "tokens in use", "Gate 1")
    table = [
        (
            NAMES[key],
            f"{r['mean_coherence']:.3f}",
            f"{r['balanced_coherence']:.3f}",
            f"{r['valid_rate']:.3f}",
            f"{r['tokens_in_use']} of 15",
            "passed" if r["gate_passed"] else "failed",
        )
        for key, r in reports.items()
    ]
    print_table("", columns, table)
    say(f"The adapter is in {out / 'run'}; ask it something:\n")
    prompt = "TRAJECTORY:\\nshape: convergence\\nwindow: 4 states over 7s"
    say(f"  mlx-lora generate --target {out / 'run'} --temperature 1 --prompt $'{prompt}'")
