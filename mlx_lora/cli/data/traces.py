"""``mlx-lora data traces``: an agent's refinements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import json_option
from .summary import print_dataset

POLICIES = ("refinement", "generator", "human", "high_value", "recent", "all")
PATH = click.Path(path_type=Path)


@click.command()
@click.option("--store", "stores", type=PATH, multiple=True, required=True, help="Store, or directory of stores.")
@click.argument("more_stores", type=PATH, nargs=-1, metavar="[DIR]...")
@click.option("--policy", type=click.Choice(POLICIES), default="refinement", show_default=True, help="See below.")
@click.option("--out", type=PATH, required=True, help="Directory to make; it must not exist.")
@click.option("--min-retries", type=click.IntRange(1), default=3, show_default=True, help="Of the policy high_value.")
@click.option("--days", type=click.IntRange(0), default=30, show_default=True, help="Of the policy recent.")
@click.option("--action-pair", "action_pairs", multiple=True, metavar="ID", help="Only this step; may be repeated.")
@click.option("--results", type=PATH, help="The runs' outcomes (JSONL): only artifacts of runs that succeeded.")
@click.option("--outcome", default="success", show_default=True, help="What --results calls a solved run.")
@click.option("--sources", type=PATH, help='JSON file {"artifact id": "human" or "generated"}.')
@click.option("--amendments", type=PATH, help="Directory of the amendments, where it is not in the store.")
@click.option("--plain", is_flag=True, help="Prompts of specification and history alone.")
@click.option("--every-accepted", is_flag=True, help="Also what a later accepted artifact of the same step overtook.")
@click.option("--base", metavar="MODEL", help="Leave out answers that do not fit this model's --max-seq-length.")
@click.option("--max-seq-length", type=click.IntRange(8), default=4096, show_default=True, help="Tokens, with --base.")
@json_option
def traces(
    stores: tuple[Path, ...],
    more_stores: tuple[Path, ...],
    out: Path,
    plain: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn artifact stores of a generator-and-guard agent into prompts and accepted answers.

    \b
    refinement  accepted after an attempt was refused
    generator   of these, what the generator made
    human       of these, what a person made
    high_value  of these, after at least --min-retries attempts
    recent      of these, from the last --days
    all         everything accepted

    \b
    mlx-lora data traces --store ~/agent/artifacts --out data/traces
    mlx-lora data traces --store run_a run_b --policy all --out data/traces
    """
    from ...sources.traces import make_dataset

    print_dataset(make_dataset(out, [*stores, *more_stores], context=not plain, **options), as_json)
