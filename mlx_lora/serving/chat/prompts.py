"""Prompts of requests: conversations and raw texts as token ids, with the tokenizer of their base."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ...data.chat_template import check_ids, encode_prompt
from ...data.messages import parse_messages
from ...errors import UserError
from ...evaluation.targets.likelihood import encode
from ...models.tokenizer import open_tokenizer
from ..api_error import ApiError
from .catalogue import ServedModel

# Tokenizers that are kept: a base has another one for each chat template that its runs have.
MOST_TOKENIZERS = 8


class Tokenizers:
    """Tokenizers by base and chat template, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def of(self, model: ServedModel) -> Any:
        """Return the tokenizer of a model's base.

        Raises:
            UserError: see ``open_tokenizer``.
        """
        base, (path, _, stamp) = model.base, model.base_key
        key = (path, stamp, base.chat_template, base.system_role)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = open_tokenizer(base)
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_TOKENIZERS:
                self._kept.popitem(last=False)
            return self._kept[key]


def encode_conversation(tokenizer: Any, model: ServedModel, messages: Sequence[Any], tools: Any = None) -> list[int]:
    """Return the token ids of a conversation, with the system prompt of the training where it has none.

    An empty system message stands for no system prompt.

    Raises:
        ApiError: 400, a message cannot be read, or the chat template refuses them.
    """
    try:
        read, _ = parse_messages(list(messages))
        system = [message for message in read if message["role"] == "system"]
        if not system and model.system_prompt:
            read.insert(0, {"role": "system", "content": model.system_prompt})
        shown = [m for m in read if m["role"] != "system" or m["content"]]
        missing = [m for m in shown if m["content"] is None and not m.get("tool_calls")]
        if missing:
            raise UserError(f"the {missing[0]['role']} message has no text in content")
        return encode_prompt(tokenizer, shown, tools or None)
    except UserError as error:
        said = str(error).replace("; correct or remove the row", "")
        raise ApiError(400, f"messages: {said}.", "invalid_messages", "messages") from error


def encode_raw(tokenizer: Any, prompt: str | Sequence[int]) -> list[int]:
    """Return the token ids of a raw text, with what the tokenizer adds in front, or those given.

    Without a text, it is the token that begins one.

    Raises:
        ApiError: 400, a token id is not the tokenizer's.
    """
    try:
        if isinstance(prompt, str):
            ids = encode(tokenizer, prompt)
        else:
            ids = list(prompt)
            odd = [token for token in ids if not 0 <= token < len(tokenizer)]
            if odd:
                raise UserError(f"{odd[0]} is not a token of this model; the last one is {len(tokenizer) - 1}")
            check_ids(tokenizer, ids)
    except UserError as error:
        raise ApiError(400, f"prompt: {error}.", "invalid_prompt", "prompt") from error
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not ids and first is None:
        raise ApiError(400, "prompt: it is empty, and this model has no token before it.", "invalid_prompt", "prompt")
    return ids or [first]


def text_pieces(tokenizer: Any, text: str, tokens: Sequence[int]) -> list[str]:
    """Return the part of a prompt's text that each of its tokens stands for; together they are the text.

    Args:
        tokens: as ``encode_raw`` gives them; those that the tokenizer adds in front stand for nothing.
    """
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    if list(encoding.ids) != list(tokens)[len(tokens) - len(encoding.ids) :]:
        # Another way of encoding: the text as a whole is the last token's.
        return [""] * (len(tokens) - 1) + [text]
    starts = [start for start, _ in encoding.offsets]
    bounds = [0, *starts[1:], len(text)] if starts else []
    added = [""] * (len(tokens) - len(encoding.ids))
    return added + [text[start:end] for start, end in pairwise(bounds)]
