"""Collections of an index, and the metadata that each extracts from its documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest, shortened
from .chunks import Chunk, Document
from .documents import CODE, ROWS

_FIELD = re.compile(r"^[ \t>-]*\*\*\W{0,6}([A-Za-z][A-Za-z /]{2,40}?):?\*\*:?[ \t]*(\S.*?)[ \t]*$", re.M)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[-T ](?:UTC-)?(\d\d):?(\d\d))?")
_LINK = re.compile(r"\[[^\]\n]{1,300}\]\(([^)\s]{1,500})\)")
# A link to GitHub and the same place in the checkout, as the template asks for.
_DUAL = re.compile(r"\[GitHub\]\([^)\n]+\)\s*\|\s*\[[^\]\n]+\]\([^)\n]+\)")
_CMM = re.compile(r"(?i)\bCMM[ -]?(?:level[ :-]*)?([1-5])\b")
_PHASES = {"plan": "plan", "do": "do", "check": "check", "act": "act"}
_SECTIONS = {**_PHASES, "summary": "summary", "emotional": "reflection", "reflection": "reflection"}
_SECTIONS |= {"process": "process_update", "links": "summary", "feedback": "feedback", "decisions": "decisions"}
# First match in the document's title and task decides.
_TASKS = (
    ("correction", r"correct|fix|violation|recover|restor|bug"),
    ("testing", r"\btest|regression|validation"),
    ("analysis", r"analy|assess|review|research|verification"),
    ("planning", r"\bplan|task creation|requirement"),
    ("refactoring", r"refactor|rename|separat|migrat|upgrade"),
    ("implementation", r"implement|creat|build|add|complet"),
    ("documentation", r"document|template|format|summary"),
)
# Names of the published components' patterns, each with what shows it in the source.
_PATTERNS = {
    "empty_constructor": r"\bconstructor\s*\(\s*\)\s*\{",
    "scenario_init": r"\binit\s*\(\s*\w*[sS]cenario",
    "to_scenario": r"\btoScenario\s*\(",
    "static_start": r"\bstatic\s+(?:async\s+)?start\s*\(",
    "interface": r"^export\s+interface\s",
    "cli": r"\bDefaultCLI\b|^#!/usr/bin/env node",
    "proxy": r"\bnew Proxy\s*\(",
    "test": r"\b(?:describe|it|test)\s*\(\s*[\"'`]",
}


def _fields(text: str) -> dict[str, str]:
    """Return ``**Name:** value`` lines of a document's head, the first of each name."""
    found: dict[str, str] = {}
    for match in _FIELD.finditer(text[:6000]):
        found.setdefault(match[1].strip().lower(), match[2].strip())
    return found


def _main_part(value: str) -> str:
    """Return a field before its explanation: ``Developer → Specialist`` is of a Developer."""
    return re.sub(r"[^\w\s()./+&-]", "", value.split("→")[0].split("](")[0].strip("[ ")).strip()[:100]


def parse_date(text: str) -> tuple[str, int]:
    """Return (ISO date, seconds since 1970 UTC) of the first date in a text; ("", 0) if there is none."""
    for year, month, day, hour, minute in _DATE.findall(text):
        try:
            when = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), tzinfo=UTC)
        except ValueError:
            continue
        return when.strftime("%Y-%m-%d"), int(when.timestamp())
    return "", 0


def pdca_metadata(document: Document) -> dict[str, Any]:
    """Return names, dates, roles, links, CMM level and state of a PDCA document."""
    text, fields = document.text, _fields(document.text)
    path, name = Path(document.path), re.sub(r"(?:\.pdca)?\.md$", "", Path(document.path).name)
    # Files that were gathered from a tree have its folders in their names.
    folders, pdca_id = (name.split("__")[:-1] or list(path.parts[:-1])), name.split("__")[-1]
    date, timestamp = parse_date(fields.get("date", ""))
    if not timestamp or not _DATE.search(fields.get("date", "") or "").group(4):  # type: ignore[union-attr]
        by_name = parse_date(pdca_id)
        date, timestamp = by_name if by_name[1] and (not date or by_name[0] == date) else (date, timestamp)
    role = next((_main_part(fields[key]) for key in ("agent role", "role") if key in fields), "")
    agent = _main_part(fields.get("agent name", "")) or role
    levels = Counter(int(level) for level in _CMM.findall(text))
    phases = {chunk_type(chunk) for chunk in document.chunks} & set(_PHASES.values())
    title = next((line.lstrip("# ") for line in text.split("\n") if line.startswith("#")), pdca_id)
    previous = fields.get("previous pdca", "")
    return {
        "pdca_id": pdca_id,
        "title": re.sub(r"[*`]|[^\w\s.,:;()/→-]", "", title).strip()[:200],
        "agent_name": agent,
        "agent_role": role,
        "date": date,
        "timestamp": timestamp,
        "session_id": _main_part(fields.get("project journal session", fields.get("session", "")))
        or next((part for part in reversed(folders) if "session" in part), ""),
        "branch": _main_part(fields.get("branch", "")),
        "sprint": _main_part(fields.get("sprint", "")),
        "cmm_level": max(levels, key=lambda level: (levels[level], level)) if levels else 1,
        "task_type": _task_type(f"{title} {fields.get('task', '')}"),
        "objective": fields.get("objective", "")[:500],
        "links": list(dict.fromkeys(_LINK.findall(text)))[:20],
        "dual_links": len(_DUAL.findall(text)),
        "previous": next((Path(link).name for link in _LINK.findall(previous) if link.endswith(".md")), ""),
        "verification_status": "complete" if len(phases) == len(_PHASES) else "incomplete",
        **_TRAINING,
    }


