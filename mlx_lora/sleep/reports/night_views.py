"""Values of the templates of a night's page: words and rounded numbers, never markup of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...evaluation.views.answer_diff import word_diff
from ...reporting.numbers import duration, rounded
from ..night_record import FRACTIONS, Night, local_time, number_of, share_of_change

# Rows of a list before it is folded.
FIRST = 20
GOOD, BAD = {"better", "not_worse", "passed", "pass"}, {"worse", "failed", "fail"}
Content = Mapping[str, Any]


def badge_of(verdict: Any) -> tuple[str, str]:
    """Return the kind of badge of a verdict, and its words."""
    kind = "good" if verdict in GOOD else "bad" if verdict in BAD else ""
    return kind, str(verdict if verdict is not None else "–").replace("_", " ")


def cards(night: Night) -> list[tuple[str, str, str]]:
    """Return (label, value, note) of the key figures; a figure of a step that did not run is left out."""
    gathered, curated, replayed, trained = map(night.result, ("gather", "curate", "replay", "train"))
    found: list[tuple[str, str, str]] = []
    if "new" in gathered:
        found.append(("new", f"{gathered['new']:,}", f"of {gathered.get('total', 0):,} in the stores"))
    if "train" in curated:
        found.append(("to train on", f"{curated['train']:,}", f"and {curated.get('held_out', 0):,} held out"))
    if indexed := night.result("index"):
        found.append(("indexed", f"{indexed.get('indexed') or 0:,}", "instead of learned"))
    if replayed:
        nights = replayed.get("nights") or {}
        found.append(("replayed", f"{sum(nights.values()):,}", f"of {_count_of(len(nights), 'earlier night')}"))
    if "loss" in trained:
        found.append(("training loss", rounded(trained.get("loss")), f"{trained.get('steps') or 0:,} steps"))
        if trained.get("validation_loss") is not None:
            note = f"best, at step {trained['best_step']:,}" if trained.get("best_step") is not None else ""
            found.append(("validation loss", rounded(trained["validation_loss"]), note))
    if total := sum(step.get("seconds") or 0 for step in night.steps):
        found.append(("time", duration(total), _count_of(len(night.steps), "step")))
    return found


def warnings(night: Night) -> list[str]:
    """Return what a person should look at: guards, stores and exports that failed, a throttled job, step errors."""
    guards = night.result("guards")
    found = [
        f"{guard.get('name')}: {guard.get('said')}" for guard in guards.get("guards") or [] if not guard.get("ok", True)
    ]
    found += [guards["throttled"]] if guards.get("throttled") else []
    found += [store["failed"] for store in night.result("gather").get("stores") or [] if store.get("failed")]
    found += _texts(night.content.get("notes"))
    for step in night.steps:
        name = str(step.get("step"))
        result = night.result(name)
        failed = result.get("failed") if name in ("export", "mark_trained") else None
        if said := step.get("error") or result.get("error") or failed:
            found.append(f"{name}: {said}")
    return found


def stores_of(night: Night) -> list[dict[str, Any]]:
    """Return a row for each store that was read."""
    return [
        {
            "name": store.get("store") or "",
            "kind": store.get("kind") or "",
            "paths": [str(path) for path in store.get("paths") or []],
            "read": _count(store.get("read")),
            "usable": _count(store.get("usable")),
            "notes": _texts(store.get("notes")),
            "failed": store.get("failed") or "",
        }
        for store in night.result("gather").get("stores") or []
    ]


def notes_of(night: Night) -> Sequence[str]:
    """Return the notes of curating."""
    return _texts(night.result("curate").get("notes"))


def training_of(night: Night) -> list[tuple[str, str]]:
    """Return (label, value) of the training's figures."""
    trained = night.result("train")
    shown = {
        "steps": rounded(trained.get("steps")),
        "best step": rounded(trained.get("best_step")),
        "loss": rounded(trained.get("loss")),
        "validation loss": rounded(trained.get("validation_loss")),
        "supervised tokens": rounded(trained.get("tokens")),
        "time": duration(trained["seconds"]) if trained.get("seconds") is not None else "–",
        "ended early": _text(trained.get("stopped")),
        "run": _text(trained.get("run")),
    }
    return [(label, value) for label, value in shown.items() if value and value != "–"] if trained else []


def replay_of(night: Night) -> dict[str, Any] | None:
    """Return the replay by night, ``None`` if there was none."""
    replayed = night.result("replay")
    nights = replayed.get("nights") or {}
    if not nights:
        return None
    parts = (
        ("own", "answered by the live adapter itself, which passed the check"),
        ("stored", "as stored"),
        ("gold", "of them whatever it answers"),
    )
    return {
        "nights": [(number_of(name), f"{count:,}") for name, count in sorted(nights.items())],
        "kinds": [f"{replayed[key]:,} {said}" for key, said in parts if replayed.get(key) is not None],
        "own_loss": rounded(replayed.get("own_loss"), 2),
    }


