"""llama.cpp session process: ``python -m mlx_lora.engines.llamacpp.session_worker BINDING FILE [LORA]``.

It loads the model once, and answers each line of standard input, a JSON object, with one line on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ...memory import peak_resident
from .bindings import BINDINGS

# llama.cpp itself enlarges a context of fewer than 256 tokens.
STEP = 256


class Session:
    """A loaded model, whose context grows with what is asked."""

    def __init__(self, binding: str, file: str, lora: str | None) -> None:
        started = time.perf_counter()
        self.model, self.context = BINDINGS[binding](file, STEP, lora), STEP
        self.facts = {
            "load_s": time.perf_counter() - started,
            "context": self.model.trained_context,
            "template": self.model.template(),
            "special": self.model.special_texts(),
            "adds_bos": len(self.model.tokenize("a", special=True)) > len(self.model.tokenize("a")),
        }

    def reserve(self, tokens: int) -> dict[str, Any]:
        """Make room for so many tokens."""
        if tokens > self.context:
            self.context = -(-tokens // STEP) * STEP
            self.model.resize(self.context)
        return {}

    def tokenize(self, text: str) -> dict[str, Any]:
        """Return the token ids of a text, special tokens parsed."""
        return {"tokens": self.model.tokenize(text)}

    def answer(self, prompt: list[int], max_tokens: int, temperature: float, seed: int) -> dict[str, Any]:
        """Generate after a prompt, up to an end-of-generation token; greedy at temperature 0."""
        self.reserve(len(prompt) + max_tokens)
        draw, started = np.random.default_rng(seed), time.perf_counter()
        times: list[float] = []
        tokens: list[int] = []
        unread, past, stopped = prompt, 0, False
        while len(tokens) < max_tokens and not stopped:
            if temperature <= 0:
                token = self.model.top(unread, past)
            else:
                token = sampled(self.model.logits(unread, [len(unread) - 1], past)[0], temperature, draw)
            times.append(time.perf_counter() - started)
            past, unread, stopped = past + len(unread), [token], self.model.is_end(token)
            tokens.append(token)
        text = self.model.text(tokens[:-1] if stopped else tokens)
        return {"text": text, "tokens": len(tokens), "stopped": stopped, "first": times[0], "last": times[-1]}

    def score(self, tokens: list[int], start: int) -> dict[str, Any]:
        """Return the log-probability of each token from ``start``, and if each is the top-1 token."""
        self.reserve(len(tokens))
        logits = self.model.logits(tokens[:-1], list(range(start - 1, len(tokens) - 1))).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(logits)), tokens[start:]]
        logprobs = own - np.log(np.exp(logits).sum(axis=1))
        return {"logprobs": logprobs.tolist(), "greedy": bool((own == 0).all())}


def sampled(logits: np.ndarray, temperature: float, draw: np.random.Generator) -> int:
    """Draw a token from softmax(logits / temperature), by Gumbel's maximum."""
    return int((logits.astype(np.float64) / temperature + draw.gumbel(size=len(logits))).argmax())


def main(binding: str, file: str, lora: str | None = None) -> None:
    """Serve requests until standard input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What llama.cpp prints is a log, not an answer.
    os.dup2(2, 1)

    def say(content: dict[str, Any]) -> None:
        out.write(json.dumps(content) + "\n")
        out.flush()

    session = Session(binding, file, lora)
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        action.__name__: action for action in (session.reserve, session.tokenize, session.answer, session.score)
    }
    say(session.facts)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            found = actions[request.pop("action")](**request)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        say({**found, "peak": peak_resident()})


if __name__ == "__main__":
    main(*sys.argv[1:])
