"""Control tokens, such as ``<|cit|>``, in the text of claims and their documents: detection and removal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ...data.control_tokens import CONTROL, strip_control_tokens
from ...data.dataset import Example
from ...data.import_report import ImportReport
from .scifact import Document, Sample

STRIPPED = "control tokens, such as <|cit|>, were taken out"


def strip_sample(sample: Sample, report: ImportReport) -> Sample:
    """Remove control tokens from a sample's claim; one that had any is named in the report."""
    text, tokens, _ = strip_control_tokens(sample.claim)
    if tokens:
        report.change(STRIPPED, f"{sample.where}: claim {sample.id}: {_listed(tokens)}")
    return replace(sample, claim=text) if tokens else sample


def strip_document(document: Document, report: ImportReport) -> Document:
    """Remove control tokens from a document's title and sentences; one that had any is named in the report."""
    title, *sentences = (strip_control_tokens(text) for text in (document.title, *document.sentences))
    if tokens := [token for _, found, _ in (title, *sentences) for token in found]:
        report.change(STRIPPED, f"document {document.doc_id}: {_listed(tokens)}")
        return replace(document, title=title[0], sentences=[text for text, _, _ in sentences])
    return document


def control_token_notes(examples: Sequence[Example], report: ImportReport) -> list[str]:
    """Return notes on the control tokens that were removed, or that the examples' messages hold."""
    if stripped := report.changed.get(STRIPPED):
        return [f"Control tokens were taken out of {len(stripped)} claims and documents, which report.md names."]
    found = [[token for m in example.messages for token in CONTROL.findall(m["content"])] for example in examples]
    answers = sum(bool(CONTROL.search(example.messages[-1]["content"])) for example in examples)
    counts = Counter(token for tokens in found for token in tokens)
    if not counts:
        return []
    return [
        f"{sum(map(bool, found))} examples, {answers} of them in their answers, hold text in the form of control "
        f"tokens ({', '.join(f'{token} {count}' for token, count in counts.most_common(5))}), which would be learned: "
        "--strip takes it out."
    ]


def _listed(tokens: Sequence[str]) -> str:
    return ", ".join(f"{token} × {count}" if count > 1 else token for token, count in Counter(tokens).items())
