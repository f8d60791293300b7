"""Targets in other programs: a GGUF file in llama.cpp, Ollama, an OpenAI-compatible server, a file of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from ...data.dataset import read_jsonl
from ...engines.reply import Opening, Reply
from ...errors import UserError, shortened
from ...files import sha256_of
from ...runs.resolve import Reference
from ..suite import Generation
from .target import Messages, Target

# Conversations, the seed of each, and the other settings.
Chat = Callable[[Sequence[Messages], Sequence[int], Generation], Iterator[tuple[int, Reply]]]
# (texts, settings, texts that end an answer)
Complete = Callable[[Sequence[str], Generation, Sequence[str]], Iterator[tuple[int, Reply]]]
# Seeds that every program takes: llama.cpp's have 32 bits.
SEEDS = 2**31


@dataclass
class EngineTarget:
    """Model that another program runs; see ``engines``.

    Attributes:
        identify: computes the identity, which may read gigabytes; a single answer needs none.
        chat: asks conversations; the clients bound what runs at a time.
        likelihoods: natural log-probabilities of raw (prompt, continuation) texts, where the program gives them.
        complete: continues raw texts; also given the texts that end an answer.
        opening: the token that begins a text.
        facts: ``load_s`` and ``peak_memory_bytes``, where they are known.
        close: ends the program, where it is ours.
    """

    name: str
    identify: Callable[[], str]
    chat: Chat
    facts: Callable[[], dict[str, float | None]] = dict
    likelihoods: Callable[[Sequence[tuple[str, str]]], Any] | None = None
    complete: Complete | None = None
    opening: Callable[[], Opening] = lambda: Opening(None, False)
    system_prompt: str | None = None
    warnings: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None
    notes: list[str] = field(default_factory=list)
    group: int = 1
    _first: list[float] = field(default_factory=list)
    _rates: list[float] = field(default_factory=list)
    _load_s: float | None = None

    @cached_property
    def identity(self) -> str:
        """Name and hash of the file, or the server and its model."""
        return self.identify()

    def answer(self, conversations: Sequence[Messages], ids: Sequence[str], settings: Generation) -> list[Reply]:
        """Answer conversations; one that the program fails has no text, and the reason.

        Raises:
            UserError: the program cannot be reached, or does not have the model.
        """
        seeds = [settings.seed + number for number in range(len(conversations))]
        found = dict(self.stream(conversations, seeds, settings))
        return [found[number] for number in range(len(conversations))]

    def stream(
        self, conversations: Sequence[Messages], seeds: Sequence[int], settings: Generation
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) of each conversation in the order in which they end; see ``answer``."""
        for number, reply in self.chat(conversations, [seed % SEEDS for seed in seeds], settings):
            self._measure(reply)
            yield number, reply

    def _measure(self, reply: Reply) -> None:
        self._first += [] if reply.first_token_s is None else [reply.first_token_s]
        rate = reply.tokens_per_second
        if rate is None and reply.completion_tokens and reply.seconds:
            rate = reply.completion_tokens / reply.seconds
        self._rates += [] if rate is None else [rate]
        if reply.load_s is not None and self._load_s is None:
            self._load_s = reply.load_s

    def performance(self) -> dict[str, float | None]:
        """Return the means of the program's own counters."""

        def mean(values: list[float]) -> float | None:
            return sum(values) / len(values) if values else None

        measured = {"load_s": self._load_s, "first_token_s": mean(self._first), "tokens_per_s": mean(self._rates)}
        return {**measured, "peak_memory_bytes": None, **self.facts()}


@dataclass
class AnswersTarget:
    """File of answers that exist already, one JSON object a line: ``{"id", "answer"}``, or of ``eval --out``."""

    name: str
    identity: str
    answers: dict[str, str]
    system_prompt: str | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    group: int = 1024

    def answer(self, conversations: Sequence[Messages], ids: Sequence[str], settings: Generation) -> list[Reply]:
        """Return the answers of cases by their ids; a case that the file lacks is not answered."""
        missing = Reply(None, f"{self.name} has no answer to this case")
        return [Reply(self.answers[name]) if name in self.answers else missing for name in ids]

    def performance(self) -> dict[str, float | None]:
        """Return nothing measured."""
        return dict.fromkeys(("load_s", "first_token_s", "tokens_per_s", "peak_memory_bytes"))

    def close(self) -> None:
        """End nothing: the answers were read."""


