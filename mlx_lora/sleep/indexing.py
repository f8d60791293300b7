"""Index of the night: what is looked up is indexed; what is learned is buffered, and moved to history when live."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ..data.dataset import Example
from ..errors import UserError, first_line
from ..retrieval.chunks import Document
from ..retrieval.collections import BUFFER, PDCAS
from ..retrieval.documents import document_of
from ..retrieval.embedding import DEFAULT, open_embedder
from ..retrieval.governance import governance_of
from ..retrieval.index import Index
from ..retrieval.store import DATABASE, check_place
from .config import IndexConfig
from .context import Cycle
from .gathering import NEW, read_rows
from .nights import DATA, id_of, rows_of
from .record import CycleRecord
from .stores.lookup import decide, text_of


def check_index(config: IndexConfig) -> None:
    """Check that the index can be written and its embedding model is installed.

    Raises:
        UserError: the directory is not an index, or the model is missing.
    """
    place = _place(config)
    if (place / DATABASE).is_file():
        with Index.open(place, create=False) as index:
            _ = index.embedder
        return
    if place.exists() and not place.is_dir():
        raise UserError(f"{place}: this is a file, and the index is a directory; choose another path")
    check_place(place)
    open_embedder(DEFAULT)


def index_night(cycle: Cycle) -> dict[str, Any]:
    """Index the rows that are looked up, and put those that are learned into the daily buffer; return which and why.

    Again after a kill, it changes nothing.

    Raises:
        UserError: the index cannot be written.
    """
    config = cycle.config.index
    assert config is not None
    decided = decide(read_rows(cycle.record.directory / NEW), config)
    facts = [row.example for row in decided.look_up]
    learned = _buffered(cycle.record)
    # An index is not made for nothing.
    if facts or learned:
        with Index.open(_place(config)) as index:
            _mark_again(index, cycle)
            documents = [
                *_documents(cycle, index, facts, config.collection, learn=False),
                *_documents(cycle, index, learned, BUFFER, learn=True),
            ]
            index.add_documents(documents)
            _remove_others(index, documents)
    return {
        "indexed": len(facts),
        "buffered": len(learned),
        "rows": [asdict(each) for each in decided.indexed],
        "ids": [*(row.id for row in decided.look_up), *decided.refused],
    }


def mark_trained(cycle: Cycle, generation: int) -> dict[str, Any]:
    """Move what the night has learned from the daily buffer to history; a failure is named, and is made good later."""
    config, record = cycle.config.index, cycle.record
    assert config is not None
    try:
        with Index.open(_place(config)) as index:
            return {"batch": _batch(record, generation), "moved": _mark(index, record, generation)}
    except (UserError, OSError) as error:
        return {"failed": f"{first_line(error)}; the next night marks its rows as trained"}


def _place(config: IndexConfig) -> Path:
    return Path(config.path).expanduser()


def _batch(record: CycleRecord, generation: int) -> str:
    """Return the name of a generation, by which a batch is known."""
    return f"{_agent(record)}@{generation}"


def _agent(record: CycleRecord) -> str:
    return Path(record.content["name"]).expanduser().absolute().name


def _buffered(record: CycleRecord) -> list[Example]:
    """Return the examples that a night trains on, but those that must not be retrieved."""
    data = record.directory / DATA
    rows = rows_of(data, "train") if data.is_dir() else []
    return [row for row in rows if governance_of(row.meta).ok_to_retrieve]


def _name(record: CycleRecord, example: Example) -> str:
    name = f"sleep:{_agent(record)}/{example.meta.get('sleep_store')}/{id_of(example)}"
    return name.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _documents(
    cycle: Cycle, index: Index, examples: Iterable[Example], collection: str, *, learn: bool
) -> Iterable[tuple[Document, str]]:
    record = cycle.record
    started = datetime.fromisoformat(record.content["started"])
    for example in examples:
        governance = governance_of(example.meta)
        metadata = {
            "agent_name": _agent(record),
            "night": record.key,
            "store": example.meta.get("sleep_store"),
            "row": id_of(example),
            "date": started.strftime("%Y-%m-%d"),
            "timestamp": int(started.timestamp()),
            # What is looked up is never moved with what was learned.
            "ok_to_train": learn,
            "license": governance.license,
            "security_level": governance.security_level,
        }
        text = text_of(example).encode("utf-8", "replace").decode("utf-8")
        yield document_of(_name(record, example), [(text, {})], index.embedder.count_tokens, metadata), collection


def _remove_others(index: Index, documents: Sequence[tuple[Document, str]]) -> None:
    """Remove earlier states in other collections: of rows that were learned and rolled back, or decided otherwise."""
    collections = {document.path: collection for document, collection in documents}
    for listed in index.list():
        if collections.get(listed.document, listed.collection) != listed.collection:
            index.remove(listed.document, listed.collection)


def _mark(index: Index, record: CycleRecord, generation: int) -> int:
    """Move a night's documents to history, and return how many are there; those that are there already stay."""
    names = [_name(record, example) for example in _buffered(record)]
    batch = _batch(record, generation)
    index.mark_trained(batch, record.content["started"][:10], names)
    return sum(listed.metadata.get("training_batch") == batch for listed in index.list(PDCAS))


def _mark_again(index: Index, cycle: Cycle) -> None:
    """Mark the rows of earlier nights where that failed."""
    for record in cycle.before:
        if record.content["decision"] == "promoted" and "failed" in (record.result("mark_trained") or {}):
            _mark(index, record, record.content["generation"])
