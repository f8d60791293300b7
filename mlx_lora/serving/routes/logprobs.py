"""Log-probabilities of answers in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...backends.answering import TokenScore
from ..chat.answering import Answering
from ..chat.prompts import text_pieces
from ..chat.token_text import Detokenizer, Piece, token_bytes, token_text
from .chat_models import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob

# What OpenAI's answers have in place of the log-probability of what cannot be.
IMPOSSIBLE = -9999.0


def chat_logprobs(tokenizer: Any, pieces: Iterable[Piece]) -> ChatLogprobs:
    """Return the log-probabilities of the tokens of an answer's text."""

    def of(token: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(tokenizer, token)
        return {
            "token": data.decode(errors="replace"),
            "bytes": list(data),
            "logprob": max(logprob, IMPOSSIBLE),
        }

    return ChatLogprobs(
        content=[
            TokenLogprob(
                **of(token.token, token.score.logprob),
                top_logprobs=[TopLogprob(**of(*ranked)) for ranked in token.score.top],
            )
            for piece in pieces
            for token in piece.tokens
            if token.score is not None and not token.end
        ]
    )


class CompletionScores:
    """Log-probabilities of a completion, piece by piece; its tokens' texts add up to its text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._offset = tokenizer, 0

    def of(self, tokens: Iterable[tuple[str, TokenScore | None]]) -> CompletionLogprobs:
        """Return those of the next tokens, each with its part of the text."""
        found = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for text, score in tokens:
            found.tokens.append(text)
            found.token_logprobs.append(None if score is None else max(score.logprob, IMPOSSIBLE))
            found.top_logprobs.append(None if score is None else self._top(score))
            found.text_offset.append(self._offset)
            self._offset += len(text)
        return found

    def _top(self, score: TokenScore) -> dict[str, float]:
        """Return the most likely tokens and the token itself, by their texts; of two with one text, the likelier."""
        named: dict[str, float] = {}
        for token, logprob in (*score.top, (score.token, score.logprob)):
            named.setdefault(token_text(self._tokenizer, token), max(logprob, IMPOSSIBLE))
        return named


def prompt_tokens(answering: Answering, text: str | None) -> list[tuple[str, TokenScore | None]]:
    """Return the tokens of a prompt with their parts of its text and their scores; the first has none.

    Args:
        text: the prompt's text; ``None`` where it came as token ids.
    """
    if text is not None:
        pieces = text_pieces(answering.tokenizer, text, answering.prompt)
    else:
        detokenizer = Detokenizer(answering.tokenizer)
        pieces = [detokenizer.add(token) for token in answering.prompt]
        pieces[-1] += detokenizer.rest()
    return list(zip(pieces, [None, *answering.prompt_scores], strict=True))
