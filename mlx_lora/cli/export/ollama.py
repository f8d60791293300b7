"""``mlx-lora export ollama``: a run's model in Ollama."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option
from ..output import progress
from .report import conclude


@click.command()
@click.option("--run", required=True, metavar="RUN", help="A run directory with its adapter.")
@click.option("--name", required=True, metavar="NAME[:TAG]", help="What the model will be called in Ollama.")
@click.option("--type", "kind", default="q4_k_m", show_default=True, metavar="TYPE", help="As export gguf takes it.")
@click.option("--host", metavar="URL", help="Ollama's address; by default OLLAMA_HOST, or this machine.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="For the GGUF and the Modelfile; default RUN/ollama."
)
@click.option("--gguf", type=click.Path(path_type=Path), metavar="FILE", help="Use a GGUF exported before.")
@click.option(
    "--adapter", type=click.Path(path_type=Path), metavar="FILE", help="A GGUF LoRA on --gguf, its base, unfused."
)
@click.option(
    "--template",
    metavar="FILE|auto",
    help="A template in Ollama's Go syntax, or one made of the model's own; by default Ollama's nearest to that.",
)
@click.option("--replace", is_flag=True, help="A model that has the name loses it, once the new one has answered.")
@click.option("--modelfile-only", is_flag=True, help="Write GGUF and Modelfile, and ask Ollama for nothing.")
@json_option
def ollama(
    run: str,
    name: str,
    kind: str,
    host: str | None,
    out: Path | None,
    gguf: Path | None,
    adapter: Path | None,
    template: str | None,
    replace: bool,
    modelfile_only: bool,
    as_json: bool,
) -> None:
    """Make a model in Ollama: GGUF, create, one question, and the name only if it answers as the adapter does.

    \b
    mlx-lora export ollama --run adapters/lumen --name lumen
    """
    from ...export.ollama.publish import Wish, export_ollama

    text = template if template in (None, "auto") else _read(Path(template))
    wish = Wish(run, name, kind.lower(), host, out, gguf, adapter, text, replace, modelfile_only)
    with progress(f"{run} as {name} in Ollama", 100) as advance:
        report = export_ollama(wish, lambda share: advance(round(100 * share)))
    conclude(report, as_json)


def _read(file: Path) -> str:
    from ...errors import UserError
    from ...user_files import MOST_SETTINGS, read_text

    try:
        return read_text(file, MOST_SETTINGS)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: this template cannot be read ({error})") from error
