"""Import of documents: read, govern, embed and write, in transactions of whole documents; one writer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import DIRECTORY_LOCK, file_lock
from .chunks import Chunk, Document
from .collections import PDCAS, add_metadata, collection_of
from .documents import decode, find_documents, read_content, split_document
from .embedding import Embedder
from .governance import REDACTED, check_secrets, governance_of, redact, redact_values
from .store import Store
from .timeline import update_timeline
from .vectors import append_rows, has_rows, map_rows

if TYPE_CHECKING:
    import numpy as np

_PERSONAL = {"pii_flags": ["email"], "ok_to_train": False}
# Chunks that are embedded together, and after which a transaction is written.
BATCH_CHUNKS = 256
# Dead rows after which the vector file is rewritten, if they are half of it as well.
LEAST_DEAD_ROWS = 1000


@dataclass
class Added:
    """The result of an import; ``refused`` holds (file, line, reason), with line 0 where all of the file is meant."""

    documents: int = 0
    chunks: int = 0
    unchanged: int = 0
    refused: list[tuple[str, int, str]] = field(default_factory=list)


@dataclass
class _Prepared:
    document: Document
    collection: str
    metadata: dict[str, Any]


class Importer:
    """Writes to a store; the embedder may be missing where nothing is embedded."""

    def __init__(self, store: Store, embedder: Embedder | None) -> None:
        self._store, self._embedder = store, embedder

    def add(
        self, paths: Sequence[str | Path], collection: str | None, on_progress: Callable[[int, int], None] | None
    ) -> Added:
        """Add documents; see ``Index.add``."""
        added, held = Added(), 0
        files = [(path, collection or collection_of(path)) for path in find_documents(paths)]
        with self._writer():
            # All are checked before anything is written: an import with a secret leaves the index as it was.
            todo = [(path, kind) for path, kind in files if self._is_new(path, kind, added)]
            self._update_embeddings()
            pending: list[_Prepared] = []
            for number, (path, kind) in enumerate(todo, 1):
                prepared = self._prepare(path, kind, added)
                if prepared:
                    pending.append(prepared)
                    held += len(prepared.document.chunks)
                if held >= BATCH_CHUNKS or number == len(todo):
                    self._write(pending, added)
                    pending, held = [], 0
                    if on_progress:
                        on_progress(number, len(todo))
        return added

    def add_documents(self, documents: Sequence[tuple[Document, str]]) -> Added:
        """Add documents that were read elsewhere, with their collections; see ``Index.add_documents``."""
        added = Added()
        with self._writer():
            todo = [
                (document, kind)
                for document, kind in documents
                if self._store.hash_of(document.path, kind) != document.sha256
            ]
            added.unchanged = len(documents) - len(todo)
            prepared = [self._govern(document, kind) for document, kind in todo]
            self._update_embeddings()
            for start in range(0, len(prepared), BATCH_CHUNKS):
                self._write(prepared[start : start + BATCH_CHUNKS], added)
        return added

    def remove(self, documents: Sequence[int]) -> None:
        """Remove documents by number, in one transaction."""
        with self._writer(), self._store.transaction(write=True):
            self._store.delete_documents(documents)

    def mark_trained(self, documents: Sequence[tuple[int, dict[str, Any]]], batch: str, date: str) -> None:
        """Move documents, by (number, metadata), to the PDCAs in one transaction; see ``Index.mark_trained``."""
        trained = {"trained_in_adapter": True, "training_batch": batch, "training_date": date}
        with self._writer(), self._store.transaction(write=True):
            for number, metadata in documents:
                self._store.move_document(number, PDCAS, {**metadata, **trained})

    @contextmanager
    def _writer(self) -> Iterator[None]:
        """Hold the index's lock; after the block, what is derived from the documents is brought up to date."""
        directory = self._store.directory
        with file_lock(
            directory / DIRECTORY_LOCK, f"{directory}: another process is writing to this index; wait for it"
        ):
            yield
            self._compact()
            with self._store.transaction():
                changes, documents = self._store.settings()["changes"], self._store.documents()
            pdcas = [(path, metadata) for _, path, collection, _, metadata in documents if collection == PDCAS]
            update_timeline(directory, changes, pdcas)

    def _is_new(self, path: Path, collection: str, added: Added) -> bool:
        """Return True if a document is to be indexed: readable, without a secret, and changed since it was."""
        import hashlib

        try:
            content = read_content(path)
            if self._store.hash_of(str(path), collection) == hashlib.sha256(content).hexdigest():
                added.unchanged += 1
                return False
            check_secrets(path, decode(content))
        except ValueError as error:
            added.refused.append((str(path), 0, str(error)))
            return False
        return True

    def _prepare(self, path: Path, collection: str, added: Added) -> _Prepared | None:
        assert self._embedder is not None
        try:
            document = split_document(path, read_content(path), self._embedder.count_tokens)
        except ValueError as error:
            added.refused.append((str(path), 0, str(error)))
            return None
        added.refused += [(str(path), line, why) for line, why in document.unusable]
        return self._govern(document, collection)

    def _govern(self, document: Document, collection: str) -> _Prepared:
        """Return a document with its metadata; e-mail addresses are redacted, and what holds one is not trained on."""
        # After JSON's escapes; and the file may have changed since.
        check_secrets(Path(document.path), document.text)
        check_secrets(Path(document.path), "\n".join(chunk.text for chunk in document.chunks))
        governance = governance_of(document.front_matter).to_metadata()
        metadata = {**redact_values({**add_metadata(document, collection), **document.metadata}), **governance}
        personal = [_redact_chunk(chunk) for chunk in document.chunks]
        if any(personal):
            metadata |= _PERSONAL
            for chunk, found in zip(document.chunks, personal, strict=True):
                # The document's flags are those of its worst chunk.
                chunk.metadata |= _PERSONAL if found else {name: governance[name] for name in _PERSONAL}
        return _Prepared(document, collection, metadata)

    def _write(self, pending: Sequence[_Prepared], added: Added) -> None:
        """Embed and write documents in one transaction."""
        if not pending:
            return
        settings = self._store.settings()
        begin = row = settings["rows"]
        file = self._store.vector_file(settings["vectors"])
        texts = [chunk.searchable for prepared in pending for chunk in prepared.document.chunks]
        for start in range(0, len(texts), BATCH_CHUNKS):
            rows = self._embed(texts[start : start + BATCH_CHUNKS])
            append_rows(file, row, rows)
            row += len(rows)
        with self._store.transaction(write=True):
            for prepared in pending:
                self._store.put_document(prepared.document, prepared.collection, prepared.metadata, begin)
                begin += len(prepared.document.chunks)
            self._store.change_settings(rows=row)
        added.documents += len(pending)
        added.chunks += len(texts)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        assert self._embedder is not None
        return self._embedder.embed(texts)

    def _update_embeddings(self) -> None:
        """Embed everything again if the embedder has changed, or the vector file is missing or short."""
        assert self._embedder is not None
        settings = self._store.settings()
        changed = (settings["embedder"], settings["dimension"]) != (self._embedder.name, self._embedder.dimension)
        try:
            damaged = settings["rows"] and not has_rows(
                self._store.vector_file(settings["vectors"]), settings["rows"], settings["dimension"]
            )
        except FileNotFoundError:
            damaged = True
        if changed or damaged:
            self._rewrite(lambda chunks: self._embed([_searchable(*chunk[2:]) for chunk in chunks]))
        self._store.remove_stale_vectors(self._store.settings()["vectors"])

    def _compact(self) -> None:
        """Rewrite the vector file without its dead rows, where they are many."""
        with self._store.lock:
            settings, alive = self._store.settings(), self._store.chunk_count()
        dead = settings["rows"] - alive
        if dead < max(LEAST_DEAD_ROWS, alive):
            return
        old = map_rows(self._store.vector_file(settings["vectors"]), settings["rows"], settings["dimension"])
        self._rewrite(lambda chunks: old[[chunk[1] for chunk in chunks]])

    def _rewrite(self, vectors_of: Callable[[list[tuple[int, int, str, str]]], np.ndarray]) -> None:
        """Write a new vector file, then point to it in one transaction; the old one is removed after that."""
        settings = self._store.settings()
        number, last = settings["vectors"] + 1, 0
        places: list[tuple[int, int]] = []
        dimension = self._embedder.dimension if self._embedder else settings["dimension"]
        while chunks := self._store.chunks_with_text(last, BATCH_CHUNKS):
            append_rows(self._store.vector_file(number), len(places), vectors_of(chunks))
            places += [(len(places) + n, chunk[0]) for n, chunk in enumerate(chunks)]
            last = chunks[-1][0]
        with self._store.transaction(write=True) as connection:
            connection.executemany("UPDATE chunks SET row = ? WHERE id = ?", places)
            self._store.change_settings(vectors=number, rows=len(places), dimension=dimension)
            if self._embedder:
                self._store.change_settings(embedder=self._embedder.name)
        self._store.remove_stale_vectors(number)


def _searchable(headings: str, text: str) -> str:
    return Chunk(text, (headings,) if headings else ()).searchable


def _redact_chunk(chunk: Chunk) -> bool:
    """Redact a chunk, and return True if it held an address."""
    # The file's own text is redacted already; an address may still come out of JSON's escapes.
    chunk.text, chunk.metadata = redact(chunk.text)[0], redact_values(chunk.metadata)
    return any(REDACTED in text for text in (chunk.text, *chunk.headings, str(chunk.metadata)))
