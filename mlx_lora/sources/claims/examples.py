"""Training examples from samples: a prompt that shows the evidence, an answer whose citations can be checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...data.dataset import Example, Span
from .prompt_format import DOCUMENT_ID, Claim, Relation, format_claim, format_relation, one_line, parse_claim
from .scifact import Document, Sample

# The published value: a wrong document id is the error that matters, and it is only a few tokens of an answer.
CITATION_VALIDITY_WEIGHT = 5.0
# A citation is valid where the document has more than this share of the claim's words.
LEAST_SHARED_WORDS = 0.3

INSTRUCTION = """\
Judge the claim by the documents. Write one line each:
CLAIM[c1]: the claim (citing the id of its document)
CLAIM[c2]: what a document says about it (citing its id), and so on
RELATION: c2 supports c1 (or refutes, or contrasts)"""

_SHOWN = re.compile(rf"^Document ({DOCUMENT_ID}):(.*)$", re.ASCII | re.MULTILINE)
_WORD = re.compile(r"\w+")


def build_prompt(claim: str, documents: Sequence[Document]) -> str:
    """Return the user message: the task, the claim, and a line ``Document <id>: title abstract`` per document.

    A document is one line, so that no abstract can pass for the beginning of another document.
    """
    shown = [f"Document {document.doc_id}: {document.text}" for document in documents]
    return "\n".join([INSTRUCTION, "", f"Claim: {one_line(claim)}", "", *shown])


def documents_shown(prompt: str) -> dict[str, str]:
    """Return the documents that a prompt shows, id -> text."""
    return {match[1]: match[2].strip() for match in _SHOWN.finditer(prompt)}


def gold_lines(sample: Sample) -> tuple[list[Claim], list[Relation]]:
    """Return the answer to a sample: c1 is its claim, citing its first document; each evidence is a further claim.

    Raises:
        ValueError: the evidence names a document that is not there, or a sentence the document does not have.
    """
    ids = sample.evidence_ids
    claims, relations = [Claim(1, one_line(sample.claim), ids[0] if ids else None)], []
    for evidence in sample.evidence:
        document = sample.documents.get(evidence.doc_id)
        if document is None:
            raise ValueError(f"document {evidence.doc_id} is not in the corpus")
        if max(evidence.sentences) >= len(document.sentences):
            raise ValueError(f"document {evidence.doc_id} has no sentence {max(evidence.sentences)}")
        text = one_line(" ".join(document.sentences[i] for i in evidence.sentences))
        if not text:
            raise ValueError(f"the evidence in document {evidence.doc_id} is empty")
        claims.append(Claim(len(claims) + 1, text, evidence.doc_id))
        relations.append(Relation(len(claims), evidence.relation, 1))
    return claims, relations


def format_for_training(sample: Sample) -> dict[str, str]:
    """Return ``{"prompt", "expected_output"}`` of a sample.

    Raises:
        ValueError: as :func:`gold_lines`.
    """
    claims, relations = gold_lines(sample)
    return {
        "prompt": build_prompt(sample.claim, [sample.documents[i] for i in sample.evidence_ids]),
        "expected_output": "\n".join([*map(format_claim, claims), *map(format_relation, relations)]),
    }


def format_chat_messages(sample: Sample) -> list[dict[str, str]]:
    """Return the same as a user and an assistant message."""
    texts = format_for_training(sample)
    return [
        {"role": "user", "content": texts["prompt"]},
        {"role": "assistant", "content": texts["expected_output"]},
    ]


def words(text: str) -> list[str]:
    """Return the words in lower case, in order."""
    return _WORD.findall(text.lower())


def shared_words(claim: str, document: str) -> float:
    """Return the share of the claim's distinct words that the document has too, 0 to 1."""
    wanted = set(words(claim))
    return len(wanted & set(words(document))) / len(wanted) if wanted else 0.0


def citation_is_valid(claim: Claim, documents: Mapping[str, str]) -> bool:
    """Return True if the claim cites a document that is shown and shares more than 0.3 of its words.

    Args:
        documents: id -> text of those in the prompt.
    """
    text = None if claim.doc_id is None else documents.get(claim.doc_id)
    return text is not None and shared_words(claim.text, text) > LEAST_SHARED_WORDS


def unseen_citations(prompt: str, output: str) -> list[str]:
    """Return ids of documents that an output cites and its prompt does not show (hallucinated citations)."""
    shown = documents_shown(prompt)
    cited = [claim.doc_id for line in output.splitlines() if (claim := parse_claim(line)) and claim.doc_id]
    return [doc_id for doc_id in dict.fromkeys(cited) if doc_id not in shown]


def citation_spans(messages: Sequence[Mapping[str, Any]], weight: float) -> list[Span]:
    """Return a weighted span on the document id of each valid citation in the assistant's messages.

    The prompt is the preceding user message. Tokenization normalises an example's weights to mean 1.

    Raises:
        ValueError: the weight is not a finite number above 0.
    """
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"citation_validity_weight {weight} must be a number above 0")
    spans = []
    shown: dict[str, str] = {}
    for index, message in enumerate(messages):
        if message["role"] == "user":
            shown = documents_shown(message["content"])
        if message["role"] != "assistant" or weight == 1:
            continue
        position = 0
        for line in message["content"].splitlines(keepends=True):
            claim = parse_claim(line)
            if claim and claim.doc_id and citation_is_valid(claim, shown):
                start = position + _place_of_id(line, claim.doc_id)
                spans.append(Span(index, start, start + len(claim.doc_id), weight))
            position += len(line)
    return spans


def _place_of_id(line: str, doc_id: str) -> int:
    """Return the offset of the id in a claim's line: in "(Document …)" before the text, or in the last "(citing …)"."""
    head = re.match(r"\s*CLAIM\[c\d+\]\s*\(Document\s+", line)
    return head.end() if head else line.rindex(doc_id, line.rindex("(citing"))


def to_example(sample: Sample, weight: float = CITATION_VALIDITY_WEIGHT) -> Example:
    """Convert a sample to a line of a dataset, with the spans of its valid citations.

    Raises:
        ValueError: as :func:`gold_lines`, or the answer would cite a document that the prompt does not show.
    """
    messages = format_chat_messages(sample)
    if unseen := unseen_citations(messages[0]["content"], messages[1]["content"]):
        raise ValueError(f"document {unseen[0]} is cited, and the prompt does not show it")
    meta = {"source": "claims", "id": sample.id, "documents": sample.evidence_ids, "from": sample.where}
    return Example(messages, meta=meta, spans=citation_spans(messages, weight))
