"""Smoke tests of a deployed model: knowledge, history, a tool call, and the times and rates that its server counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.reply import Reply
from ..errors import UserError, shortened
from ..evaluation.cases import Case, with_system
from ..evaluation.scorers.tool_call import tool_call
from ..evaluation.suite import Generation
from ..evaluation.targets.opening import open_target
from ..evaluation.targets.remote import AnswersTarget
from ..evaluation.targets.target import Messages, Target
from .answering import citations, with_context
from .ecosystems import find_ecosystem
from .tool_prompts import build_tool_prompt

if TYPE_CHECKING:
    from .index import Index

HISTORY = "pdca_historical"
# What the published system promises, in seconds: first token, retrieval and first token, the whole call.
LIMITS = {"knowledge": 0.2, "history": 0.8, "tool": 3.0}
WARM_UP = "Answer with one word: ready."


@dataclass(frozen=True)
class SmokePrompts:
    """Prompts of the tests.

    Attributes:
        expect: words that the answer to ``knowledge`` has, in any case.
    """

    knowledge: str = "Why is the constructor of a Web4 class empty, and which method sets the object up instead?"
    expect: tuple[str, ...] = ("constructor", "init")
    history: str = "What was achieved in an earlier PDCA? Cite it."
    tool: str = "Read the Button.tsx file"
    ecosystem: str = "continue"


@dataclass
class SmokeTest:
    """Result of one test.

    Attributes:
        status: passed, failed or not_run.
        reason: why it failed or was not run; "" if it passed.
        seconds: the measured time; ``limit_s`` is what it must stay below. ``measured`` names its extent.
    """

    name: str
    status: str
    reason: str
    measured: str
    seconds: float | None
    limit_s: float
    answer: str | None = None


@dataclass
class SmokeReport:
    """Results of all tests of one target, and what its server counts.

    Attributes:
        load_s: seconds until the model was in memory; None where the server does not tell, or had it loaded.
        tokens_per_s: mean over the answers; ``counted_by`` is ``server``, ``client`` (of a server that does
            not tell), or ``process`` (a model that is loaded here).
    """

    target: str
    tests: list[SmokeTest]
    load_s: float | None
    tokens_per_s: float | None
    counted_by: str | None
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if nothing that was run has failed."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of `smoke --json`."""
        return {**asdict(self), "passed": self.passed}


@dataclass
class _Asked:
    """Reply with the times that belong to it, in seconds."""

    reply: Reply
    first_token_s: float | None
    seconds: float


class _Session:
    """Asks a target one conversation after another and keeps the replies."""

    def __init__(self, target: Target, generation: Generation) -> None:
        self.target, self.generation, self.replies = target, generation, list[Reply]()

    def ask(self, messages: Messages, max_tokens: int | None = None) -> _Asked:
        """Ask a conversation.

        Raises:
            UserError: the target cannot be reached, or refuses.
        """
        settings = Generation(max_tokens or self.generation.max_tokens, 0.0, self.generation.seed)
        started = time.monotonic()
        (reply,) = self.target.answer([with_system(messages, self.target.system_prompt)], [""], settings)
        seconds = time.monotonic() - started
        if reply.text is None:
            raise UserError(f"{self.target.name}: {reply.error}")
        first = reply.first_token_s
        if first is None:
            # A model in this process measures it for the last prompt, on request.
            first = self.target.performance()["first_token_s"]
        self.replies.append(reply)
        return _Asked(reply, first, seconds)


def smoke_target(
    name: str,
    directory: Path | None,
    *,
    advance: Callable[[int], None],
    notes: Callable[[Sequence[str]], None],
    warn: Callable[[Sequence[str]], None],
    limits: Sequence[str] = (),
    max_load: float | None = None,
    min_rate: float | None = None,
    max_tokens: int = 256,
    timeout: float | None = None,
    backend: str | None = None,
    expect: Sequence[str] = (),
    **prompts: str | None,
) -> SmokeReport:
    """Open a target, and an index if there is one, and run the smoke tests.

    Args:
        limits: ``TEST=SECONDS``.
        prompts: of ``SmokePrompts``; None is the published one.

    Raises:
        UserError: a malformed limit, no such ecosystem, or see ``open_target``, ``Index.open`` and ``run_smoke``.
    """
    most = dict(map(_parse_limit, limits))
    given = {key: value for key, value in prompts.items() if value is not None}
    asked = SmokePrompts(**given, **({"expect": tuple(expect)} if expect else {}))  # type: ignore[arg-type]
    find_ecosystem(asked.ecosystem)
    with ExitStack() as stack:
        index = None
        if directory is not None:
            from .index import Index

            index = stack.enter_context(closing(Index.open(directory, readonly=True)))
        target = stack.enter_context(closing(open_target(name, backend or "auto", timeout)))
        warn(target.warnings)
        notes(target.notes)
        return run_smoke(
            target,
            index,
            prompts=asked,
            generation=Generation(max_tokens),
            limits=most,
            max_load_s=max_load,
            min_tokens_per_s=min_rate,
            advance=advance,
        )


def _parse_limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if name not in LIMITS or not 0 < seconds < 1e6:
        raise UserError(f"--limit {shortened(text)}: write TEST=SECONDS, with a test of {', '.join(LIMITS)}")
    return name, seconds


