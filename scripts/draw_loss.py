"""Draw the loss of a run as an SVG file: the picture of the README.

mlx-lora quickstart && python scripts/draw_loss.py quickstart/run --out docs/quickstart-loss.svg
"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_lora.training.report import draw_loss


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(run: Path, out: Path) -> None:
    out.write_text(f"{draw_loss(run)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
