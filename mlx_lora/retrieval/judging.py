"""Judgement of retrieval: recall of relevant documents, and a suite's answers with and without context, in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..engines.reply import Reply
from ..errors import UserError, shortened
from ..evaluation.cases import Case
from ..evaluation.compare_targets import suite_pairs, summarize
from ..evaluation.measurement import Measurement
from ..evaluation.runner import Evaluation, prepare_suites, run_suite
from ..evaluation.scorers.base import prompt_text
from ..evaluation.statistics.comparison import compare
from ..evaluation.suite import Generation, find_suites
from ..evaluation.targets.opening import open_target
from ..evaluation.targets.target import Messages, Target
from .answering import PASSAGES, check_reads_context, search, with_context
from .index import MODES, Index

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class ContextTarget:
    """Target that is given the passages of an index with every conversation."""

    target: Target
    index: Index
    k: int

    def __post_init__(self) -> None:
        self.name, self.system_prompt = f"{self.target.name} with context", self.target.system_prompt
        self.warnings, self.notes, self.group = self.target.warnings, self.target.notes, self.target.group

    @property
    def identity(self) -> str:
        """Identity of the target, with a mark of the context."""
        return f"{self.target.identity} with {self.k} passages"

    def answer(self, conversations: Sequence[Messages], ids: Sequence[str], settings: Generation) -> list[Reply]:
        """Answer conversations with what the index holds about each."""
        given = [with_context(self.index, messages, self.k)[0] for messages in conversations]
        return self.target.answer(given, ids, settings)

    def performance(self) -> dict[str, float | None]:
        """Return the measurements of the target, those without context included."""
        return self.target.performance()

    def close(self) -> None:
        """End nothing: the target is ended by whoever opened it."""


def relevant_documents(case: Case) -> list[str]:
    """Return the names of the documents that answer a case: ``document`` or ``documents`` in its metadata.

    Raises:
        UserError: they are not texts.
    """
    value = case.meta.get("documents", case.meta.get("document", []))
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"case {shortened(case.id)}: documents is a list of file names, not {shortened(value)}")
    return names


def recalled(index: Index, case: Case, k: int = PASSAGES, mode: str = "hybrid") -> bool:
    """Return True if each relevant document of a case is among those of its first ``k`` passages."""
    found = {PurePath(hit.document).name for hit in search(index, prompt_text(case), k, mode=mode)}
    return all(PurePath(name).name in found for name in relevant_documents(case))


def judge_retrieval(
    target: Target, index: Index, evaluations: Sequence[Evaluation], k: int = PASSAGES, *, progress: Progress
) -> dict[str, Any]:
    """Ask suites' cases with and without context; return what `compare --json` prints, and ``recall`` by mode.

    The candidate is the target with context. The row ``recall@K`` compares hybrid search with full text alone, on the
    cases that name their documents; it is judged by itself, and not pooled with the answers.

    Raises:
        UserError: see ``run_suite`` and ``relevant_documents``; a target that answers no case.
    """
    cases = [case for evaluation in evaluations for case in evaluation.cases if relevant_documents(case)]
    found = {mode: {case.id: recalled(index, case, k, mode) for case in cases} for mode in MODES}
    sides = []
    for side in (target, ContextTarget(target, index, k)):
        measured = Measurement(side.name, warnings=list(side.warnings))
        for evaluation in evaluations:
            name = evaluation.suite.name
            with progress(f"{name}: {side.name}", len(evaluation.cases)) as advance:
                measured.reports[name] = run_suite(evaluation, side, advance=advance)
        sides.append(measured)
    reference, candidate = sides
    names = [evaluation.suite.name for evaluation in evaluations]
    for name in names:
        if all(result["answer"] is None for result in reference.reports[name]["results"]):
            said = reference.reports[name]["results"][0]["error"]
            raise UserError(f"{target.name}: none of the cases of {name} was answered ({said}); nothing is compared")
    pairs = {name: suite_pairs(candidate, reference, name) for name in names}
    row = f"recall@{k}, hybrid against text"
    if cases:
        pairs[row] = [(case.id, found["hybrid"][case.id], found["text"][case.id]) for case in cases]
    comparison = compare(pairs, pool=names)
    recall = {mode: sum(by_case.values()) / len(cases) if cases else None for mode, by_case in found.items()}
    return {
        **summarize([reference, candidate], {}, comparison),
        "recall": {"k": k, "cases": len(cases), **recall},
        "exit_status": comparison.exit_status,
    }


def judge_suites(
    suites: str,
    target: str,
    directory: Path,
    *,
    progress: Progress,
    notes: Callable[[Sequence[str]], None],
    cases: Path | None = None,
    k: int = PASSAGES,
    collections: Sequence[str] = (),
    ecosystem: str | None = None,
    backend: str | None = None,
    **generation: Any,
) -> dict[str, Any]:
    """Open an index and a target, and judge the retrieval; see ``judge_retrieval``.

    Args:
        cases: replaces the suite's own.
        generation: ``max_tokens``, ``temperature`` and ``seed``; None is the suite's own.

    Raises:
        UserError: see ``find_suites``, ``prepare_suites``, ``Index.open``, ``open_target`` and ``judge_retrieval``.
    """
    if ecosystem is not None or collections:
        raise UserError("--ecosystem and --collection are for one question; suites are judged on the whole index")
    evaluations = prepare_suites(find_suites(suites), cases, generation)
    with (
        closing(Index.open(directory, readonly=True)) as index,
        closing(open_target(target, backend or "auto")) as opened,
    ):
        check_reads_context(opened)
        notes(opened.notes)
        return judge_retrieval(opened, index, evaluations, k, progress=progress)


def recall_line(found: dict[str, Any]) -> str:
    """Return the line on recall below the tables of a judgement."""
    recall = found["recall"]
    if not recall["cases"]:
        return 'recall was not measured: no case names its documents ({"metadata": {"documents": [...]}})'
    rates = ", ".join(f"{mode} {100 * recall[mode]:.1f} %" for mode in MODES)
    return f"recall@{recall['k']} on {recall['cases']} cases: {rates}"
