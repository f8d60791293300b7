"""Answers from an index: the passages most like a question go before it, and the answer cites them by number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..data.schema import is_text
from ..errors import UserError
from ..evaluation.cases import with_system
from ..evaluation.suite import Generation
from ..evaluation.targets.opening import open_target
from ..evaluation.targets.remote import AnswersTarget
from ..evaluation.targets.target import Messages, Target
from .collections import COLLECTIONS
from .ecosystems import find_ecosystem
from .tool_prompts import COLLECTION as TOOL_EXAMPLES
from .tool_prompts import add_tools

if TYPE_CHECKING:
    from .index import Hit, Index

PASSAGES = 5
MAX_TOKENS = 512
INSTRUCTION = (
    "Answer the question from the numbered sources. Cite each source that you use by its number in brackets, such as "
    "[1]. If the sources do not hold the answer, say so."
)
_CITED = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
# Time stamps in the names of PDCA files.
_STAMP = re.compile(r"\d{4}-\d\d-\d\d-UTC-\d{4}")


@dataclass
class Answer:
    """Answer to a question.

    Attributes:
        text: "" if the target gave none.
        hits: the sources as they were numbered, from 1.
        cited: numbers of the sources that the answer cites.
        invented: numbers that it cites and that no source has.
        tools: ecosystem whose tools were named, None where the question needs none.
    """

    question: str
    text: str
    hits: list[Hit]
    cited: list[int]
    invented: list[int]
    tools: str | None = None

    def as_dict(self, target: str) -> dict[str, Any]:
        """Return the JSON object of `ask --json`."""
        return {
            "target": target,
            "question": self.question,
            "answer": self.text,
            "tools": self.tools,
            "sources": [source_of(number, hit, number in self.cited) for number, hit in enumerate(self.hits, 1)],
            "invented": self.invented,
        }


def with_context(
    index: Index, messages: Messages, k: int = PASSAGES, collections: Sequence[str] | None = None
) -> tuple[Messages, list[Hit]]:
    """Return a conversation whose last message has the passages that are most like it before it, and the passages.

    Where none is found the conversation is as it was. The system prompt is left alone: a tuned model was trained with
    its own.

    Args:
        collections: those that are searched; by default all but the tool examples.

    Raises:
        UserError: the last message is not text, or see ``Index.search``.
    """
    question = messages[-1].get("content") if messages else None
    if not isinstance(question, str) or not question.strip():
        raise UserError("retrieval searches for the last message, which has no text; write the question there")
    hits = search(index, question, k, collections)
    if not hits:
        return messages, []
    sources = "\n\n".join(f"[{number}] {title_of(hit)}\n{hit.text.strip()}" for number, hit in enumerate(hits, 1))
    content = f"{INSTRUCTION}\n\n{sources}\n\nQuestion: {question}"
    return [*messages[:-1], {**messages[-1], "content": content}], hits


def search(
    index: Index, question: str, k: int, collections: Sequence[str] | None = None, mode: str = "hybrid"
) -> list[Hit]:
    """Return the ``k`` best passages; without ``collections`` those of all but the tool examples."""
    chosen = [name for name in COLLECTIONS if name != TOOL_EXAMPLES] if collections is None else list(collections)
    return index.search(question, k=k, collections=chosen, mode=mode)


def answer(
    target: Target,
    index: Index,
    question: str,
    generation: Generation,
    k: int = PASSAGES,
    collections: Sequence[str] | None = None,
    ecosystem: str | None = None,
) -> Answer:
    """Ask a target a question with what an index holds about it.

    Args:
        ecosystem: its tools are named where the question needs one; the passages are then left out.

    Raises:
        UserError: the target does not answer, or see ``with_context`` and ``build_tool_prompt``.
    """
    messages: Messages = [{"role": "user", "content": question}]
    hits: list[Hit] = []
    prompt = None
    if ecosystem is not None:
        messages, prompt = add_tools(index, messages, ecosystem)
    if prompt is None:
        messages, hits = with_context(index, messages, k, collections)
    (reply,) = target.answer([with_system(messages, target.system_prompt)], [""], generation)
    if reply.text is None:
        raise UserError(f"{target.name}: {reply.error}")
    cited, invented = citations(reply.text, hits)
    return Answer(question, reply.text, hits, cited, invented, None if prompt is None else prompt.ecosystem)


def citations(text: str, hits: Sequence[Hit]) -> tuple[list[int], list[int]]:
    """Return the numbers of the sources that an answer cites, by number or file name, and those that no source has."""
    numbers = {int(each) for found in _CITED.findall(text) for each in found.split(",")}
    named = {number for number, hit in enumerate(hits, 1) if _names(text, hit)}
    known = set(range(1, len(hits) + 1))
    return sorted(numbers & known | named), sorted(numbers - known)


def _names(text: str, hit: Hit) -> bool:
    """Return True if an answer names a source: its file without the extensions, its id, or its time stamp."""
    stem = PurePath(hit.document).name.split(".md", 1)[0].removesuffix(".pdca")
    names = [stem, str(hit.metadata.get("pdca_id") or ""), *_STAMP.findall(stem)[-1:]]
    return any(len(name) > 3 and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names)


def title_of(hit: Hit) -> str:
    """Return a source's file, and the headings above the passage."""
    headings = hit.metadata.get("headings") or []
    path = " > ".join(map(str, headings)) if isinstance(headings, (list, tuple)) else str(headings)
    return f"{PurePath(hit.document).name}{f' ({path})' if path else ''}"


