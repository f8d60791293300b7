"""Sources of a chat: the passages of an index that are most like the question, for requests with ``retrieval``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ...errors import UserError
from ..api_error import ApiError

if TYPE_CHECKING:
    from ...retrieval.index import Index


class Source(BaseModel):
    """Passage that was put before a question; the answer cites it by its number."""

    number: int
    document: str
    collection: str
    title: str
    score: float
    text: str


class Sources:
    """Index of the server, opened at the first request that asks for it, and read while others write to it."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._opening = threading.Lock()
        self._index: Index | None = None

    def before(self, messages: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Source]]:
        """Return a conversation whose last message has its sources before it, and the sources.

        Raises:
            ApiError: the server has no index, it cannot be read, or the last message is not text.
        """
        from ...retrieval.answering import source_of, with_context

        if self._directory is None:
            said = "retrieval: this server has no index; start it with --index DIR."
            raise ApiError(409, said, "no_index", "retrieval")
        last = messages[-1].get("content")
        if not isinstance(last, str) or not last.strip():
            said = "messages: retrieval searches for the last message, which has no text."
            raise ApiError(422, said, "invalid_value", "messages")
        try:
            found, hits = with_context(self._open(self._directory), list(messages))
        except UserError as error:
            raise ApiError(503, f"retrieval: {error}.", "index_unusable", "retrieval") from error
        sources = [Source(**source_of(number, hit, False)) for number, hit in enumerate(hits, 1)]
        return found, sources

    def check(self) -> None:
        """Open the index, if there is one, before a request needs it.

        Raises:
            UserError: it is not an index.
        """
        if self._directory is not None:
            self._open(self._directory)

    def _open(self, directory: Path) -> Index:
        from ...retrieval.index import Index

        with self._opening:
            if self._index is None:
                self._index = Index.open(directory, readonly=True)
            return self._index

    def close(self) -> None:
        """Close the index."""
        with self._opening:
            if self._index is not None:
                self._index.close()
                self._index = None
