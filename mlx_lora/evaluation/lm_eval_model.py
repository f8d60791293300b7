"""A target as a language model of lm-evaluation-harness."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from .suite import Generation
from .targets.raw_texts import RawTexts


class TargetLM(LM):
    """Language model of lm-eval over raw texts: no chat template is applied."""

    def __init__(self, texts: RawTexts) -> None:
        super().__init__()
        self._texts = texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-probability, is greedy) of each (context, continuation)."""
        pairs = [_split(*request.args) for request in requests]
        return [(found.total, found.greedy) for found in self._texts.likelihoods(pairs)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-probability of each whole text."""
        return self._texts.whole([request.args[0] for request in requests])

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the continuation of each context; requests with the same settings are generated together."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        answers = [""] * len(requests)
        for numbers in groups.values():
            settings: Any = normalize_gen_kwargs(requests[numbers[0]].args[1])
            generation = Generation(settings["max_gen_toks"], settings.get("temperature", 0.0))
            contexts = [requests[number].args[0] for number in numbers]
            found = self._texts.complete(contexts, generation, settings["until"])
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers


def _split(context: str, continuation: str) -> tuple[str, str]:
    """Move white space from the end of a context to its continuation, where tokenizers have it."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation
