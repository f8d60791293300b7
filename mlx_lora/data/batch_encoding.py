"""Batch tokenization: token ids of many texts in one call, on all cores; a common prefix is encoded once.

A special token divides a text: the text after it has the same tokens whatever precedes it. So a common prefix that
ends with one is encoded once, and each text from that token on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np

# Minimum length in characters of a common prefix that is encoded separately.
MIN_PREFIX = 32
# A shorter prefix of prompts, in tokens, is not worth its copies.
LEAST_PREFIX = 8

Tokens = tuple[np.ndarray, np.ndarray]
Item = TypeVar("Item", str, list[int])


def encode_text(tokenizer: Any, text: str) -> Tokens:
    """Return int32 [length] token ids and int64 [length, 2] character offsets, without special tokens around."""
    # The tokenizers library's own encoding, since mlx-lm's wrapper of a tokenizer gives no offsets.
    return _arrays(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False))


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> Iterator[Tokens]:
    """Yield the result of :func:`encode_text` for each text."""
    common = common_prefix(texts) if len(texts) > 2 else ""
    mark, end = _last_divider(tokenizer, common)
    start = end - len(mark)
    ids, offsets = encode_text(tokenizer, common[:end])
    # Another token that begins before the special one could take a part of it.
    if end < MIN_PREFIX or offsets[-1].tolist() != [start, end]:
        yield from _encode_all(tokenizer, texts)
        return
    whole = encode_text(tokenizer, texts[0])
    for number, (own, places) in enumerate(_encode_all(tokenizer, [text[start:] for text in texts])):
        joined = np.concatenate([ids, own[1:]]), np.concatenate([offsets, places[1:] + start])
        # Whatever else a tokenizer may do: the first text is encoded as a whole too.
        if number == 0 and not all(map(np.array_equal, joined, whole)):
            yield from _encode_all(tokenizer, texts)
            return
        yield joined


def _encode_all(tokenizer: Any, texts: Sequence[str]) -> Iterator[Tokens]:
    return map(_arrays, tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False))


def _arrays(encoding: Any) -> Tokens:
    places = encoding.offsets
    offsets = np.fromiter(chain.from_iterable(places), np.int64, 2 * len(places)).reshape(-1, 2)
    return np.array(encoding.ids, dtype=np.int32), offsets


def common_prefix(sequences: Sequence[Item]) -> Item:
    """Return the longest common prefix of texts, or of lists of tokens."""
    # That of the first and the last in sorted order is common to all.
    first, last = min(sequences), max(sequences)
    return first[: common_length(first, last)]


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the length of the common prefix of two sequences."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(first), len(second)))


def _last_divider(tokenizer: Any, common: str) -> tuple[str, int]:
    """Return the last special token in a common prefix and where it ends; ("", 0) where none divides it for sure."""
    added = tokenizer.added_tokens_decoder.values()
    found = ("", 0)
    for token in added:
        at = common.rfind(token.content)
        end = at + len(token.content)
        if at < 0 or end <= found[1] or not token.special:
            continue
        plain = not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        # A longer token that holds this one could take its place, with characters of the text's own.
        if plain and not any(token.content in other.content for other in added if other is not token):
            found = (token.content, end)
    return found