def open_remote(reference: Reference, seconds: float | None = None) -> Target:
    """Open a target that another program runs.

    Args:
        seconds: time limit of one conversation; by default 900, and of a server 300.

    Raises:
        UserError: it cannot be loaded or reached, or an extra is missing.
    """
    if reference.kind == "answers":
        return _answers(reference)
    opener, usual = {"gguf": (_gguf, 900.0), "ollama": (_ollama, 900.0), "server": (_server, 300.0)}[reference.kind]
    return opener(reference, usual if seconds is None else seconds)


def _chat(ask: Callable[..., Iterator[tuple[int, Reply]]]) -> Chat:
    """Return the chat of a client, which takes the settings by their names."""
    return lambda conversations, seeds, settings: ask(conversations, **{**vars(settings), "seed": seeds})


def _gguf(reference: Reference, seconds: float) -> Target:
    from ...engines.llamacpp.session import GGUFModel

    model = GGUFModel(reference.location, seconds=seconds)

    def complete(texts: Sequence[str], settings: Generation, stops: Sequence[str]) -> Iterator[tuple[int, Reply]]:
        return model.complete(texts, **vars(settings))

    def facts() -> dict[str, float | None]:
        return {"load_s": model.load_s, "peak_memory_bytes": model.peak_bytes}

    return EngineTarget(
        reference.name,
        lambda: f"gguf:{sha256_of(reference.location)}",
        _chat(model.chat),
        facts,
        model.likelihoods,
        complete,
        lambda: model.opening,
        close=model.close,
    )


def _ollama(reference: Reference, seconds: float) -> Target:
    from ...engines.ollama import Ollama, check_name

    client, name = Ollama(seconds=seconds), check_name(reference.remote_model)

    made = client.description_sha256(name)
    if made is None:
        raise UserError(f"{reference.name}: Ollama has no model {name}; `ollama list` names those that it has")
    return EngineTarget(reference.name, lambda: f"ollama:{client.url}:{name}:{made}", _chat(partial(client.chat, name)))


def _server(reference: Reference, seconds: float) -> Target:
    from ...engines.openai_completions import complete, likelihoods, opening_of
    from ...engines.openai_server import OpenAIServer

    # Streamed, so that the time to the first token is measured.
    server = OpenAIServer(reference.name, stream=True, seconds=seconds)
    server.check()

    return EngineTarget(
        reference.name,
        lambda: f"server:{server.url}:{server.model}",
        _chat(server.chat),
        likelihoods=lambda pairs: likelihoods(server, pairs),
        complete=lambda texts, settings, stops: complete(server, texts, **vars(settings), stops=stops),
        opening=lambda: opening_of(server),
    )


def _answers(reference: Reference) -> Target:
    found: dict[str, str] = {}
    for where, row in read_jsonl(reference.location):
        if isinstance(row, dict) and "cases_sha256" in row:
            continue
        name, text = _answer_of(row) if isinstance(row, dict) else (None, None)
        if text is None and isinstance(row, dict) and (row.get("error") or "filtered_resps" in row):
            continue
        if not isinstance(name, (str, int)) or not isinstance(text, str):
            raise UserError(f'{where}: a line of answers is {{"id": ..., "answer": text}}, not {shortened(row)}')
        if str(name) in found:
            raise UserError(f"{where}: the id {shortened(name)} is there twice; keep one answer to each case")
        found[str(name)] = text
    if not found:
        raise UserError(f"{reference.name}: the file holds no answer")
    digest = hashlib.sha256(repr(sorted(found.items())).encode("utf-8", "surrogatepass")).hexdigest()
    return AnswersTarget(reference.name, f"answers:{digest}", found)


def _answer_of(row: dict[str, Any]) -> tuple[Any, Any]:
    """Return (id, answer) of a line, also of the files ``answers_SUITE.jsonl`` and ``samples_SUITE.jsonl``."""
    replies, doc = row.get("filtered_resps"), row.get("doc")
    if isinstance(replies, list) and replies and isinstance(doc, dict):
        return doc.get("id"), replies[0]
    return row.get("id"), row.get("answer", row.get("text"))
