"""``mlx-lora generate``: one answer of a model or an adapter."""

from __future__ import annotations

import click

from .options import backend_option, finite, json_option
from .output import print_json, print_notes, print_warnings, say


@click.command()
@click.option(
    "--target",
    required=True,
    metavar="TARGET",
    help="A run, a base model by name or directory, FILE.gguf, ollama:NAME, or http://HOST/v1#MODEL.",
)
@click.option("--prompt", required=True, help="The user's message; - reads it from standard input.")
@click.option("--system", help="The system prompt; by default the one the run was trained with.")
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, callback=finite, help="0 is greedy."
)
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@backend_option
@json_option
def generate(
    target: str,
    prompt: str,
    system: str | None,
    temperature: float,
    max_tokens: int,
    seed: int,
    backend: str | None,
    as_json: bool,
) -> None:
    """Ask a model or an adapter, a GGUF file or a server.

    \b
    mlx-lora generate --target adapters/lumen --prompt "TRAJECTORY:
    shape: convergence"
    """
    from contextlib import closing

    from ..data.dataset import is_text
    from ..errors import UserError
    from ..evaluation.cases import with_system
    from ..evaluation.suite import Generation
    from ..evaluation.targets.opening import open_target
    from ..user_files import MOST_TEXT, read_standard_input

    if prompt == "-":
        prompt = read_standard_input(MOST_TEXT).decode("utf-8", "surrogateescape")
    if not is_text(prompt):
        raise UserError("--prompt holds bytes that are no UTF-8 text; correct it")
    with closing(open_target(target, backend or "auto")) as opened:
        print_warnings(opened.warnings)
        print_notes(opened.notes)
        system = opened.system_prompt if system is None else system
        messages = with_system([{"role": "user", "content": prompt}], system)
        (reply,) = opened.answer([messages], [""], Generation(max_tokens, temperature, seed))
    if reply.text is None:
        raise UserError(f"{target}: {reply.error}")
    if as_json:
        print_json({"target": target, "prompt": prompt, "system": system, "answer": reply.text})
    else:
        say(reply.text)
