"""``mlx-lora train``: a config and a dataset → an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .output import backend_option, json_option, print_json, print_table, progress, say

if TYPE_CHECKING:
    from ..config import TrainingConfig
    from ..training.setup import TrainingSetup


@click.command()
@click.option(
    "--config",
    "config_path",
    metavar="FILE|PRESET",
    help="YAML or JSON, or a preset: quickstart, eisv, sleep, traces, coder, claims.",
)
@click.option("--data", help="Dataset directory; overrides the config's data.")
@click.option("--out", help="Run directory, usually adapters/NAME; overrides the config's output_dir.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key, e.g. --set learning_rate=1e-4."
)
@click.option("--fresh", is_flag=True, help="Replace the run that is there; with --increment, the interrupted round.")
@click.option("--extend", is_flag=True, help="Go on with a run although num_epochs or max_steps has changed.")
@click.option(
    "--increment", is_flag=True, help="Learn only what no round before has, and start from the adapter of the last."
)
@click.option(
    "--min-new", type=click.IntRange(1), default=10, show_default=True, help="New items that --increment needs."
)
@click.option("--max-minutes", type=float, help="Stop after N minutes; the same command resumes later.")
@click.option("--until", metavar="HH:MM", help="Stop at this time of day; the same command resumes later.")
@click.option("--dry-run", is_flag=True, help="Show what would be trained, its memory and time, and one example.")
@backend_option
@json_option
def train(
    config_path: str | None,
    data: str | None,
    out: str | None,
    overrides: tuple[str, ...],
    fresh: bool,
    extend: bool,
    increment: bool,
    min_new: int,
    max_minutes: float | None,
    until: str | None,
    dry_run: bool,
    backend: str | None,
    as_json: bool,
) -> None:
    """Train a LoRA adapter, or resume an interrupted run with the same command, bit for bit.

    The run directory gets the config as resolved, adapters.safetensors and adapter_config.json (mlx-lm's own
    format: `mlx_lm.generate --adapter-path` runs it), and metrics.jsonl.

    \b
    mlx-lora train --config quickstart --data data/eisv --out adapters/lumen
    mlx-lora train --data data/eisv --out adapters/lumen-1b --set model_name=meta-llama/Llama-3.2-1B-Instruct
    mlx-lora train --data data/eisv --out adapters/lumen-base --set model_name=models/base --set chat_template=chatml
    """
    from dataclasses import asdict, replace

    from ..config import load_config
    from ..errors import UserError
    from ..training.incremental import progress_of, train_increment
    from ..training.train import train as run

    limits = {"max_minutes": max_minutes, "until": None if until is None else f'"{until}"', "backend": backend}
    given = [f"{key}={value}" for key, value in limits.items() if value is not None]
    config = load_config(config_path, [*overrides, *given])
    config = replace(config, data=data or config.data, output_dir=out or config.output_dir)
    if increment and dry_run:
        raise UserError("--dry-run shows a whole run, not a round of --increment; leave one of them out")
    if dry_run:
        _dry_run(config, as_json)
        return
    if increment:
        if extend:
            raise UserError("--increment resumes by itself: leave out --extend, or start in another --out")
        trained = train_increment(config, min_new, fresh=fresh, quiet=as_json)
    else:
        trained = run(config, fresh=fresh, extend=extend, quiet=as_json, announce=_say_exports)
    if trained is None:
        return
    if isinstance(trained, str):
        _say(as_json, config, trained)
        return
    directory, result = trained
    rounds = progress_of(directory) if increment else {}
    if as_json:
        print_json({"path": str(directory), **asdict(result), **rounds})
        return
    validation = "" if result.validation_loss is None else f", validation loss {result.validation_loss:.4f}"
    if result.stopped:
        validation += f", stopped by {result.stopped}"
    say(f"{directory}: loss {result.loss:.4f}{validation}, {result.steps} steps in {result.seconds:.0f} s")


def _exports(ready: TrainingSetup) -> str | None:
    """Return the exports that a base allows, in one line; ``None`` without MLX, which exports need."""
    try:
        from ..export.possible import possible_exports
    except ImportError:
        return None
    return possible_exports(ready.model, ready.config)


def _say_exports(ready: TrainingSetup) -> None:
    if (line := _exports(ready)) is not None:
        say(f"exports of this base: {line}", err=True)


def _say(as_json: bool, config: TrainingConfig, sentence: str) -> None:
    if as_json:
        print_json({"path": config.output_dir, "trained": False, "reason": sentence})
    else:
        say(sentence)


def _dry_run(config: TrainingConfig, as_json: bool) -> None:
    from dataclasses import replace

    from ..training.dry_run import BUDGET_SECONDS, WHOLE_STEPS, dry_run
    from ..training.setup import prepare

    # Nothing is written, so that a name for the run is not needed yet.
    ready = prepare(replace(config, output_dir=config.output_dir or "adapters/none"))
    with progress("timing the first steps", int(BUDGET_SECONDS)) as advance:
        report = {**dry_run(ready, advance), "exports": _exports(ready)}
    if as_json:
        print_json(report)
        return
    whole = report["estimated_from"] == WHOLE_STEPS
    rows = [
        ("model", report["model"]),
        ("backend", f"{report['backend']}: {report['backend_why']}"),
        ("trainable parameters", f"{report['trainable_parameters']:,}: {report['trained_modules']}"),
        ("examples", f"{report['train_examples']} to train on, {report['valid_examples']} to validate"),
        ("tokens", f"{report['tokens']:,}, of which {report['supervised_tokens']:,} supervised"),
        ("longest example", f"{report['longest']} tokens; {report['shortened_prompts']} prompts lose their middle"),
        ("steps", f"{report['total_steps']} ({report['steps_per_epoch']} an epoch)"),
        ("time", f"about {report['estimated_seconds'] / 60:.1f} minutes, from {report['estimated_from']}"),
        (
            "peak memory",
            f"{'' if whole else 'at least '}{report['estimated_peak_memory_gb']:.2f} of "
            f"{report['machine_memory_gb']:.0f} GB",
        ),
        ("exports", report["exports"] or "none without MLX"),
    ]
    print_table("A dry run: nothing was written", ("", ""), rows)
    for note in report["notes"]:
        say(f"note: {note}")
    say(f"The first example, its supervised tokens between ⟦ and ⟧:\n{report['example']}")
