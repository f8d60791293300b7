"""Checks of train/test leakage: rows, prompts and documents on both sides, and rows that are marked as evaluation."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from .base import Hit
from .conflicts import brief
from .dataset_table import Item, Table

# Keys of meta that name a row's source documents.
DOCUMENT_KEYS = (
    *("doc_id", "doc_ids", "document", "documents", "document_id", "document_ids", "cited_doc_ids", "pdca_id"),
    *("source_document", "source_doc", "source_file", "source_path", "source"),
)
# "source" names a document only where it looks like one.
_PATH = re.compile(r"/|\.\w{1,5}$")


def rows(table: Table) -> Iterator[Hit]:
    """Yield evaluation rows that are in the training set too; ``--fix`` leaves the training rows out."""
    trained: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in table.trained:
        trained[item.pair].append(item)
    for item in table.held_out:
        if copies := trained.get(item.pair):
            yield Hit(f"{item.where}: {copies[0].where} is the same row, and it is trained on", copies)


def prompts(table: Table) -> Iterator[Hit]:
    """Yield evaluation prompts that are in the training set with another answer."""
    trained: dict[str, list[Item]] = defaultdict(list)
    for item in table.trained:
        trained[item.prompt].append(item)
    for item in table.held_out:
        # Bare texts have no prompt that could leak.
        same = trained.get(item.prompt) if item.question.strip() else None
        if same and not any(other.pair == item.pair for other in same):
            yield Hit(f"{item.where}: {same[0].where} has the same prompt, and it is trained on", same)


def documents(table: Table) -> Iterator[Hit]:
    """Yield one hit for each document that is the source of rows on both sides; nothing is left out for it."""
    trained: dict[str, Item] = {}
    for item in table.trained:
        for document in documents_of(item):
            trained.setdefault(document, item)
    seen = set()
    for item in table.held_out:
        for document in documents_of(item):
            if document in trained and document not in seen:
                seen.add(document)
                yield Hit(f"{item.where}: its document {brief(document)} is that of {trained[document].where}")


def documents_of(item: Item) -> list[str]:
    """Return the documents that a row's meta names."""
    found = []
    for key in DOCUMENT_KEYS:
        value = item.row.meta.get(key)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (str, int)) and not isinstance(one, bool) and one != "":
                text = str(one)
                if key != "source" or _PATH.search(text):
                    found.append(text)
    return found


def never_train(table: Table) -> Iterator[Hit]:
    """Yield training rows marked ``never_train``."""
    return _marked(table, "never_train")


def is_eval(table: Table) -> Iterator[Hit]:
    """Yield training rows marked ``is_eval``, or of the bucket ``eval``."""
    yield from _marked(table, "is_eval")
    for item in table.trained:
        if item.row.meta.get("task_type") == "eval" and not item.marked("is_eval"):
            yield Hit(f"{item.where}: a row of the bucket eval, in training", [item])


def is_negative_example(table: Table) -> Iterator[Hit]:
    """Yield training rows marked ``is_negative_example``: training on one teaches the behaviour it warns of."""
    return _marked(table, "is_negative_example")


def _marked(table: Table, mark: str) -> Iterator[Hit]:
    for item in table.trained:
        if item.marked(mark):
            yield Hit(f"{item.where}: marked {mark}, and in training", [item])
