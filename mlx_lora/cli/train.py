"""``mlx-lora train``: a config and a dataset → an adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import click

from .options import backend_option, json_option
from .output import print_json, say


@click.command()
@click.option(
    "--config",
    "config_path",
    metavar="FILE|PRESET",
    help="YAML or JSON, or a preset: quickstart, eisv, sleep, sleep-published, traces, coder, claims.",
)
@click.option("--data", help="Dataset directory; overrides the config's data.")
@click.option("--out", help="Run directory, usually adapters/NAME; overrides the config's output_dir.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key, e.g. --set learning_rate=1e-4."
)
@click.option("--fresh", is_flag=True, help="Replace the run that is there; with --increment, the interrupted round.")
@click.option("--extend", is_flag=True, help="Go on with a run although num_epochs or max_steps has changed.")
@click.option("--increment", is_flag=True, help="Learn only what no round before has, from the last round's adapter.")
@click.option("--min-new", type=click.IntRange(1), default=10, show_default=True, help="Items --increment needs.")
@click.option("--replay", is_flag=True, help="--increment with half of each batch from earlier rounds: none forgotten.")
@click.option("--max-minutes", type=float, help="Stop after N minutes; the same command resumes later.")
@click.option("--until", metavar="HH:MM", help="Stop at this time of day; the same command resumes later.")
@click.option("--dry-run", is_flag=True, help="Show what would be trained, its memory and time, and one example.")
@backend_option
@json_option
def train(
    config_path: str | None, overrides: tuple[str, ...], increment: bool, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Train a LoRA adapter, or resume an interrupted run with the same command, bit for bit.

    The run directory gets the config as resolved, adapters.safetensors and adapter_config.json (mlx-lm's own
    format: `mlx_lm.generate --adapter-path` runs it), and metrics.jsonl.

    \b
    mlx-lora train --config quickstart --data data/eisv --out adapters/lumen
    mlx-lora train --data data/eisv --out adapters/lumen-1b --set model_name=meta-llama/Llama-3.2-1B-Instruct
    mlx-lora train --data data/eisv --out adapters/lumen-base --set model_name=models/base --set chat_template=chatml
    """
    from ..config import load_config
    from ..training.incremental import outcome, train_increment
    from ..training.train import train as run
    from .dry_run import print_dry_run, print_exports

    given = {key: options[key] for key in ("max_minutes", "until", "backend") if options[key] is not None}
    config = load_config(config_path, [*overrides, *(f"{key}={json.dumps(value)}" for key, value in given.items())])
    config = replace(config, data=options["data"] or config.data, output_dir=options["out"] or config.output_dir)
    increment = increment or options["replay"]
    if dry_run:
        print_dry_run(config, increment, as_json)
        return
    flags: Any = {"fresh": options["fresh"], "extend": options["extend"], "quiet": as_json}
    if increment:
        trained = train_increment(config, options["min_new"], replay=options["replay"], **flags)
    else:
        trained = run(config, announce=print_exports, **flags)
    if trained is not None:
        content, line = outcome(trained, config.output_dir, increment)
        print_json(content) if as_json else say(line)
