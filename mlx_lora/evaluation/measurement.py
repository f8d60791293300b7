"""Measurement of one target of a comparison: its answers, reruns and held-out losses, then its memory is released."""

from __future__ import annotations

import gc
import hashlib
import math
import random
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..errors import UserError
from .answers import ask
from .cases import Case
from .heldout import HeldoutPart, RowLosses, heldout_losses
from .runner import Evaluation, run_suite
from .scorers.base import Score
from .scoring import score_replies
from .suite import Generation
from .targets.opening import ModelTarget, open_target
from .targets.remote import AnswersTarget
from .targets.target import Target

RERUN = "rerun{}_{}.jsonl"
HELDOUT = "heldout_{}.json"
PROBE = "probe_{}.jsonl"
# Answers between two looks at the collapse stop, which needs some 9 to 15 of a model that has collapsed.
GROUP = 16
# Reruns have seeds of their own, and another order of the cases: other company in each batch.
SEED_STEP = 1_000_003

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
# Given a suite's name and its scores so far; True ends the asking of this suite and the further ones.
Stop = Callable[[str, Sequence[Score]], bool]
# Given a probe's name and the replies so far; True ends the asking of it, of the further ones and of the suites.
ProbeStop = Callable[[str, Sequence[Reply]], bool]


@dataclass
class Probe:
    """Cases that are asked outside any suite, such as held-out rows; the caller judges the answers."""

    name: str
    cases: list[Case]
    generation: Generation


@dataclass
class Measurement:
    """Reports of one target by suite, and its held-out losses by part.

    Attributes:
        reruns: further runs of the same cases: suite → case id → passed.
        replies: to the cases of each probe, in their order; a probe that was not asked is absent.
    """

    name: str
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    losses: dict[str, RowLosses] = field(default_factory=dict)
    reruns: list[dict[str, dict[str, bool]]] = field(default_factory=list)
    performance: dict[str, float | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """True if a held-out loss is not finite."""
        return not all(math.isfinite(loss) for part in self.losses.values() for loss in part.losses)


@dataclass
class Session:
    """Cases and rows that every target of a comparison is asked.

    Attributes:
        length: ``max_seq_length`` and ``train_on_prompt`` of the held-out rows.
        out: directory that keeps the answers, or None.
        probes: asked before the suites, of the targets that are measured with ``probe``.
    """

    evaluations: list[Evaluation]
    parts: list[HeldoutPart]
    length: tuple[int, bool]
    out: Path | None
    backend: str
    progress: Progress
    notes: Callable[[Sequence[str]], None]
    probes: list[Probe] = field(default_factory=list)

    def measure(
        self,
        name: str,
        *,
        reruns: int = 0,
        heldout: bool = True,
        stop: Stop = lambda suite, scores: False,
        probe: ProbeStop | None = None,
    ) -> Measurement:
        """Load a target, ask it everything, and release it.

        Args:
            reruns: further runs of the same cases.
            heldout: measure the held-out losses too.
            probe: ask the probes as well, unless a held-out loss is not finite: then nothing at all is asked.

        Raises:
            UserError: the target cannot be opened, or answers no case of a suite; see ``run_suite``.
        """
        target = open_target(name, self.backend)
        try:
            return self._measure(target, reruns, heldout, stop, probe)
        finally:
            # The next target needs the memory.
            target.close()
            del target
            gc.collect()

    def _measure(self, target: Target, reruns: int, heldout: bool, stop: Stop, probe: ProbeStop | None) -> Measurement:
        target.group = min(target.group, GROUP)
        folder = self._folder(target.name)
        found = Measurement(target.name, warnings=list(target.warnings))
        self.notes(target.notes)
        if isinstance(target, ModelTarget):
            found.losses = {part.name: self._losses(target, part, folder) for part in self.parts if heldout}
        if probe is not None and found.broken:
            return found
        if probe is not None and self._probe(target, folder, probe, found.replies):
            return found
        stopped = False
        for evaluation in self.evaluations:
            if not stopped:
                report, stopped = self._ask(evaluation, target, folder, stop)
                found.reports[evaluation.suite.name] = report
        # Answers that exist already are the same in every run.
        count = 0 if isinstance(target, AnswersTarget) else reruns
        found.reruns = [
            {e.suite.name: self._ask_again(e, target, folder, number) for e in self.evaluations}
            for number in range(1, count + 1)
        ]
        found.performance = target.performance()
        return found

    def _ask(
        self, evaluation: Evaluation, target: Target, folder: Path | None, stop: Stop
    ) -> tuple[dict[str, Any], bool]:
        suite, stopped = evaluation.suite.name, False

        def watch(scores: Sequence[Score]) -> bool:
            nonlocal stopped
            stopped = stop(suite, scores)
            return stopped

        with self.progress(f"{suite}: {target.name}", len(evaluation.cases)) as advance:
            report = run_suite(evaluation, target, out=folder, advance=advance, stop=watch)
        if all(result["answer"] is None for result in report["results"]):
            said = report["results"][0]["error"]
            raise UserError(f"{target.name}: none of the cases of {suite} was answered ({said}); nothing is compared")
        return report, stopped

    def _probe(self, target: Target, folder: Path | None, stop: ProbeStop, into: dict[str, list[Reply]]) -> bool:
        """Ask the probes, and return True if they were stopped."""
        for probe in self.probes:
            stopped = False

            def watch(replies: list[Reply], name: str = probe.name) -> bool:
                nonlocal stopped
                stopped = stop(name, replies)
                return stopped

            saved = None if folder is None else folder / PROBE.format(_file_name(probe.name))
            with self.progress(f"{probe.name}: {target.name}", len(probe.cases)) as advance:
                into[probe.name] = ask(target, probe.cases, probe.generation, saved, advance, watch)
            if stopped:
                return True
        return False

    def _ask_again(self, evaluation: Evaluation, target: Target, folder: Path | None, number: int) -> dict[str, bool]:
        """Ask the cases in another order with other seeds, and return the passed ones by id."""
        suite, cases = evaluation.suite, list(evaluation.cases)
        random.Random(number).shuffle(cases)
        settings = replace(suite.generation, seed=(suite.generation.seed + SEED_STEP * number) % 2**63)
        saved = None if folder is None else folder / RERUN.format(number, suite.name)
        with self.progress(f"{suite.name}: {target.name}, run {number + 1}", len(cases)) as advance:
            replies = ask(target, cases, settings, saved, advance)
        scores = score_replies(evaluation.scorers, cases, replies)
        return {case.id: score.passed for case, score in zip(cases, scores, strict=True)}

    def _losses(self, target: ModelTarget, part: HeldoutPart, folder: Path | None) -> RowLosses:
        saved = None if folder is None else folder / HELDOUT.format(_file_name(part.name))
        with self.progress(f"held-out loss, {part.name}: {target.name}", len(part.examples)) as advance:
            return heldout_losses(target.backend, target.identity, part, self.length, saved, advance)

    def _folder(self, name: str) -> Path | None:
        if self.out is None:
            return None
        folder = self.out / _file_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _file_name(name: str) -> str:
    """Return a file name for what a user named: readable, and one for each name."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-40:]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
