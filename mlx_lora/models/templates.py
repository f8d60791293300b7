"""Chat template of a base: its own, ChatML, or the user's file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import UserError, guarded
from ..user_files import MOST_SETTINGS, read_text

CHATML = "chatml"
CHATML_FILE = Path(__file__).parent / "chatml.jinja"
END = "<|im_end|>"
GENERATION = re.compile(r"(\{%-?\s*)(end)?generation(\s*-?%\})")


def chosen_template(tokenizer: Any, choice: str, name: str) -> str:
    """Return the chat template of the config key ``chat_template``: ``chatml``, or the text of a file.

    Args:
        name: name of the base in messages.

    Raises:
        UserError: the file cannot be read or is not a Jinja template, or the tokenizer has no end-of-turn token.
    """
    if choice == CHATML:
        return chatml(tokenizer, name)
    file = Path(choice).expanduser()
    try:
        text = read_text(file, MOST_SETTINGS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"chat_template {choice}: this file cannot be read ({error}); name a Jinja file, or {CHATML}"
        ) from error
    check_template(text, f"chat_template {choice}")
    return text


def chatml(tokenizer: Any, name: str) -> str:
    """Return ChatML for a tokenizer, with its BOS in front where the tokenizer itself adds one.

    The end of turn must be one token, since generation stops only at a token: ``<|im_end|>``, or else the
    tokenizer's EOS in its place.
    """
    ids = tokenizer.backend_tokenizer.encode(END, add_special_tokens=False).ids
    end = END if len(ids) == 1 else tokenizer.eos_token
    if not end:
        raise UserError(
            f"chat_template: the tokenizer of {name} has neither {END} nor an EOS token, so that no token can end an "
            "answer; give a template's file that writes another, or use another base"
        )
    first = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids[:1]
    begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    text = CHATML_FILE.read_text(encoding="utf-8").rstrip("\n")
    return text.replace("BOS", "bos_token" if begins else "''").replace("END", _quoted(str(end)))


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def check_template(text: str, where: str) -> None:
    """Raise UserError if a text is not a Jinja template, or uses random values."""
    from jinja2 import nodes
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(text) > MOST_SETTINGS:
        raise UserError(f"{where}: this chat template has more than {MOST_SETTINGS:,} characters; use another")
    with guarded(f"{where}: this is not a Jinja template", "; correct it"):
        # Parsing only: transformers' own environment, which renders the template, supports this tag.
        plain = GENERATION.sub(lambda tag: f"{tag[1]}{'endif' if tag[2] else 'if true'}{tag[3]}", text)
        tree = ImmutableSandboxedEnvironment(extensions=[loopcontrols]).parse(plain)
        drawn = any(f.name == "random" for f in tree.find_all(nodes.Filter))
        drawn |= any(n.name == "lipsum" for n in tree.find_all(nodes.Name))
    if drawn:
        raise UserError(f"{where}: this chat template draws at random, so that no run could be repeated; change it")


def stored_templates(path: Path) -> dict[str, str]:
    """Return the default chat template of each file of a base that has one, in order of precedence."""
    found = {}
    file = path / "chat_template.jinja"
    if file.exists():
        with guarded(f"{file}: this chat template cannot be read", "; download the model again"):
            found[file.name] = read_text(file, MOST_SETTINGS)
    for name in ("tokenizer_config.json", "chat_template.json"):
        file = path / name
        if not file.exists():
            continue
        with guarded(f"{file}: this is not readable JSON", "; download the model again"):
            template = json.loads(read_text(file)).get("chat_template")
            if isinstance(template, list):
                template = {item["name"]: item["template"] for item in template}
            if isinstance(template, dict):
                template = template.get("default")
        if isinstance(template, str):
            found[name] = template
    return found
