"""Chroma (extra ``chroma``): import of an existing directory, and a copy of an index in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, guarded
from .chunks import Document
from .collections import COLLECTIONS, check_collection
from .documents import document_of
from .importer import Added

if TYPE_CHECKING:
    from .index import Index

# Entries that are read or written at a time.
BATCH = 1000
# Metadata under which published stores keep the file of an entry.
_SOURCES = ("file_path", "source", "path", "document", "pdca_id")


def import_chroma(index: Index, directory: Path, collection: str | None = None) -> Added:
    """Add every text of a Chroma directory; a file's entries become one document, embedded by the index's own model.

    Args:
        collection: the collection of all; by default that of the same name, or process_docs.

    Raises:
        UserError: Chroma is not installed, or this is not a directory of it; see also ``Index.add``.
    """
    if collection is not None:
        check_collection(collection)
    if not (directory / "chroma.sqlite3").is_file():
        raise UserError(f"{directory}: this is not a directory of Chroma (it has no chroma.sqlite3); check the path")
    with guarded(f"{directory}: this Chroma directory cannot be read", "; open it with the version that wrote it"):
        documents = list(_documents(_client(directory), index, collection))
    return index.add_documents(documents)


def _client(directory: Path) -> Any:
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError:
        raise UserError("the package chromadb is not installed; pip install 'mlx-lora[chroma]'") from None
    return chromadb.PersistentClient(str(directory), settings=Settings(anonymized_telemetry=False))


def _documents(client: Any, index: Index, collection: str | None) -> Iterator[tuple[Document, str]]:
    for found in client.list_collections():
        # Texts are read only: the embedding function of the collection is not asked for.
        source = client.get_collection(found.name, embedding_function=None)
        parts: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for start in range(0, source.count(), BATCH):
            rows = source.get(limit=BATCH, offset=start, include=["documents", "metadatas"])
            for name, text, metadata in zip(rows["ids"], rows["documents"], rows["metadatas"], strict=True):
                own = dict(metadata or {})
                file = next((str(own[key]) for key in _SOURCES if own.get(key)), name)
                if text:
                    parts.setdefault(file, []).append((text, {**own, "chroma_id": name}))
        kind = collection or (found.name if found.name in COLLECTIONS else "process_docs")
        for file, texts in parts.items():
            # Entries come in the order of their insertion, which need not be that of the file.
            texts.sort(key=_place)
            yield document_of(f"chroma:{found.name}/{file}", texts, index.embedder.count_tokens), kind


def _place(part: tuple[str, dict[str, Any]]) -> float:
    number = part[1].get("chunk_index", 0)
    return number if isinstance(number, (int, float)) else 0


def write_chroma(index: Index, directory: Path) -> int:
    """Copy every chunk that may be retrieved, with its vector, into collections of a Chroma directory; return how many.

    A chunk that is there already, by its number, is replaced.

    Raises:
        UserError: Chroma is not installed, or refuses.
    """
    with guarded(f"{directory}: Chroma cannot write there", "; choose another directory"):
        client = _client(directory)
        batches: dict[str, list[tuple[str, str, dict[str, Any], Any]]] = {}
        number = 0
        for hit, vector in index.chunks():
            batch = batches.setdefault(hit.collection, [])
            batch.append((str(hit.id), hit.text, _flat({**hit.metadata, "document": hit.document}), vector))
            number += 1
            if len(batch) == BATCH:
                _write(client, hit.collection, batches.pop(hit.collection))
        for name, batch in batches.items():
            _write(client, name, batch)
    return number


def _write(client: Any, name: str, batch: list[tuple[str, str, dict[str, Any], Any]]) -> None:
    target = client.get_or_create_collection(name, metadata={"hnsw:space": "cosine"}, embedding_function=None)
    ids, texts, metadata, vectors = (list(column) for column in zip(*batch, strict=True))
    target.upsert(ids=ids, documents=texts, metadatas=metadata, embeddings=vectors)


def _flat(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as Chroma takes it: texts and numbers; lists as JSON."""
    plain = {name: value for name, value in metadata.items() if value is not None}
    return {n: v if isinstance(v, (str, int, float)) else json.dumps(v, ensure_ascii=False) for n, v in plain.items()}
