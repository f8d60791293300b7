"""``mlx-lora data eisv``: Lumen's trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from ..output import finite, json_option, print_json, print_table, say


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
def eisv(
    out: Path,
    anima_db: Path | None,
    window_size: int,
    stride: int,
    min_per_shape: int,
    labels: Literal["feedback", "generator"],
    hide_shape: float,
    skip_invalid: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Turn EISV trajectories into expression tokens, real ones from Lumen's database and synthetic ones.

    \b
    mlx-lora data eisv --out data/eisv
    mlx-lora data eisv --out data/lumen --anima-db ~/.anima/anima.db
    """
    from ...sources.eisv import make_eisv_dataset

    card = make_eisv_dataset(
        out,
        anima_db=anima_db,
        window_size=window_size,
        stride=stride,
        min_per_shape=min_per_shape,
        labels=labels,
        hide_shape=hide_shape,
        skip_invalid=skip_invalid,
        seed=seed,
    )
    if as_json:
        print_json({"path": str(out), **card})
    else:
        print_card(out, card)


def print_card(out: Path, card: dict[str, Any]) -> None:
    """Print the contents of a dataset as a table."""
    counts = card["counts"]
    rows = [(shape, str(count)) for shape, count in counts["per_shape"].items()]
    print_table(
        f"{out}: {counts['real']} real and {counts['synthetic']} synthetic examples", ("shape", "examples"), rows
    )
    say(", ".join(f"{name} {count}" for name, count in card["splits"].items()))
    if not card["splits"]["valid"]:
        from ...data.dataset import NO_VALIDATION

        say(f"note: {NO_VALIDATION} A shape needs 8 examples to have one; raise --min-per-shape.")
