"""Inspection of a base at load: contradictions between its files, and how they are resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.chat_template import render
from ..errors import UserError, guarded
from ..user_files import read_text
from .parameters import read_header
from .templates import stored_templates

# Names of token embeddings in published checkpoints; not of images, sounds or positions.
EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|token_embd|embeddings?|shared|emb)\.weight$"
)
OTHER_EMBEDDING = re.compile(r"vis(ion|ual)|image|audio|speech|position|patch", re.IGNORECASE)
QUESTION, ANSWER = "mlx1question", "mlx2answer"


@dataclass
class BaseFacts:
    """Result of an inspection; kept on the tokenizer as ``base_facts``.

    Attributes:
        ends: ids of the end-of-turn tokens: those of config.json, generation_config.json and the tokenizer, and
            the one that the chat template ends answers with.
        embedding_rows: rows of the model's embedding, ``None`` if unknown.
        context: tokens that the model can attend to, ``None`` if unknown.
        tokens_beyond: tokens of the tokenizer without an embedding row.
        dtypes: stored dtypes of the weights, by safetensors' names.
        system_role: ``merge`` or ``refuse``, for templates without a system role.
        given_template: chat template from the config; ``None`` for the base's own.
        notes: notes for the user, one sentence each.
    """

    ends: list[int] = field(default_factory=list)
    embedding_rows: int | None = None
    context: int | None = None
    tokens_beyond: int = 0
    dtypes: set[str] = field(default_factory=set)
    system_role: str = "merge"
    given_template: str | None = None
    notes: list[str] = field(default_factory=list)


def inspect_base(path: Path, tokenizer: Any, name: str, facts: BaseFacts) -> None:
    """Compare a base's files with each other and fill ``facts``.

    Raises:
        UserError: config.json, generation_config.json or the weights' headers cannot be read.
    """
    facts.embedding_rows, facts.dtypes = _embedding(path)
    facts.context = _context(path)
    facts.ends = _ends(path, tokenizer, name, facts)
    facts.notes += _beyond(tokenizer, name, facts) + _templates(path, tokenizer, name, facts)


def _context(path: Path) -> int | None:
    config = read_object(path / "config.json")
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        value = part.get("max_position_embeddings")
        if isinstance(value, int) and value > 0:
            return value
    return None


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a base; an empty one if the file is missing."""
    if not file.exists():
        return {}
    with guarded(f"{file}: this is not readable JSON", "; download the model again"):
        content = json.loads(read_text(file))
    if not isinstance(content, dict):
        raise UserError(f"{file}: this is a JSON {type(content).__name__} and not an object; download the model again")
    return content


def _embedding(path: Path) -> tuple[int | None, set[str]]:
    """Return (rows of the token embedding, dtypes of the weights) from safetensors headers or else config.json."""
    rows: list[int] = []
    dtypes: set[str] = set()
    for file in sorted(path.glob("model*.safetensors")):
        with guarded(f"{file}: this safetensors file is broken", "; download it again"):
            for tensor, stored in read_header(file).items():
                dtypes.add(stored["dtype"])
                if EMBEDDING.search(tensor) and not OTHER_EMBEDDING.search(tensor) and len(stored["shape"]) == 2:
                    rows.append(int(stored["shape"][0]))
    if rows:
        return max(rows), dtypes
    config = read_object(path / "config.json")
    inner = config.get("text_config")
    found = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else None)
    return (found if _is_id(found) else None), dtypes


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _ends(path: Path, tokenizer: Any, name: str, facts: BaseFacts) -> list[int]:
    named: list[int] = []
    for file in ("generation_config.json", "config.json"):
        content = read_object(path / file)
        inner = content.get("text_config")
        value = content.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, dict) else None)
        values = value if isinstance(value, list) else [] if value is None else [value]
        known = [number for number in values if _is_id(number) and number < (facts.embedding_rows or 2**31)]
        if len(known) < len(values):
            facts.notes.append(f"{name}: {file} names {value!r} as eos_token_id, which is not a token of this model")
        named += known
    own = tokenizer.eos_token_id
    named += [own] if _is_id(own) else []
    learned = learned_end(tokenizer, named)
    if learned is not None and learned not in named:
        facts.notes.append(
            f"{name}: its chat template ends answers with {tokenizer.convert_ids_to_tokens(learned)!r} ({learned}), "
            "which neither its config nor its tokenizer names as an end; generation stops there as well, and exports "
            "write it among the ends"
        )
    return list(dict.fromkeys([*named, *([] if learned is None else [learned])]))


def learned_end(tokenizer: Any, named: Sequence[int] = ()) -> int | None:
    """Return the end-of-turn token that the chat template writes after an answer; ``None`` if it writes none.

    Args:
        named: further ids that may end an answer, in addition to the tokenizer's added tokens.
    """
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text = render(tokenizer, chat)
    except UserError:
        return None
    stop = text.rfind(ANSWER) + len(ANSWER)
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ending = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids, *named}
    pairs = zip(encoding.ids, encoding.offsets, strict=True)
    return next((number for number, (start, _) in pairs if start >= stop and number in ending), None)


def _beyond(tokenizer: Any, name: str, facts: BaseFacts) -> list[str]:
    if (rows := facts.embedding_rows) is None:
        return []
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    facts.tokens_beyond = len(beyond)
    if not beyond:
        return []
    number, token = beyond[0]
    more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    return [
        f"{name}: the tokenizer has the token {token!r} ({number}){more} and the model's embedding {rows} rows; "
        "text with it is refused"
    ]


def _templates(path: Path, tokenizer: Any, name: str, facts: BaseFacts) -> list[str]:
    if facts.given_template is not None:
        own = tokenizer.init_kwargs.get("chat_template")
        replaced = own is not None and own != facts.given_template
        return [f"{name}: the chat template of the config is used in place of its own"] if replaced else []
    stored = stored_templates(path)
    used, *others = stored or [""]
    other = next((file for file in others if stored[file] != stored[used]), None)
    return [f"{name}: {used} and {other} hold different chat templates; that of {used} is used"] if other else []