# Changed by the night that trains on a document.
_TRAINING: dict[str, Any] = {"trained_in_adapter": False, "training_batch": "", "training_date": ""}


def _task_type(text: str) -> str:
    return next((name for name, pattern in _TASKS if re.search(pattern, text, re.I)), "other")


def chunk_type(chunk: Chunk) -> str:
    """Return the part of a PDCA that a chunk belongs to: plan, do, check, act, summary, header and others."""
    for heading in chunk.headings[1:] or ():
        words = re.findall(r"[a-z]+", heading.lower())
        found = next((_SECTIONS[word] for word in words[:2] if word in _SECTIONS), None)
        if found:
            return found
    return "header" if len(chunk.headings) < 2 else "section"


def component_metadata(document: Document) -> dict[str, Any]:
    """Return layer, patterns and kind of a source file; the layer by its path, its own comment, or its name."""
    path, text = Path(document.path), document.text
    own = re.search(r"layer[ _-]?([235])\b", f"{document.path}\n{_comment(text)}", re.I)
    if own:
        layer = f"layer{own[1]}"
    else:
        # Imports do not tell it: "../layer3/X" is of a sibling, "./X" says nothing.
        layer = "unknown"
        if re.search(r"(?m)CLI\.\w+$|View\.\w+$", path.name):
            layer = "layer5"
        elif re.search(r"\.interface\.\w+$", path.name):
            layer = "layer3"
        elif re.search(r"(?:^|__)Default\w+\.\w+$", path.name):
            layer = "layer2"
    return {
        "file_path": document.path,
        "layer": layer,
        "patterns": [name for name, pattern in _PATTERNS.items() if re.search(pattern, text, re.M)],
        **_file_type(document),
    }


def _comment(text: str) -> str:
    """Return the comment at a file's beginning."""
    found = re.match(r"(?:#!.*\n|\s)*((?:/\*.{0,2000}?\*/)|(?:\s*(?://|#).*\n){1,20})", text, re.S)
    return found[1] if found else ""


def _file_type(document: Document) -> dict[str, Any]:
    return {"file_type": Path(document.path).suffix.lstrip(".").lower() or "unknown"}


def _file_metadata(document: Document) -> dict[str, Any]:
    date, timestamp = parse_date(Path(document.path).name)
    return {**_file_type(document), "date": date, "timestamp": timestamp}


PDCAS, BUFFER = "pdca_historical", "daily_buffer"
COLLECTIONS: dict[str, Callable[[Document], dict[str, Any]]] = {
    PDCAS: pdca_metadata,
    "components": component_metadata,
    "process_docs": _file_metadata,
    "tool_examples": _file_metadata,
    # What is moved to the PDCAs when it is trained on has their metadata from the start.
    BUFFER: lambda document: {**pdca_metadata(document), **_file_type(document)},
    "process_framework": _file_metadata,
}


def collection_of(path: Path) -> str:
    """Return the collection of a file that none is named for."""
    if path.name.endswith(".pdca.md"):
        return PDCAS
    kind = path.suffix.lower()
    return "components" if kind in CODE else "tool_examples" if kind in ROWS else "process_docs"


def check_collection(name: str) -> str:
    """Return a collection's name.

    Raises:
        UserError: there is no such collection.
    """
    if name not in COLLECTIONS:
        raise UserError(
            f"{shortened(name)} is not a collection; nearest is {nearest(name, COLLECTIONS)}, all are "
            + ", ".join(COLLECTIONS)
        )
    return name


def add_metadata(document: Document, collection: str) -> dict[str, Any]:
    """Return the document's metadata, and give each chunk of a PDCA its part."""
    if collection in (PDCAS, BUFFER):
        for chunk in document.chunks:
            chunk.metadata["chunk_type"] = chunk_type(chunk)
    return COLLECTIONS[collection](document)
