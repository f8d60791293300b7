"""``mlx-lora data claims``: scientific claims with citations."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import finite, json_option
from .summary import print_dataset

FILES = click.Path(path_type=Path)


@click.command()
@click.option("--claims", type=FILES, multiple=True, required=True, help="Claims in SciFact's schema; may be repeated.")
@click.option("--corpus", type=FILES, multiple=True, required=True, help="The documents they cite; may be repeated.")
@click.option("--out", type=FILES, required=True, help="Directory to make; it must not exist.")
@click.option(
    "--citation-validity-weight",
    type=click.FloatRange(min=0, max=1e6, min_open=True),
    callback=finite,
    default=5.0,
    show_default=True,
    help="What the loss of a valid citation's document id is multiplied by.",
)
@click.option("--strip", is_flag=True, help="Take markers in the form of control tokens, such as <|cit|>, out.")
@json_option
def claims(
    claims: tuple[Path, ...],
    corpus: tuple[Path, ...],
    out: Path,
    citation_validity_weight: float,
    strip: bool,
    as_json: bool,
) -> None:
    """Turn claims with their evidence (SciFact's schema) into answers whose citations the prompt can ground.

    Claims that share a document stay in one split. An example that would cite what its prompt does not show is
    quarantined, and named in report.md. Markers such as <|cit|> are counted there, and --strip takes them out.

    \b
    mlx-lora data claims --claims claims_train.jsonl --corpus corpus.jsonl --out data/claims
    """
    from ...sources.claims import make_dataset

    card = make_dataset(
        out, claims=claims, corpus=corpus, citation_validity_weight=citation_validity_weight, strip=strip
    )
    print_dataset(card, as_json)
