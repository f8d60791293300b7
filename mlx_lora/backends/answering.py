"""Answers that grow token by token: the settings of one, its tokens, and the batch that answers join and leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """Settings of one answer; what is drawn depends on the seed alone, not on the other answers of a batch.

    Attributes:
        temperature: 0 is greedy.
        top_p: sum of the probabilities of the tokens that are drawn from, the most likely first.
        top: alternatives whose log-probabilities are reported; ``None`` reports none, the token's own included.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top: int | None = None


@dataclass(frozen=True)
class TokenScore:
    """Log-probability of a token after those before it, and the most likely ones, the first at the top.

    They are the model's own, before temperature and top_p.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class NewToken:
    """New token of an answer.

    Attributes:
        row: the answer, as ``join`` numbered it.
        finish: set on the last token; an end-of-turn token (``stop``) is not part of the text.
    """

    row: int
    token: int
    score: TokenScore | None = None
    finish: Finish | None = None


class AnswerBatch(Protocol):
    """Answers of one model with one adapter that grow together, between steps of which others join and leave.

    An answer is that which its prompt has alone. The adapter must be the one in use whenever a method is called.
    """

    def __len__(self) -> int:
        """Return the number of answers that grow."""

    def join(self, prompt: Sequence[int], sampling: Sampling, scores: list[TokenScore] | None = None) -> int:
        """Add an answer to a prompt of token ids, which is computed now; return its number.

        Args:
            scores: a list to which the scores of the prompt's tokens but the first are added.
        """

    def leave(self, row: int) -> None:
        """Take an answer out; one that has ended is out already."""

    def step(self) -> list[NewToken]:
        """Return the next token of each answer."""


def token_scores(
    tokens: Sequence[int], logprobs: Iterable[Any], best: Iterable[Any], values: Iterable[Any]
) -> list[TokenScore]:
    """Return the scores of tokens.

    Args:
        logprobs: [tokens], the tokens' own.
        best: [tokens, top], the most likely tokens in any order.
        values: [tokens, top], their log-probabilities.
    """
    scores = []
    for token, logprob, others, theirs in zip(tokens, logprobs, best, values, strict=True):
        pairs = zip(map(int, others), map(float, theirs), strict=True)
        ranked = sorted(pairs, key=lambda one: (-one[1], one[0]))
        scores.append(TokenScore(token, float(logprob), tuple(ranked)))
    return scores


def last_token(row: int, token: int, score: TokenScore | None, count: int, sampling: Sampling, ends: Any) -> NewToken:
    """Return a new token, with the reason for which it is the last one.

    Args:
        count: tokens of the answer so far, this one included.
        ends: ids of the end-of-turn tokens.
    """
    finish: Finish | None = "stop" if token in ends else "length" if count >= sampling.max_tokens else None
    return NewToken(row, token, score, finish)
