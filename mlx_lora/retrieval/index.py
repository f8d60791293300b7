"""Index: documents go in whole or not at all, and are found by meaning (exact cosine), by words, or by both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import UserError, nearest, shortened
from .chunks import Document
from .collections import BUFFER, check_collection
from .embedding import DEFAULT, Embedder, open_embedder
from .importer import Added, Importer
from .snapshot import HIDDEN, Snapshot
from .store import Store
from .text_query import expression_of
from .vectors import best_rows

__all__ = ["MODES", "Added", "Hit", "Index", "Listed"]

MODES = ("hybrid", "vector", "text")
# Reciprocal rank fusion: 1 / (60 + rank), summed over both lists, each of at least this many chunks.
RANK_OFFSET, LEAST_CANDIDATES = 60, 50


@dataclass(frozen=True)
class Hit:
    """A chunk that was found; ``score`` is a cosine, a sum of reciprocal ranks or -bm25, by the mode."""

    id: int
    text: str
    score: float
    document: str
    collection: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """A document of an index."""

    document: str
    collection: str
    chunks: int
    metadata: dict[str, Any] = field(default_factory=dict)


# Inside the class, ``list`` is its method.
Hits: TypeAlias = list[Hit]
Names: TypeAlias = list[str] | None
Scored: TypeAlias = list[tuple[int, float]]


class Index:
    """An index directory; several processes may read it while one writes."""

    def __init__(self, store: Store, embedder: Embedder | None) -> None:
        self._store, self._embedder, self._snapshot = store, embedder, Snapshot(store)

    @classmethod
    def open(
        cls, directory: str | Path, readonly: bool = False, embedder: Embedder | None = None, create: bool = True
    ) -> Index:
        """Open an index; it is created if absent, unless it is to be read only or ``create`` is False.

        Args:
            embedder: the embedder to use; by default the one that embedded it, or all-MiniLM-L6-v2 for a new one.

        Raises:
            UserError: it is not an index, or of a later format.
        """
        return cls(Store(Path(directory), readonly, create and not readonly), embedder)

    @property
    def embedder(self) -> Embedder:
        """The embedder, opened when it is first needed."""
        if self._embedder is None:
            self._embedder = open_embedder(self._store.settings()["embedder"] or DEFAULT)
        return self._embedder

    def add(
        self,
        paths: Iterable[str | Path],
        collection: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Added:
        """Add files, and those of a known kind in directories; a changed one replaces its earlier state.

        With no paths, the vectors are brought up to date: after a change of the embedder, or damage.

        Args:
            collection: the collection; by default each file's own, by its kind.
            on_progress: called with the number of documents done and of all.

        Raises:
            UserError: a document holds a secret (nothing is written then), or another process writes to the index.
        """
        if collection is not None:
            check_collection(collection)
        return Importer(self._store, self.embedder).add(list(paths), collection, on_progress)

    def add_documents(self, documents: Sequence[tuple[Document, str]]) -> Added:
        """Add documents of another store, each with its collection; secrets and addresses are treated as in files.

        Raises:
            UserError: see ``add``.
        """
        for _, collection in documents:
            check_collection(collection)
        return Importer(self._store, self.embedder).add_documents(documents)

    def chunks(self) -> Iterator[tuple[Hit, Any]]:
        """Yield every chunk that may be retrieved with its vector; the chunk's score is 0."""
        with self._store.transaction():
            self._snapshot.refresh()
            for row, code in enumerate(self._snapshot.codes.tolist()):
                if code != HIDDEN:
                    yield self._hit(int(self._snapshot.chunks[row]), 0.0), self._snapshot.vectors[row]

    def list(self, collection: str | None = None) -> list[Listed]:
        """Return the documents, by collection and path."""
        if collection is not None:
            check_collection(collection)
        with self._store.transaction():
            rows = self._store.documents()
        return [Listed(*row[1:]) for row in rows if collection in (None, row[2])]

    def remove(self, document: str | Path | None = None, collection: str | None = None) -> int:
        """Remove a document (by path), a collection, or a document from one of them; return how many documents.

        Raises:
            UserError: there is none, or another process writes to the index.
        """
        if document is None and collection is None:
            raise UserError("name the document or the collection to remove")
        if collection is not None:
            check_collection(collection)
        names = None if document is None else {str(document), str(Path(document).absolute())}
        with self._store.transaction():
            rows = self._store.documents()
        chosen = [row[0] for row in rows if (names is None or row[1] in names) and collection in (None, row[2])]
        if not chosen:
            what = f"collection {collection}" if document is None else shortened(str(document), 200)
            like = f"; nearest is {nearest(str(document), [row[1] for row in rows])}" if rows and document else ""
            raise UserError(f"{self._store.directory}: this index has no {what}{like}")
        Importer(self._store, None).remove(chosen)
        return len(chosen)

    def mark_trained(self, batch: str, date: str, documents: Sequence[str | Path] | None = None) -> int:
        """Move what was trained on from daily_buffer to pdca_historical, with its batch and date; return how many.

        Args:
            documents: the paths or names; the whole buffer by default. What must not be trained on stays where it is.

        Raises:
            UserError: another process writes to the index.
        """
        names = None
        if documents is not None:
            # What was added as a document has a name that is no path.
            names = {name for given in documents for name in (str(given), str(Path(given).absolute()))}
        with self._store.transaction():
            rows = [row for row in self._store.documents() if row[2] == BUFFER]
        chosen = [(row[0], row[4]) for row in rows if (names is None or row[1] in names) and row[4]["ok_to_train"]]
        if chosen:
            Importer(self._store, None).mark_trained(chosen, batch, date)
        return len(chosen)

    def search(
        self,
        query: str,
        k: int = 5,
        collections: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        mode: str = "hybrid",
    ) -> Hits:
        """Return the ``k`` best chunks, the best first.

        Args:
            collections: the collections to search; all by default.
            where: metadata by name that a chunk or its document must have; of a list, any of its values.
            mode: hybrid (reciprocal ranks of both), vector (cosine) or text (bm25).

        Raises:
            UserError: an unknown mode or collection, or an index whose vectors are another embedder's.
        """
        if mode not in MODES:
            raise UserError(f"{shortened(mode)} is not a mode of search; use {', '.join(MODES)}")
        names = None if collections is None else [check_collection(name) for name in collections]
        query = query.encode("utf-8", "replace").decode("utf-8")
        if k < 1 or not query.strip():
            return []
        vector = None
        with self._store.lock:
            if mode != "text" and self._store.settings()["rows"]:
                self._check_embedder()
                vector = self.embedder.embed([query])[0]
            return self._with_snapshot(lambda: self._search(query, vector, k, names, where, mode))

    def _check_embedder(self) -> None:
        stored = self._store.settings()["embedder"]
        if self.embedder.name != stored:
            raise UserError(
                f"{self._store.directory}: this index was embedded by {stored}, not by {self.embedder.name}; "
                "`mlx-lora index add` without paths embeds it again"
            )

    def _with_snapshot(self, search: Callable[[], Hits]) -> Hits:
        """Run a search on one state of the index; begin again where a writer replaces the vector file meanwhile."""
        for _ in range(10):
            try:
                with self._store.transaction():
                    self._snapshot.refresh()
                    return search()
            except FileNotFoundError:
                continue
        raise UserError(
            f"{self._store.directory}: its vector file is missing; `mlx-lora index add` without paths makes it anew"
        )

    def _search(
        self, query: str, vector: Any, k: int, names: Names, where: Mapping[str, Any] | None, mode: str
    ) -> Hits:
        chosen = self._store.chunks_where(where) if where else None
        visible = self._snapshot.visible(names, chosen)
        number = k if mode != "hybrid" else max(4 * k, LEAST_CANDIDATES)
        found_by: Any = []
        # Side by side: NumPy and SQLite both let go of Python's lock.
        with ThreadPoolExecutor(1) as pool:
            near = pool.submit(self._nearest, vector, visible, number) if vector is not None else None
            if mode != "vector":
                found_by.append(self._matching(query, visible, number))
            if near is not None:
                found_by.append(near.result())
        if mode == "hybrid":
            scores: dict[int, float] = {}
            for found in found_by:
                for rank, (chunk, _) in enumerate(found, 1):
                    scores[chunk] = scores.get(chunk, 0.0) + 1 / (RANK_OFFSET + rank)
            best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
        else:
            best = found_by[0] if found_by else []
        return [self._hit(chunk, score) for chunk, score in best]

    def _nearest(self, vector: Any, visible: Any, number: int) -> Scored:
        import numpy as np

        scores = self._snapshot.vectors @ vector
        if visible is not None:
            scores[~visible] = -np.inf
        rows = best_rows(scores, number)
        return list(zip(self._snapshot.chunks[rows].tolist(), scores[rows].tolist(), strict=True))

    def _matching(self, query: str, visible: Any, number: int) -> Scored:
        expression = expression_of(query, self._store)
        if not expression:
            return []
        rows = self._snapshot.row_of
        found = self._store.match(expression, None if visible is not None else number)
        return [(chunk, -rank) for chunk, rank in found if visible is None or visible[rows[chunk]]][:number]

    def _hit(self, chunk: int, score: float) -> Hit:
        text, headings, line, path, metadata, collection = self._store.chunk(chunk)
        return Hit(chunk, text, score, path, collection, {**metadata, "headings": headings, "line": line})

    def close(self) -> None:
        """Close the files."""
        self._store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