def run_smoke(
    target: Target,
    index: Index | None = None,
    *,
    prompts: SmokePrompts | None = None,
    generation: Generation | None = None,
    limits: dict[str, float] | None = None,
    max_load_s: float | None = None,
    min_tokens_per_s: float | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> SmokeReport:
    """Run the smoke tests of a target; the first request, which may load the model, is not measured.

    Args:
        index: the history's; without one that test is not run.
        limits: seconds by test, in place of ``LIMITS``.
        max_load_s, min_tokens_per_s: fail beyond them; a figure that the server does not tell fails as well.

    Raises:
        UserError: the target does not answer, or is a file of answers.
    """
    if isinstance(target, AnswersTarget):
        raise UserError(f"{target.name}: a file of answers is no deployed model; name a run, a model or a server")
    asked, most = prompts or SmokePrompts(), {**LIMITS, **(limits or {})}
    session = _Session(target, generation or Generation())
    session.ask([{"role": "user", "content": WARM_UP}], max_tokens=4)
    tests = []
    for name, run in (("knowledge", _knowledge), ("history", _history), ("tool", _tool)):
        tests.append(run(session, index, asked, most[name]))
        advance(len(tests))
    report = SmokeReport(target.name, tests, target.performance()["load_s"], *_rate(target, session.replies[1:]))
    report.failures = [f"{test.name}: {test.reason}" for test in tests if test.status == "failed"]
    report.failures += list(_beyond(report, max_load_s, min_tokens_per_s))
    return report


def _knowledge(session: _Session, index: Index | None, prompts: SmokePrompts, limit: float) -> SmokeTest:
    found = session.ask([{"role": "user", "content": prompts.knowledge}])
    text = found.reply.text or ""
    missing = [word for word in prompts.expect if word.casefold() not in text.casefold()]
    fault = f"the answer lacks {', '.join(map(shortened, missing))}" if missing else ""
    return _judged("knowledge", fault, "time to first token", found.first_token_s, limit, text)


def _history(session: _Session, index: Index | None, prompts: SmokePrompts, limit: float) -> SmokeTest:
    measured = "retrieval and time to first token"
    if index is None:
        return SmokeTest("history", "not_run", "it needs an index; give it with --index DIR", measured, None, limit)
    started = time.monotonic()
    messages, hits = with_context(index, [{"role": "user", "content": prompts.history}], collections=[HISTORY])
    retrieval = time.monotonic() - started
    if not hits:
        return SmokeTest("history", "failed", f"the index has nothing in {HISTORY}", measured, None, limit)
    found = session.ask(messages)
    text = found.reply.text or ""
    cited, invented = citations(text, hits)
    fault = "" if cited else "the answer cites no PDCA"
    if invented:
        fault = f"the answer cites {shortened(invented)}, which no source has"
    first = found.first_token_s
    return _judged("history", fault, measured, None if first is None else retrieval + first, limit, text)


def _tool(session: _Session, index: Index | None, prompts: SmokePrompts, limit: float) -> SmokeTest:
    started = time.monotonic()
    prompt = build_tool_prompt(index, prompts.tool, prompts.ecosystem)
    retrieval = time.monotonic() - started
    found = session.ask([{"role": "user", "content": f"{prompt.text}\n\n{prompts.tool}"}])
    text = found.reply.text or ""
    score = tool_call({"name": "read_file"}, "smoke", None, Path())(Case("tool", []), text)
    return _judged("tool", score.reason, "retrieval and whole answer", retrieval + found.seconds, limit, text)


def _judged(name: str, fault: str, measured: str, seconds: float | None, limit: float, text: str) -> SmokeTest:
    if not fault and seconds is None:
        fault = f"{measured}: the server does not tell it"
    elif not fault and seconds is not None and seconds >= limit:
        fault = f"{measured}: {seconds:.3f} s, and less than {limit:g} s is asked for"
    return SmokeTest(name, "failed" if fault else "passed", fault, measured, seconds, limit, text)


def _rate(target: Target, replies: Sequence[Reply]) -> tuple[float | None, str | None]:
    """Return the mean of the tokens a second, and who counted them."""
    rates = [reply.tokens_per_second for reply in replies if reply.tokens_per_second is not None]
    if rates:
        by_client = any(reply.timed_by_client for reply in replies if reply.tokens_per_second is not None)
        return sum(rates) / len(rates), "client" if by_client else "server"
    own = target.performance()["tokens_per_s"]
    return own, None if own is None else "process"


def _beyond(report: SmokeReport, max_load_s: float | None, min_tokens_per_s: float | None) -> list[str]:
    said = []
    if max_load_s is not None and (report.load_s is None or report.load_s > max_load_s):
        what = "the server does not tell it" if report.load_s is None else f"{report.load_s:.1f} s"
        said.append(f"load time: {what}, and at most {max_load_s:g} s is asked for")
    if min_tokens_per_s is not None and (report.tokens_per_s is None or report.tokens_per_s < min_tokens_per_s):
        what = "not measured" if report.tokens_per_s is None else f"{report.tokens_per_s:.1f}"
        said.append(f"tokens a second: {what}, and at least {min_tokens_per_s:g} is asked for")
    return said
