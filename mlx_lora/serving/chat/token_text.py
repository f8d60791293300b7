"""Text of tokens as they come: whole characters only, up to the first stop text, with the tokens' own bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from ...backends.answering import Finish, NewToken, TokenScore

# Decoded from bytes that are not a whole character yet.
INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class PieceToken:
    """Token of an answer.

    Attributes:
        text: what it added to the text; empty where it is a part of a character.
        end: it is an end-of-turn token, and adds nothing.
    """

    token: int
    text: str
    score: TokenScore | None = None
    end: bool = False


@dataclass
class Piece:
    """Next part of an answer's text, and the tokens that it consists of.

    Attributes:
        finish: set on the last one.
    """

    text: str = ""
    tokens: list[PieceToken] = field(default_factory=list)
    finish: Finish | None = None


class Detokenizer:
    """Text of a growing list of tokens: the parts add up to what the tokenizer decodes from all of them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # The text before ``read`` is out; decoding begins at ``start``, since a tokenizer drops a first space.
        self._start = self._read = 0

    def add(self, token: int) -> str:
        """Return what a token adds to the text."""
        self._tokens.append(token)
        return self._more(whole=True)

    def rest(self) -> str:
        """Return what is left at the end: bytes that are no character."""
        return self._more(whole=False)

    def _more(self, whole: bool) -> str:
        shown = self._tokenizer.decode(self._tokens[self._start : self._read])
        text = self._tokenizer.decode(self._tokens[self._start :])
        if len(text) <= len(shown) or (whole and text.endswith(INCOMPLETE)):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return text[len(shown) :]


class AnswerText:
    """Text of an answer from its tokens.

    Args:
        stops: texts that end the answer, and are not part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._detokenizer, self._stops = Detokenizer(tokenizer), [stop for stop in stops if stop]
        self._held = ""
        self._tokens: list[PieceToken] = []

    def add(self, new: NewToken) -> Piece:
        """Return what can be shown after a new token: nothing that may still be the beginning of a stop text."""
        ended = new.finish == "stop"
        text = "" if ended else self._detokenizer.add(new.token)
        if new.finish is not None:
            text += self._detokenizer.rest()
        self._held += text
        self._tokens.append(PieceToken(new.token, text, new.score, ended))
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            return self._cut(min(found))
        if new.finish is None and any(self._may_begin(stop) for stop in self._stops):
            return Piece()
        piece = Piece(self._held, self._tokens, new.finish)
        self._held, self._tokens = "", []
        return piece

    def _may_begin(self, stop: str) -> bool:
        return any(self._held.endswith(stop[:length]) for length in range(1, len(stop)))

    def _cut(self, place: int) -> Piece:
        """Return the last piece, without the stop text at a place and the tokens that begin there or later."""
        kept, length = [], 0
        for token in self._tokens:
            if length >= place:
                break
            kept.append(PieceToken(token.token, token.text[: place - length], token.score))
            length += len(token.text)
        return Piece(self._held[:place], kept, "stop")


@cache
def _byte_of() -> dict[str, int]:
    """Return the byte that each character stands for in a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


@lru_cache(maxsize=16)
def _vocabulary_of(tokenizer: Any) -> tuple[frozenset[int], bool]:
    """Return the ids of the added tokens, and True if the others are byte-level; asked for, both are made anew."""
    return frozenset(tokenizer.added_tokens_decoder), "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """Return the bytes of a token, which may be a part of a character."""
    raw = tokenizer.convert_ids_to_tokens(token)
    added, byte_level = _vocabulary_of(tokenizer)
    if raw is None or token in added:
        return (raw or "").encode(errors="replace")
    if byte_level:
        table = _byte_of()
        return b"".join(bytes([table[c]]) if c in table else c.encode(errors="replace") for c in raw)
    found = re.fullmatch("<0x([0-9A-Fa-f]{2})>", raw)
    return bytes([int(found[1], 16)]) if found else raw.replace("▁", " ").encode(errors="replace")


def token_text(tokenizer: Any, token: int) -> str:
    """Return the text of a token alone; a part of a character is U+FFFD."""
    return token_bytes(tokenizer, token).decode(errors="replace")
