"""Modelfile writer: the file for ``ollama create -f``, for users who create the model by hand.

The format has no escape character. A value in triple quotes continues until, at the end of a line, the text so far
(trimmed) ends in triple quotes again; characters that Go does not count as printable are silently dropped. These are
the rules of Ollama's own parser; a text that it could not read back is refused here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError

PARAMETERS: dict[str, float | int] = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "num_ctx": 4096}
QUOTES = '"""'
# Go's strconv.IsPrint: letters, marks, numbers, punctuation, symbols and the plain space.
PRINTABLE = ("L", "M", "N", "P", "S")
# The parser keeps these although they are not printable.
KEPT = " \t\r\n"


@dataclass
class OllamaModel:
    """Settings of a model in Ollama, in addition to its GGUF.

    Attributes:
        system: system prompt the run was trained with, ``None`` for none.
        stop: stop sequences.
        template: chat template in Go's syntax; ``None`` lets Ollama choose by the chat template in the GGUF.
        adapter: GGUF LoRA for the weights, ``None`` for fused weights.
    """

    system: str | None
    stop: list[str]
    template: str | None = None
    adapter: Path | None = None
    parameters: dict[str, float | int] = field(default_factory=lambda: dict(PARAMETERS))

    def request(self) -> dict[str, Any]:
        """Return the fields of ``/api/create`` that correspond to a Modelfile; JSON can hold every text."""
        said = {"parameters": {**self.parameters, **({"stop": self.stop} if self.stop else {})}}
        texts = {"system": self.system, "template": self.template}
        return said | {key: text for key, text in texts.items() if text}


def write_modelfile(gguf: Path, model: OllamaModel) -> str:
    """Return the text of a Modelfile.

    Args:
        gguf: the weights.

    Raises:
        UserError: there is no such file, or see ``check_modelfile``.
    """
    if not gguf.is_file():
        raise UserError(f"{gguf}: there is no such file, and Ollama would try to download a model of that name")
    lines = [
        "# Made by mlx-lora: `ollama create NAME -f` and this file's path makes a model of it.",
        f"FROM {_path(gguf)}",
        *([f"ADAPTER {_path(model.adapter)}"] if model.adapter else []),
        *(f"{command} {_quoted(text, command)[0]}" for command, text in _texts(model)),
        *(f"PARAMETER {name} {value}" for name, value in model.parameters.items()),
    ]
    check_modelfile(gguf, model)
    return "\n".join(lines) + "\n"


def check_modelfile(gguf: Path, model: OllamaModel) -> list[str]:
    """Check that the format can hold the texts; return notes for the user. ``gguf`` need not exist yet.

    Raises:
        UserError: a text or a path that the format cannot hold. A FROM that is read back as another path, without a
            file, would make Ollama download a model of that name.
    """
    for file in [gguf, *([model.adapter] if model.adapter else [])]:
        _path(file)
    return [note for command, text in _texts(model) if (note := _quoted(text, command)[1])]


def _path(file: Path) -> str:
    path = str(file.absolute())
    if unprintable(path) or re.search(r"[\t\r\n]", path):
        raise UserError(f"{path}: a Modelfile cannot hold this path, it has characters that are dropped; move the file")
    return f'"{path}"' if path != path.strip() else path


def _texts(model: OllamaModel) -> list[tuple[str, str]]:
    named = [("TEMPLATE", model.template), ("SYSTEM", model.system), *(("PARAMETER stop", text) for text in model.stop)]
    return [(command, text) for command, text in named if text]


def _quoted(text: str, command: str) -> tuple[str, str | None]:
    """Return the value in quotes, and a note on the characters that Ollama will drop."""
    note, dropped = None, unprintable(text)
    if dropped:
        named = ", ".join(f"U+{ord(c):04X} {unicodedata.name(c, 'without a name')}" for c in dropped[:3])
        more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        note = f"Ollama drops these characters of {command} from a Modelfile: {named}{more}"
        text = "".join(c for c in text if c not in dropped)
    if ends_early(text):
        raise UserError(
            f"{command}: a Modelfile cannot hold this text, a line of it ends in {QUOTES}, which ends the value there; "
            "change the text, or make the model without --modelfile-only (it goes to Ollama as JSON)"
        )
    return QUOTES + text + QUOTES, note


def unprintable(text: str) -> list[str]:
    """Return the characters that Ollama's parser drops (no-break spaces, joiners, controls), each once, in order."""
    odd = (c for c in text if c not in KEPT and unicodedata.category(c)[0] not in PRINTABLE)
    return list(dict.fromkeys(odd))


def ends_early(text: str) -> bool:
    """Return True if the parser would take a line break inside a text for the end of the value.

    At each line break it trims the text so far, opening quotes included, and looks for the closing ones.
    """
    for place in re.finditer(r"[\r\n]", text):
        so_far = (QUOTES + text[: place.start()]).strip()
        if so_far.endswith(QUOTES) and len(so_far) > 5:
            return True
    return False


def stop_texts(tokenizer: Any, ends: Sequence[int]) -> list[str]:
    """Return the stop sequences: the texts of the end-of-turn tokens, by their ids."""
    texts = [tokenizer.convert_ids_to_tokens(number) for number in sorted(ends)]
    return [text for text in dict.fromkeys(texts) if text]
