"""``mlx-lora data eisv``: Lumen's trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import finite, json_option
from .summary import print_dataset


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory to make; it must not exist.")
@click.option("--anima-db", type=click.Path(path_type=Path), help="Lumen's anima.db; read-only, while Lumen writes.")
@click.option("--window-size", type=click.IntRange(3), default=10, show_default=True, help="States in a real window.")
@click.option("--stride", type=click.IntRange(1), default=5, show_default=True, help="States from window to window.")
@click.option(
    "--min-per-shape",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="Synthetic windows are added until each of the nine shapes has N.",
)
@click.option(
    "--labels",
    type=click.Choice(["feedback", "generator"]),
    default="feedback",
    show_default=True,
    help="feedback: varied and coherent, from the rules after their feedback loop. generator: the published labels.",
)
@click.option(
    "--hide-shape",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    callback=finite,
    metavar="SHARE",
    help="Share of the examples whose text does not name the shape: it must be inferred from the numbers.",
)
@click.option("--skip-invalid", is_flag=True, help="Leave out states that hold no finite number.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=42, show_default=True)
@json_option
def eisv(out: Path, as_json: bool, **options: Any) -> None:
    """Turn EISV trajectories into expression tokens, real ones from Lumen's database and synthetic ones.

    \b
    mlx-lora data eisv --out data/eisv
    mlx-lora data eisv --out data/lumen --anima-db ~/.anima/anima.db
    """
    from ...sources.eisv import make_dataset

    print_dataset(make_dataset(out, **options), as_json)
