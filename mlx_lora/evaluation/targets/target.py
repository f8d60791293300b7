"""Interface of a target: a model that answers conversations, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from ...engines.reply import Reply
from ..suite import Generation

Messages = list[dict[str, Any]]


class Target(Protocol):
    """Model that answers conversations.

    Attributes:
        name: as the user gave it.
        system_prompt: the one it was trained with, if any.
        warnings: sentences that a reader of the answers should know.
        group: conversations that are answered together; the answers may depend on their company.
    """

    name: str
    system_prompt: str | None
    warnings: list[str]
    group: int

    @property
    def identity(self) -> str:
        """Hash that changes with whatever decides the answers (weights, file, server's model)."""

    @property
    def notes(self) -> list[str]:
        """Sentences about this machine, for the user."""

    def answer(self, conversations: Sequence[Messages], ids: Sequence[str], settings: Generation) -> list[Reply]:
        """Answer conversations, at most ``group``; ``ids`` are the cases' own."""

    def performance(self) -> dict[str, float | None]:
        """Return ``load_s``, ``first_token_s``, ``tokens_per_s`` and ``peak_memory_bytes``; None is not measured."""

    def close(self) -> None:
        """End the program that was started for it, if any."""


@runtime_checkable
class StreamingTarget(Target, Protocol):
    """Target whose answers do not depend on what else is asked; each can be saved as soon as it arrives."""

    def stream(
        self, conversations: Sequence[Messages], seeds: Sequence[int], settings: Generation
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) of each conversation in the order in which they end."""
