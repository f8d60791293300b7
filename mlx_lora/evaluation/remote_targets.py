"""Targets in other programs: a GGUF file in llama.cpp, Ollama, an OpenAI-compatible server, a file of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.dataset import read_jsonl
from ..engines.reply import Reply
from ..errors import UserError, shortened
from ..files import sha256_of
from ..runs.resolve import Reference
from .suite import Generation
from .target import Messages, Target

# Conversations between two saves of the answers; the clients bound what runs at a time.
GROUP = 8
Chat = Callable[[Sequence[Messages], Generation], Iterator[tuple[int, Reply]]]


@dataclass
class EngineTarget:
    """Model that another program runs; see ``engines``.

    Attributes:
        chat: asks conversations; each has the seed of its place, whatever its company.
        likelihoods: natural log-probabilities of raw (prompt, continuation) texts, where the program gives them.
        facts: ``load_s`` and ``peak_memory_bytes``, where they are known.
    """

    name: str
    identity: str
    chat: Chat
    facts: Callable[[], dict[str, float | None]] = dict
    likelihoods: Callable[[Sequence[tuple[str, str]]], Any] | None = None
    system_prompt: str | None = None
    warnings: list[str] = field(default_factory=list)
    group: int = GROUP
    _first: list[float] = field(default_factory=list)
    _rates: list[float] = field(default_factory=list)
    _load_s: float | None = None

    def answer(self, conversations: Sequence[Messages], ids: Sequence[str], settings: Generation) -> list[Reply]:
        """Answer conversations; one that the program fails has no text, and the reason.

        Raises:
            UserError: the program cannot be reached, or does not have the model.
        """
        found = dict(self.chat(conversations, settings))
        replies = [found[number] for number in range(len(conversations))]
        for reply in replies:
            self._first += [] if reply.first_token_s is None else [reply.first_token_s]
            rate = reply.tokens_per_second
            if rate is None and reply.completion_tokens and reply.seconds:
                rate = reply.completion_tokens / reply.seconds
            self._rates += [] if rate is None else [rate]
            if reply.load_s is not None and self._load_s is None:
                self._load_s = reply.load_s
        return replies

    def performance(self) -> dict[str, float | None]:
        """Return the means of the program's own counters."""

        def mean(values: list[float]) -> float | None:
            return sum(values) / len(values) if values else None

        measured = {"load_s": self._load_s, "first_token_s": mean(self._first), "tokens_per_s": mean(self._rates)}
        return {**measured, "peak_memory_bytes": None, **self.facts()}


@dataclass
class AnswersTarget:
    """File of answers that exist already, one JSON object a line: ``{"id", "answer"}``."""

    name: str
    identity: str
    answers: dict[str, str]
    system_prompt: str | None = None
    warnings: list[str] = field(default_factory=list)
    group: int = 1024

    def answer(self, conversations: Sequence[Messages], ids: Sequence[str], settings: Generation) -> list[Reply]:
        """Return the answers of cases by their ids; a case that the file lacks is not answered."""
        missing = Reply(None, f"{self.name} has no answer to this case")
        return [Reply(self.answers[name]) if name in self.answers else missing for name in ids]

    def performance(self) -> dict[str, float | None]:
        """Return nothing measured."""
        return dict.fromkeys(("load_s", "first_token_s", "tokens_per_s", "peak_memory_bytes"))


def open_remote(reference: Reference) -> Target:
    """Open a target that another program runs.

    Raises:
        UserError: it cannot be loaded or reached, or an extra is missing.
    """
    return {"gguf": _gguf, "ollama": _ollama, "server": _server, "answers": _answers}[reference.kind](reference)


def _seeds(conversations: Sequence[Messages], settings: Generation) -> list[int]:
    return [settings.seed + number for number in range(len(conversations))]


def _gguf(reference: Reference) -> Target:
    from ..engines.llamacpp.session import GGUFModel

    model = GGUFModel(reference.location)

    def chat(conversations: Sequence[Messages], settings: Generation) -> Iterator[tuple[int, Reply]]:
        seeds = _seeds(conversations, settings)
        return model.chat(conversations, max_tokens=settings.max_tokens, temperature=settings.temperature, seed=seeds)

    def facts() -> dict[str, float | None]:
        return {"load_s": model.load_s, "peak_memory_bytes": model.peak_bytes}

    identity = f"gguf:{sha256_of(reference.location)}"
    return EngineTarget(reference.name, identity, chat, facts, model.likelihoods)


def _ollama(reference: Reference) -> Target:
    from ..engines.ollama import Ollama, check_name

    client, name = Ollama(), check_name(reference.remote_model)

    def chat(conversations: Sequence[Messages], settings: Generation) -> Iterator[tuple[int, Reply]]:
        seeds = _seeds(conversations, settings)
        return client.chat(
            name, conversations, max_tokens=settings.max_tokens, temperature=settings.temperature, seed=seeds
        )

    if not client.exists(name):
        raise UserError(f"{reference.name}: Ollama has no model {name}; `ollama list` names those that it has")
    return EngineTarget(reference.name, f"ollama:{client.url}:{name}", chat)


def _server(reference: Reference) -> Target:
    from ..engines.openai_likelihood import likelihoods
    from ..engines.openai_server import OpenAIServer

    server = OpenAIServer(reference.name)
    server.check()

    def chat(conversations: Sequence[Messages], settings: Generation) -> Iterator[tuple[int, Reply]]:
        seeds = _seeds(conversations, settings)
        return server.chat(conversations, max_tokens=settings.max_tokens, temperature=settings.temperature, seed=seeds)

    identity = f"server:{server.url}:{server.model}"
    return EngineTarget(reference.name, identity, chat, likelihoods=lambda pairs: likelihoods(server, pairs))


def _answers(reference: Reference) -> Target:
    found: dict[str, str] = {}
    for where, row in read_jsonl(reference.location):
        name = row.get("id", row.get("doc_id")) if isinstance(row, dict) else None
        text = row.get("answer") if isinstance(row, dict) else None
        if not isinstance(name, (str, int)) or not isinstance(text, str):
            raise UserError(f'{where}: a line of answers is {{"id": ..., "answer": text}}, not {shortened(row)}')
        if str(name) in found:
            raise UserError(f"{where}: the id {shortened(name)} is there twice; keep one answer to each case")
        found[str(name)] = text
    if not found:
        raise UserError(f"{reference.name}: the file holds no answer")
    digest = hashlib.sha256(repr(sorted(found.items())).encode("utf-8", "surrogatepass")).hexdigest()
    return AnswersTarget(reference.name, f"answers:{digest}", found)
