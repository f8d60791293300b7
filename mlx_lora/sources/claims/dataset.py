"""Dataset of claims: claims and their corpus → a dataset directory and its import report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ...data.dataset import Example
from ...data.dataset_card import DatasetCard, write_card
from ...data.import_report import ImportReport, NothingLeft
from ...data.split import split_by_key, unless_held_out
from ...errors import UserError
from ...files import check_absent
from .control_tokens import control_token_notes, strip_document, strip_sample
from .examples import CITATION_VALIDITY_WEIGHT, to_example
from .prompt_format import one_line
from .scifact import Document, Sample, read_claims, read_corpus, shared_documents
from .validation import Case, validate_cases

NO_EVIDENCE = "claim without evidence: there is nothing to cite"
QUARANTINED = "quarantined: its answer would cite what the prompt does not show"
NOTHING_LEFT = "claim that is nothing but control tokens"
DUPLICATE = "claim with the same words and documents as an earlier one"


def make_dataset(
    out: str | Path,
    *,
    claims: Sequence[str | Path],
    corpus: Sequence[str | Path],
    citation_validity_weight: float = CITATION_VALIDITY_WEIGHT,
    strip: bool = False,
) -> DatasetCard:
    """Write a new dataset directory and return its card.

    Claims that share an evidence document stay in one split, across all the files.

    Args:
        strip: remove text in the form of control tokens from claims and documents.

    Raises:
        UserError: the directory exists, a file cannot be read, an unknown label, two documents with one id, a
            weight that is not a number above 0, or no example at all.
    """
    check_absent(out)
    of_corpus, report = ImportReport("corpus"), ImportReport("claims")
    documents: dict[str, Document] = {}
    for path in corpus:
        read = read_corpus(path, of_corpus)
        if strip:
            read = {doc_id: strip_document(document, report) for doc_id, document in read.items()}
        documents |= _without_conflict(path, documents, read)
    samples = {str(path): list(read_claims(path, documents, report)) for path in claims}
    if strip:
        samples = {path: [strip_sample(sample, report) for sample in some] for path, some in samples.items()}
    examples = collect_examples((s for some in samples.values() for s in some), citation_validity_weight, report)
    report.notes += _notes(of_corpus, samples, examples, citation_validity_weight)
    report.notes += control_token_notes(examples, report)
    if not examples:
        raise NothingLeft(f"{claims[0]}: not one example could be made of the claims ({report.reasons})", report)
    key = split_keys(examples, documents)
    splits = split_by_key(examples, lambda example: key[example.meta["documents"][0]])
    note = "There are too few documents to hold any out: all examples are in train."
    splits = unless_held_out(splits, examples, report, note)
    details = {
        "claims": [str(path) for path in claims],
        "corpus": [str(path) for path in corpus],
        "documents": len(documents),
        "citation_validity_weight": citation_validity_weight,
        "weighted_citations": sum(len(example.spans) for example in examples),
    }
    return write_card(out, splits, report, {"read": report.read, "examples": len(examples)}, details)


def make_claims_dataset(out: str | Path, **options: Any) -> tuple[dict[str, Any], ImportReport]:
    """Write a dataset as :func:`make_dataset` does, and return the content of its card and the import report."""
    card = make_dataset(out, **options)
    return card.to_dict(), card.report


def _without_conflict(path: str | Path, known: Mapping[str, Document], new: dict[str, Document]) -> dict[str, Document]:
    for doc_id, document in new.items():
        if known.get(doc_id, document) != document:
            raise UserError(f"{path}: document {doc_id} has another text in the corpus before; import the two apart")
    return new


def collect_examples(samples: Iterable[Sample], weight: float, report: ImportReport) -> list[Example]:
    """Convert each sample that has evidence and can be grounded to an example; report the others."""
    examples: list[Example] = []
    seen = set()
    for sample in samples:
        name = f"{sample.where}: claim {sample.id}"
        identity = (one_line(sample.claim), tuple(sorted(sample.evidence_ids)))
        if not sample.evidence:
            report.leave_out(NO_EVIDENCE, name)
        elif not identity[0]:
            report.leave_out(NOTHING_LEFT, name)
        elif identity in seen:
            report.leave_out(DUPLICATE, name)
        else:
            seen.add(identity)
            try:
                examples.append(to_example(sample, weight))
            except ValueError as error:
                report.leave_out(QUARANTINED, f"{name}: {error}")
    report.kept = len(examples)
    return examples


def split_keys(examples: Iterable[Example], documents: Mapping[str, Document]) -> dict[str, str]:
    """Return document id -> group key: the least id of all documents that claims tie it to.

    Documents are tied where one claim shows both, or where one text has two ids. If examples are split by this key,
    no document is in two splits.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    by_text: dict[str, str] = {}
    for example in examples:
        ids = example.meta["documents"]
        for doc_id in ids:
            for other in (ids[0], by_text.setdefault(documents[doc_id].text, doc_id)):
                low, high = sorted((root(doc_id), root(other)))
                parent[high] = low
    return {doc_id: root(doc_id) for doc_id in list(parent)}


def _notes(
    of_corpus: ImportReport, samples: Mapping[str, list[Sample]], examples: Sequence[Example], weight: float
) -> list[str]:
    notes = [
        f"{count} documents of the corpus were left out: {reason} ({', '.join(of_corpus.left_out[reason])})."
        for reason, count in of_corpus.counts.items()
    ]
    for (a, some), (b, others) in combinations(samples.items(), 2):
        if shared := shared_documents(some, others):
            total = len({i for sample in others for i in sample.evidence_ids})
            notes.append(
                f"{len(shared)} of the {total} evidence documents of {b} occur in {a} too: "
                "judging by one what was trained on the other would leak; here they share a split."
            )
    if not examples:
        return notes
    judged = validate_cases(Case.from_messages(example.messages) for example in examples)
    notes.append(f"The answers themselves: schema {judged.schema:.3f}, valid citations {judged.citation:.3f}.")
    spans = sum(len(example.spans) for example in examples)
    if weight == 1:
        notes.append("citation_validity_weight is 1: citations count like the rest of an answer.")
    elif not spans:
        notes.append(f"WARNING: citation_validity_weight {weight:g} touched nothing: no citation here is valid.")
    else:
        notes.append(
            f"citation_validity_weight {weight:g} is on {spans} of {judged.claims} document ids; "
            "the others' documents share too few words with the claim that cites them."
        )
    return notes
