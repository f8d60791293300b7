"""Document of an index, and the chunks that it is split into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Chunk:
    """A part of a document: its text, the headings above it, and metadata of its own."""

    text: str
    headings: tuple[str, ...] = ()
    line: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def searchable(self) -> str:
        """The text that is embedded: the headings, then the text."""
        return f"{' > '.join(self.headings)}\n{self.text}" if self.headings else self.text


@dataclass
class Document:
    """A file as it was read: text, what it says about itself or its store knows, chunks, and lines without use."""

    path: str
    sha256: str
    text: str
    chunks: list[Chunk]
    front_matter: dict[str, Any] = field(default_factory=dict)
    unusable: list[tuple[int, str]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
