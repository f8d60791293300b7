"""Output format: claims with the document each cites, and their relations, one line each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

RELATIONS = ("supports", "refutes", "contrasts")
# Document ids as they occur in stores; without characters that would break the parsing of an output line.
DOCUMENT_ID = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"

_CLAIM = re.compile(rf"CLAIM\[c(\d{{1,9}})\](?: ?\(Document ({DOCUMENT_ID})\))? ?:(.*)", re.ASCII)
_CITING = re.compile(rf"\(citing ({DOCUMENT_ID})\)[.;]?$", re.ASCII)
_RELATION = re.compile(rf"RELATION: ?c(\d{{1,9}}) ({'|'.join(RELATIONS)}) c(\d{{1,9}})[.;]?", re.ASCII)


@dataclass
class Claim:
    """Claim line ``CLAIM[c1]: text (citing 12345)``.

    Attributes:
        number: from 1.
        doc_id: the document it cites, ``None`` if it cites none.
    """

    number: int
    text: str
    doc_id: str | None = None


@dataclass
class Relation:
    """Relation line ``RELATION: c2 supports c1``; ``kind`` is one of ``RELATIONS``."""

    source: int
    kind: str
    target: int


@dataclass
class ParsedOutput:
    """Parsed output; every non-empty line is in exactly one of the three."""

    claims: list[Claim] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """Number of non-empty lines."""
        return len(self.claims) + len(self.relations) + len(self.malformed)


def one_line(text: str) -> str:
    """Collapse each run of white space to one blank, so that a line of the format stays one."""
    return " ".join(text.split())


def format_claim(claim: Claim) -> str:
    """Return ``CLAIM[c1]: text (citing 12345)``, without the bracket where nothing is cited."""
    citation = "" if claim.doc_id is None else f" (citing {claim.doc_id})"
    return f"CLAIM[c{claim.number}]: {one_line(claim.text)}{citation}"


def format_relation(relation: Relation) -> str:
    """Return ``RELATION: c2 supports c1``."""
    return f"RELATION: c{relation.source} {relation.kind} c{relation.target}"


def parse_claim(line: str) -> Claim | None:
    """Parse a claim of any of three dialects; ``None`` for another line.

    ``CLAIM[c1]: text (citing 12345)``, ``CLAIM[c2] (Document 12345): text`` and ``CLAIM[c2]: text``.
    """
    match = _CLAIM.fullmatch(one_line(line))
    if match is None or int(match[1]) < 1:
        return None
    doc_id, text = match[2], match[3].strip()
    if doc_id is None and (citing := _CITING.search(text)):
        doc_id, text = citing[1], text[: citing.start()].rstrip()
    return Claim(int(match[1]), text, doc_id) if text else None


def parse_relation(line: str) -> Relation | None:
    """Parse ``RELATION: c2 supports c1`` (or refutes, contrasts); ``None`` for another line."""
    match = _RELATION.fullmatch(one_line(line))
    if match is None or min(int(match[1]), int(match[3])) < 1:
        return None
    return Relation(int(match[1]), match[2], int(match[3]))


def parse_output(output: str) -> ParsedOutput:
    """Parse each non-empty line of a model's output as a claim, a relation, or malformed."""
    parsed = ParsedOutput()
    for line in output.splitlines():
        if claim := parse_claim(line):
            parsed.claims.append(claim)
        elif relation := parse_relation(line):
            parsed.relations.append(relation)
        elif line.strip():
            parsed.malformed.append(line)
    return parsed