def answers_of(candidate: Content) -> list[dict[str, Any]]:
    """Return pairs of answers with the words that differ marked; those that changed first."""
    found = []
    for answer in candidate.get("answers") or []:
        before, after = (_text(answer.get(key)) for key in ("before", "after"))
        sides = None if before == after else list(zip(("before", "after"), word_diff(before, after), strict=True))
        found.append(
            {
                "prompt": _text(answer.get("prompt")),
                "expected": _text(answer.get("expected")),
                "sides": sides,
                "both": after,
                "matches": _text(answer.get("expected")).strip() == after.strip(),
            }
        )
    return sorted(found, key=lambda answer: answer["sides"] is None)


def candidates_of(night: Night) -> list[dict[str, Any]]:
    """Return the numbers of the decision: each candidate with its checks."""
    chosen = night.result("judge").get("chosen")
    found = []
    for candidate in night.candidates:
        alpha = candidate.get("alpha")
        found.append(
            {
                "name": share_of_change(alpha),
                "chosen": chosen is not None and alpha == chosen,
                "badge": badge_of(candidate.get("verdict")),
                "passed": bool(candidate.get("passed")),
                "reasons": _texts(candidate.get("reasons")),
                "checks": [_check(check) for check in candidate.get("checks") or []],
            }
        )
    return found


def _check(check: Content) -> dict[str, Any]:
    name = str(check.get("name") or "")
    return {
        "name": f"night {number_of(name)}" if name.isdigit() else name,
        "kind": check.get("kind") or "",
        "badge": badge_of(check.get("verdict")),
        "candidate": rounded(check.get("candidate")),
        "reference": rounded(check.get("reference")),
        "said": check.get("said") or "",
    }


def left_out_of(night: Night, key: str = "left_out") -> list[dict[str, Any]]:
    """Return the rows that were left out (or ``changed``) with the reason, of gathering and of curating."""
    return _named_rows([group for step in ("gather", "curate") for group in night.result(step).get(key) or []])


def indexed_of(night: Night) -> list[dict[str, Any]]:
    """Return the rows that were indexed instead of learned with the reason."""
    return _named_rows(night.result("index").get("rows") or [])


def _named_rows(groups: Sequence[Content]) -> list[dict[str, Any]]:
    return [
        {
            "store": group.get("store") or "",
            "reason": group.get("reason") or "",
            "count": len(rows),
            "first": rows[:FIRST],
            "rest": rows[FIRST:],
        }
        for group in groups
        if (rows := [str(row) for row in group.get("rows") or []])
    ]


def steps_of(night: Night) -> list[dict[str, Any]]:
    """Return a row for each step: its time and its result in a few words."""
    found = []
    cut = "the night ended here" if night.content.get("ended") else "did not end"
    for step in night.steps:
        seconds, result = step.get("seconds"), step.get("result")
        done = bool(step.get("ended"))
        found.append(
            {
                "step": step.get("step") or "",
                "started": local_time(step.get("started"), "%H:%M:%S"),
                "seconds": duration(seconds) if seconds is not None else "",
                "said": _said(step.get("step"), result if isinstance(result, dict) else {}) if done else cut,
            }
        )
    return found


def guards_of(night: Night) -> list[Content]:
    """Return the guards as they were recorded."""
    return [
        {"name": guard.get("name") or "", "ok": bool(guard.get("ok", True)), "said": guard.get("said") or ""}
        for guard in night.result("guards").get("guards") or []
    ]


def export_of(night: Night) -> list[tuple[str, str]]:
    """Return (label, value) of the export."""
    return [(key, _text(value)) for key, value in night.result("export").items() if not isinstance(value, (dict, list))]


def _said(step: Any, result: Content) -> str:
    """Return the result of a step that ended, in a few words."""
    if said := result.get("error") or result.get("failed"):
        return f"failed: {said}"
    if step == "guards":
        failed = [str(guard.get("name")) for guard in result.get("guards") or [] if not guard.get("ok", True)]
        return f"{', '.join(failed)} failed" if failed else "all passed"
    if step == "gather":
        return f"{result.get('new') or 0:,} new of {result.get('total') or 0:,}"
    if step == "curate":
        return f"{result.get('train') or 0:,} to train on, {result.get('held_out') or 0:,} held out"
    if step == "index":
        return f"{result.get('indexed') or 0:,} indexed, {result.get('buffered') or 0:,} in the daily buffer"
    if step == "mark_trained":
        return f"{result.get('moved') or 0:,} in the history, as batch {result.get('batch')}"
    if step == "replay":
        nights = result.get("nights") or {}
        return f"{sum(nights.values()):,} of {_count_of(len(nights), 'earlier night')}"
    if step == "train":
        early = f", ended early: {result['stopped']}" if result.get("stopped") else ""
        return f"{result.get('steps') or 0:,} steps{early}"
    if step == "judge":
        chosen = result.get("chosen")
        tried = f"{len(result.get('candidates') or [])} tried"
        return f"none passed, {tried}" if chosen is None else f"{FRACTIONS.get(chosen, 'the whole')} change passed"
    if step == "promote":
        return f"generation {result.get('generation')}"
    return str(result.get("said") or result.get("alias") or "")


def _count_of(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _texts(value: Any) -> Sequence[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)] if value else []
