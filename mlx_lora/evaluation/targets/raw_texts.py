"""Raw texts without a chat template: log-probabilities and continuations from a target of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...engines.reply import Likelihood
from ...errors import UserError
from ..suite import Generation
from .likelihood import Tokens, encode, encode_pair, token_likelihoods
from .opening import ModelTarget
from .remote import EngineTarget
from .target import Target

# Context of a model that does not name its own.
UNLIMITED = 2**31


class RawTexts(Protocol):
    """Target that continues raw texts."""

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Return the log-probabilities of (context, continuation) pairs."""

    def whole(self, texts: Sequence[str]) -> list[float]:
        """Return the log-probability of each whole text, after the beginning-of-text token."""

    def complete(self, texts: Sequence[str], settings: Generation, stops: Sequence[str]) -> list[str]:
        """Return the continuation of each text, ended by the first of ``stops``."""


def raw_texts(target: Target) -> RawTexts:
    """Return the raw-text interface of a target.

    Raises:
        UserError: the target gives no log-probabilities.
    """
    if isinstance(target, ModelTarget):
        return ModelTexts(target)
    if isinstance(target, EngineTarget) and target.likelihoods is not None and target.complete is not None:
        return EngineTexts(target)
    raise UserError(
        f"{target.name}: it gives no log-probabilities of given texts; use a run, a base, a GGUF file or a server "
        "that does"
    )


@dataclass
class ModelTexts:
    """Raw texts through a base or a run in this process."""

    target: ModelTarget

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Return the log-probabilities of (context, continuation) pairs."""
        return token_likelihoods(self.target.backend, [encode_pair(self._tokenizer, *pair) for pair in pairs])

    def whole(self, texts: Sequence[str]) -> list[float]:
        """Return the log-probability of each whole text; one longer than the context is read in windows."""
        owners, windows = [], []
        for number, text in enumerate(texts):
            own = rolling_windows(self._tokenizer, text, self.target.backend.base.context or UNLIMITED)
            owners += [number] * len(own)
            windows += own
        totals = [0.0] * len(texts)
        for number, found in zip(owners, token_likelihoods(self.target.backend, windows), strict=True):
            totals[number] += found.total
        return totals

    def complete(self, texts: Sequence[str], settings: Generation, stops: Sequence[str]) -> list[str]:
        """Return the continuation of each text; a text that leaves no room is truncated on its left."""
        context = self.target.backend.base.context or UNLIMITED
        if settings.max_tokens >= context:
            raise UserError(
                f"{self.target.name}: {settings.max_tokens:,} tokens of an answer do not fit its context of {context:,}"
            )
        prompts = [encode(self._tokenizer, text)[-(context - settings.max_tokens) :] for text in texts]
        answers: list[str] = []
        for start in range(0, len(prompts), self.target.group):
            group = prompts[start : start + self.target.group]
            answers += self.target.backend.generate(
                group, settings.max_tokens, settings.temperature, settings.seed + start
            )
        return [ended(answer, stops) for answer in answers]

    @property
    def _tokenizer(self) -> Any:
        return self.target.backend.tokenizer


@dataclass
class EngineTexts:
    """Raw texts through another program."""

    target: EngineTarget

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Return the log-probabilities of (context, continuation) pairs.

        Raises:
            UserError: the program gives none, or fails one.
        """
        assert self.target.likelihoods is not None
        opening = self.target.opening()
        # Without a context, the continuation follows the beginning of a text.
        given = [(opening.before(context) if context else opening.text or "", text) for context, text in pairs]
        found = self.target.likelihoods(given)
        if found is None:
            raise UserError(f"{self.target.name}: this server gives no log-probabilities of given texts")
        for number, one in enumerate(found):
            if one is None:
                raise UserError(
                    f"{self.target.name}: it failed the log-probabilities of text {number + 1} "
                    f"({len(''.join(given[number])):,} characters), which may be longer than its context"
                )
        return found

    def whole(self, texts: Sequence[str]) -> list[float]:
        """Return the log-probability of each whole text, without its first token's if the opening is unknown."""
        # As lm-eval reads them: an opening that the tokenizer adds is predicted too.
        opening = self.target.opening()
        return [found.total for found in self.likelihoods([("", opening.before(text)) for text in texts])]

    def complete(self, texts: Sequence[str], settings: Generation, stops: Sequence[str]) -> list[str]:
        """Return the continuation of each text.

        Raises:
            UserError: the program fails one.
        """
        assert self.target.complete is not None
        found = dict(self.target.complete(texts, settings, stops))
        for reply in found.values():
            if reply.text is None:
                raise UserError(f"{self.target.name}: {reply.error}")
        return [ended(found[number].text or "", stops) for number in range(len(texts))]


def rolling_windows(tokenizer: Any, text: str, context: int) -> list[Tokens]:
    """Return (context, continuation) pairs of token ids that predict each token of a text once.

    The first pair begins with the beginning-of-text (or end-of-text) token, as lm-eval's do; a later one has all the
    context before it that fits the model with the tokens that it predicts.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = [first, *encode(tokenizer, text)]
    pairs = []
    for start in range(1, len(ids), context):
        end = min(start + context, len(ids))
        pairs.append((ids[max(0, end - context - 1) : start], ids[start:end]))
    return pairs


def ended(answer: str, stops: Sequence[str]) -> str:
    """Return an answer up to the first of some texts that end it."""
    for stop in stops:
        answer = answer.split(stop)[0] if stop else answer
    return answer
