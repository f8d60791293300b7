"""Evaluation targets: open one by its name; a base or a run is loaded in this process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from ...backends import Backend, load_backend
from ...data.chat_template import encode_prompt
from ...engines.reply import Reply
from ...errors import UserError
from ...files import sha256_of
from ...runs.resolve import Reference, resolve, resolve_model_or_run
from ..suite import Generation
from .remote import open_remote
from .target import Messages, Target

# Batch size of generation: large enough to use the hardware, small enough to show progress.
GROUP = 32


@dataclass
class ModelTarget:
    """Base model or run, loaded on a backend.

    Attributes:
        identify: computes the identity, which reads all of the adapter and the tokenizer; a single answer needs none.
        load_s: seconds that loading took.
    """

    name: str
    backend: Backend
    system_prompt: str | None = None
    warnings: list[str] = field(default_factory=list)
    identify: Callable[[], str] = str
    group: int = GROUP
    load_s: float | None = None
    _tokens: int = 0
    _seconds: float = 0.0
    _example: list[int] = field(default_factory=list)

    @cached_property
    def identity(self) -> str:
        """Hash of the backend and all that decides the answers."""
        return self.identify()

    @property
    def notes(self) -> list[str]:
        """Precision that is computed in, where it is not the stored one."""
        return self.backend.precision

    def close(self) -> None:
        """End nothing: the model is in this process."""

    def answer(self, conversations: Sequence[Messages], ids: Sequence[str], settings: Generation) -> list[Reply]:
        """Answer conversations as one batch.

        Raises:
            UserError: see ``encode_prompt``, or a prompt fills the model's context.
        """
        prompts = [
            self._encode(messages, f"the prompt of case {case}" if case else "the prompt")
            for case, messages in zip(ids, conversations, strict=True)
        ]
        self._example = prompts[0]
        started = time.perf_counter()
        texts = self.backend.generate(prompts, settings.max_tokens, settings.temperature, settings.seed)
        seconds = time.perf_counter() - started
        encode = self.backend.tokenizer.backend_tokenizer.encode
        # The end of turn, which is generated too, is not part of the text.
        counts = [len(encode(text, add_special_tokens=False).ids) + 1 for text in texts]
        self._tokens, self._seconds = self._tokens + sum(counts), self._seconds + seconds
        return [
            Reply(text, None, len(prompt), count, seconds / len(texts))
            for text, prompt, count in zip(texts, prompts, counts, strict=True)
        ]

    def _encode(self, messages: Messages, what: str) -> list[int]:
        ids = encode_prompt(self.backend.tokenizer, messages)
        context = self.backend.base.context
        if context is not None and len(ids) >= context:
            raise UserError(
                f"{what} has {len(ids):,} tokens, and {self.name} has a context of {context:,} "
                "(max_position_embeddings); shorten it, or use a model with a longer context"
            )
        return ids

    def performance(self) -> dict[str, float | None]:
        """Return the measurements of this process."""
        return {
            "load_s": self.load_s,
            "first_token_s": self._first_token_s(),
            "tokens_per_s": self._tokens / self._seconds if self._seconds else None,
            "peak_memory_bytes": self.backend.peak_memory(),
        }

    def _first_token_s(self) -> float | None:
        """Return the seconds until the first token of an answer to a prompt alone."""
        if not self._example:
            return None
        started = time.perf_counter()
        self.backend.generate([self._example], 1, 0.0, 0)
        return time.perf_counter() - started


def load_target(name: str, requested: str = "auto") -> ModelTarget:
    """Load a run directory (base and adapter), or a base model by name or directory.

    Args:
        requested: the backend; see ``load_backend``.

    Raises:
        UserError: there is no such run or model, or the run has no adapter yet.
    """
    return _load(resolve_model_or_run(name), requested)


def open_target(name: str, requested: str = "auto", seconds: float | None = None) -> Target:
    """Open a target of any kind, by the names of ``runs.resolve``.

    Args:
        seconds: time limit of one conversation with another program.

    Raises:
        UserError: the name names nothing, or the target cannot be loaded or reached.
    """
    reference = resolve(name)
    if reference.kind in ("base", "run"):
        return _load(reference, requested)
    return open_remote(reference, seconds)


def _load(reference: Reference, requested: str) -> ModelTarget:
    started = time.perf_counter()
    in_4bit = bool(reference.run.get("learned_from", {}).get("load_in_4bit"))
    backend = load_backend(reference.base, requested, in_4bit, wide=True)
    if reference.adapter is not None:
        backend.load_adapter(reference.adapter)
    warnings = [f"{reference.name}: {reference.other_base}"] if reference.other_base else []
    system = reference.run.get("system_prompt")
    seconds = time.perf_counter() - started
    identify = partial(_identity, reference, f"{backend.name}:{'4bit:' if in_4bit else ''}")
    return ModelTarget(reference.name, backend, system, warnings, identify, load_s=seconds)


def _identity(reference: Reference, kind: str) -> str:
    """Return ``kind`` and a hash of what decides the answers: weights, tokenizer, template, adapter and its scale."""
    base, adapter = reference.base, reference.adapter
    files = [file for suffix in ("json", "jinja", "model") for file in sorted(base.path.glob(f"*.{suffix}"))]
    files += [] if adapter is None else [adapter / "adapters.safetensors", adapter / "adapter_config.json"]
    digests = [base.fingerprint, str(base.chat_template), base.system_role, *map(sha256_of, files)]
    return kind + hashlib.sha256(" ".join(digests).encode()).hexdigest()
