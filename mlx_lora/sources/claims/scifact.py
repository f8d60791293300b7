"""SciFact reader: its files, and those of other sets in its schema (Wadden et al. 2020, "Fact or Fiction")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ...data.import_report import ImportReport
from ...data.jsonl import read_objects, shortened
from ...errors import UserError
from .prompt_format import DOCUMENT_ID, one_line

# Label of the published files -> relation of the evidence to the claim.
LABELS = {"SUPPORT": "supports", "CONTRADICT": "refutes", "REFUTE": "refutes"}
MALFORMED = "row of another form than SciFact's"


@dataclass
class Document:
    """Abstract of the corpus, by its sentences."""

    doc_id: str
    title: str
    sentences: list[str]

    @property
    def text(self) -> str:
        """Title and abstract on one line."""
        return one_line(" ".join([self.title, *self.sentences]))


@dataclass
class Evidence:
    """Sentences of a document (indices from 0) that together support or refute a claim.

    Attributes:
        relation: "supports" or "refutes".
    """

    doc_id: str
    sentences: list[int]
    relation: str


@dataclass
class Sample:
    """Claim with its evidence.

    Attributes:
        documents: those of the evidence that the corpus has, by id.
        where: file and line.
    """

    id: str
    claim: str
    evidence: list[Evidence] = field(default_factory=list)
    cited_doc_ids: list[str] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)
    where: str = ""

    @property
    def evidence_ids(self) -> list[str]:
        """Ids of the evidence's documents, each once, in order."""
        return list(dict.fromkeys(evidence.doc_id for evidence in self.evidence))


class SciFact:
    """Claims of a directory in the layout of SciFact's own archive (github.com/allenai/scifact)."""

    @staticmethod
    def load(split: str, limit: int | None = None, *, directory: str | Path = "data/scifact") -> list[Sample]:
        """Load the samples of ``claims_{split}.jsonl`` with the documents of ``corpus.jsonl``.

        Args:
            split: "train" or "dev" ("test" has no evidence).
            limit: maximum number of samples, from the beginning.
            directory: directory of the two files; without a corpus the samples have no documents.

        Raises:
            UserError: no such file, a line that is not a claim or not a document, or an unknown label.
        """
        report = ImportReport("claims")
        names = (f"claims_{split}.jsonl", f"scifact_claims_{split}.jsonl")
        path = next((Path(directory, name) for name in names if Path(directory, name).exists()), None)
        if path is None:
            raise UserError(
                f"{directory}: there is no {names[0]} in it; unpack the archive of github.com/allenai/scifact there"
            )
        corpus = Path(directory, "corpus.jsonl")
        documents = read_corpus(corpus, report) if corpus.exists() else {}
        samples = list(islice(read_claims(path, documents, report), limit))
        for reason, named in report.left_out.items():
            what = named[0] if reason == MALFORMED else f"{named[0]}: {reason}"
            raise UserError(f"{what}; correct or remove the line")
        return samples


def read_corpus(path: str | Path, report: ImportReport) -> dict[str, Document]:
    """Read the documents of a corpus by id; rows of another form are left out, and named in the report.

    Raises:
        UserError: the file cannot be read, or one id belongs to two different documents.
    """
    documents: dict[str, Document] = {}
    for where, row in read_objects(path, report):
        try:
            document = _document(row)
        except ValueError as error:
            report.leave_out(MALFORMED, f"{where}: {error}")
            continue
        if documents.setdefault(document.doc_id, document) != document:
            raise UserError(
                f"{where}: document {document.doc_id} occurs before with another text; "
                "a citation of it could mean either, so give one of them another id"
            )
    return documents


def _document(row: Mapping[str, Any]) -> Document:
    doc_id, title, abstract = _identity(row.get("doc_id"), "doc_id"), row.get("title") or "", row.get("abstract")
    if not re.fullmatch(DOCUMENT_ID, doc_id):
        raise ValueError(f"doc_id {shortened(doc_id)} must be letters, digits, dots and dashes")
    if not isinstance(title, str):
        raise ValueError("title must be text")
    if not isinstance(abstract, list) or not all(isinstance(sentence, str) for sentence in abstract):
        raise ValueError("abstract must be a list of sentences")
    document = Document(doc_id, title, abstract)
    if not document.text:
        raise ValueError("the document has no text")
    return document


def _identity(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise ValueError(f"{name} must be a number or text, not {shortened(value)}")
    return str(value)


def read_claims(path: str | Path, documents: Mapping[str, Document], report: ImportReport) -> Iterator[Sample]:
    """Read the samples of a claims file; rows of another form are left out, and named in the report.

    Raises:
        UserError: the file cannot be read, or an evidence label is unknown: guessing would teach the contrary.
    """
    for where, row in read_objects(path, report):
        try:
            sample = _sample(row, where)
        except ValueError as error:
            report.leave_out(MALFORMED, f"{where}: {error}")
            continue
        sample.documents = {i: documents[i] for i in sample.evidence_ids if i in documents}
        yield sample


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    claim, evidence, cited = row.get("claim"), row.get("evidence", {}), row.get("cited_doc_ids", [])
    if not isinstance(claim, str) or not claim.strip():
        raise ValueError("claim must be text")
    if not isinstance(evidence, dict):
        raise ValueError('evidence must be an object, {"doc_id": [{"sentences", "label"}]}')
    if not isinstance(cited, list):
        raise ValueError("cited_doc_ids must be a list")
    return Sample(
        id=_identity(row.get("id"), "id"),
        claim=claim,
        evidence=[_evidence(doc_id, one, where) for doc_id, many in evidence.items() for one in _listed(many)],
        cited_doc_ids=[_identity(value, "a cited document's id") for value in cited],
        where=where,
    )


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("the evidence of a document must be a list")
    return value


def _evidence(doc_id: str, row: Any, where: str) -> Evidence:
    if not isinstance(row, dict):
        raise ValueError('a piece of evidence must be an object, {"sentences", "label"}')
    label, sentences = row.get("label"), row.get("sentences")
    if not isinstance(label, str) or label not in LABELS:
        raise UserError(
            f"{where}: the evidence label {shortened(label)} is unknown; it must be one of {', '.join(LABELS)}"
        )
    if (
        not isinstance(sentences, list)
        or not sentences
        or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in sentences)
    ):
        raise ValueError("the sentences of evidence must be a list of indices from 0")
    return Evidence(doc_id, sentences, LABELS[label])


def shared_documents(some: list[Sample], others: list[Sample]) -> set[str]:
    """Return ids of evidence documents that occur in both: leakage if one is trained on and the other is the test."""
    return {i for s in some for i in s.evidence_ids} & {i for s in others for i in s.evidence_ids}
