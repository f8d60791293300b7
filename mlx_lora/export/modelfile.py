"""A Modelfile: what ``ollama create -f`` reads, written for people who do it by hand.

The format has no escape character. A value in triple quotes goes on until, at the end of a line, the text so far
(trimmed) ends in triple quotes again; characters that Go does not count as printable are dropped without a word.
Those are the rules of Ollama's own parser, and what it could not read back is refused here.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError

PARAMETERS: dict[str, float | int] = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "num_ctx": 4096}
QUOTES = '"""'
# Go's strconv.IsPrint: letters, marks, numbers, punctuation, symbols and the plain space.
PRINTABLE = ("L", "M", "N", "P", "S")
# The parser keeps these although they are not printable.
KEPT = " \t\r\n"


@dataclass
class OllamaModel:
    """What a model in Ollama is made of, beside its GGUF.

    Attributes:
        system: the system prompt the run was trained with, ``None`` for none.
        stop: texts at which an answer ends.
    """

    system: str | None
    stop: list[str]
    parameters: dict[str, float | int] = field(default_factory=lambda: dict(PARAMETERS))

    def request(self) -> dict[str, Any]:
        """The part of the body of ``/api/create`` that a Modelfile would say; JSON holds every text."""
        said = {"parameters": {**self.parameters, **({"stop": self.stop} if self.stop else {})}}
        return said | ({"system": self.system} if self.system else {})


def write_modelfile(gguf: Path, model: OllamaModel) -> tuple[str, list[str]]:
    """The text, and what its reader should know, a sentence each.

    Args:
        gguf: the weights; a FROM that does not exist would make Ollama download a model of that name.

    Raises:
        UserError: there is no such file, or a text that the format cannot hold.
    """
    notes: list[str] = []
    lines = [
        "# Made by mlx-lora: `ollama create NAME -f` and this file's path makes a model of it.",
        f"FROM {_path(gguf)}",
    ]
    if model.system:
        lines.append(f"SYSTEM {_quoted(model.system, 'the system prompt', notes)}")
    lines += [f"PARAMETER {name} {value}" for name, value in model.parameters.items()]
    lines += [f"PARAMETER stop {_quoted(text, f'the stop text {text!r}', notes)}" for text in model.stop]
    return "\n".join(lines) + "\n", notes


def _path(gguf: Path) -> str:
    path = str(gguf.absolute())
    if not gguf.is_file():
        raise UserError(f"{path}: there is no such file, and Ollama would try to download a model of that name")
    if unprintable(path) or re.search(r"[\t\r\n]", path):
        raise UserError(f"{path}: a Modelfile cannot hold this path, it has characters that are dropped; move the file")
    return f'"{path}"' if path != path.strip() else path


def _quoted(text: str, what: str, notes: list[str]) -> str:
    dropped = unprintable(text)
    if dropped:
        named = ", ".join(f"U+{ord(c):04X} {unicodedata.name(c, 'without a name')}" for c in dropped[:3])
        more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        notes.append(f"Ollama drops these characters of {what} from a Modelfile: {named}{more}")
        text = "".join(c for c in text if c not in dropped)
    if ends_early(text):
        raise UserError(
            f"{what}: a Modelfile cannot hold this text, a line of it ends in {QUOTES}, which ends the value there; "
            "change the text, or make the model without a Modelfile (it goes to Ollama as JSON)"
        )
    return QUOTES + text + QUOTES


def unprintable(text: str) -> list[str]:
    """The characters that Ollama's parser drops, each once, in order: no-break spaces, joiners, controls, ..."""
    odd = (c for c in text if c not in KEPT and unicodedata.category(c)[0] not in PRINTABLE)
    return list(dict.fromkeys(odd))


def ends_early(text: str) -> bool:
    """Whether the parser would take an end of line inside a text for the end of the value.

    At each line break it trims what it has, opening quotes included, and looks for the closing ones.
    """
    for place in re.finditer(r"[\r\n]", text):
        so_far = (QUOTES + text[: place.start()]).strip()
        if so_far.endswith(QUOTES) and len(so_far) > 5:
            return True
    return False


def stop_texts(tokenizer: Any, config: dict[str, Any]) -> list[str]:
    """The texts of the tokens that end an answer: the tokenizer's own, and those of the model's config.

    Args:
        config: ``config.json`` or ``generation_config.json``, whose ``eos_token_id`` is a number or a list.
    """
    # mlx-lm's wrapper has a set of them, a plain tokenizer one; so has a config a list or one.
    found = [config.get("eos_token_id"), tokenizer.eos_token_id, getattr(tokenizer, "eos_token_ids", None)]
    ids = {int(number) for some in found for number in ([some] if isinstance(some, int) else some or [])}
    texts = [tokenizer.convert_ids_to_tokens(number) for number in sorted(ids)]
    return [text for text in dict.fromkeys(texts) if text]