def source_of(number: int, hit: Hit, cited: bool) -> dict[str, Any]:
    """Return a source as `--json` prints it."""
    return {
        "number": number,
        "document": hit.document,
        "collection": hit.collection,
        "title": title_of(hit),
        "score": hit.score,
        "cited": cited,
        "text": hit.text,
    }


def ask_question(
    question: str,
    target: str,
    directory: Path,
    *,
    notes: Callable[[Sequence[str]], None],
    warn: Callable[[Sequence[str]], None],
    cases: Path | None = None,
    k: int = PASSAGES,
    collections: Sequence[str] = (),
    ecosystem: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    backend: str | None = None,
) -> dict[str, Any]:
    """Open an index and a target, and return what `ask --json` prints.

    Args:
        cases: of suites; a single question has none.

    Raises:
        UserError: see ``Index.open``, ``open_target`` and ``answer``.
    """
    from .index import Index

    if cases is not None:
        raise UserError(f"--cases {cases}: these are the cases of a suite; name it with --suites, without a question")
    if not is_text(question):
        raise UserError("the question holds bytes that are no UTF-8 text; correct it")
    if ecosystem is not None:
        find_ecosystem(ecosystem)
    generation = Generation(max_tokens or MAX_TOKENS, temperature or 0.0, seed or 0)
    with (
        closing(Index.open(directory, readonly=True)) as index,
        closing(open_target(target, backend or "auto")) as opened,
    ):
        check_reads_context(opened)
        warn(opened.warnings)
        notes(opened.notes)
        found = answer(opened, index, question, generation, k, list(collections) or None, ecosystem)
    return found.as_dict(target)


def check_reads_context(target: Target) -> None:
    """Raise UserError if a target is a file of answers, which reads no sources."""
    if isinstance(target, AnswersTarget):
        raise UserError(f"{target.name}: a file of answers reads no sources; name a run, a model or a server")


def source_lines(found: dict[str, Any]) -> list[str]:
    """Return the lines below an answer: its sources, those that it cites marked."""
    lines = [f"{'*' if s['cited'] else ' '} [{s['number']}] {s['title']}  {s['document']}" for s in found["sources"]]
    if found["tools"]:
        return [f"(the tools of {found['tools']} were named; no sources)"]
    if not lines:
        return ["(the index holds nothing about this; the answer has no sources)"]
    if found["invented"]:
        lines.append(f"(the answer cites {', '.join(map(str, found['invented']))}, which no source has)")
    return [*lines, "* cited in the answer"] if any(s["cited"] for s in found["sources"]) else lines
