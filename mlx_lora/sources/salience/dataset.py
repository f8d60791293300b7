"""Dataset of experiences: experience buffers → a dataset directory and its import report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ...data.dataset import Example
from ...data.dataset_card import DatasetCard, write_card
from ...data.import_report import ImportReport, NothingLeft
from ...data.patterns import pattern_limit, pattern_of
from ...data.split import split_by_key, unless_held_out
from ...files import check_absent
from .buffer import union_by_id
from .filters import CHECKS, TRIMMED, Filters, label, without_empty_thoughts, without_faults
from .prompt_format import DEFAULT_SYSTEM_PROMPT
from .schema import DIMENSIONS, Experience
from .scoring import ConversationalSalienceScorer, Match

Weights = Literal["salience", "raw", "equal"]
# Minimum number of examples: fewer made a model worse; a cycle that trained on 5 collapsed.
MIN_EXAMPLES = 50


def make_dataset(
    out: str | Path,
    buffers: Sequence[str | Path],
    *,
    min_salience: float = 0.5,
    max_examples: int | None = None,
    system_prompt: str | None = None,
    filters: Filters | None = None,
    weights: Weights = "salience",
    rescore: Match | None = None,
    held_out: tuple[float, float] = (0.1, 0.1),
) -> DatasetCard:
    """Write a new dataset directory and return its card.

    Args:
        min_salience: total from 0 to 1 that an experience must have.
        max_examples: maximum number of examples; the most salient ones are taken.
        system_prompt: first message of every conversation; :data:`DEFAULT_SYSTEM_PROMPT` if ``None``.
        weights: an example's weight is its salience divided by the mean, its salience as it is ("raw"), or 1.
        rescore: compute the scores again in the order of the buffers; without it, stored scores are kept.
        held_out: shares of valid and test, decided by the prompt.

    Raises:
        UserError: the directory exists, a buffer cannot be used (:func:`read_buffer`), or there would be no example.
    """
    check_absent(out)
    filters = filters or Filters()
    report = ImportReport("salience")
    found = union_by_id(buffers, report)
    everything = _cleaned([experience for _, experience in found.values()], report)
    if rescore:
        _rescore(everything, rescore)
    salient = _salient(everything, min_salience, report)
    examples = [
        _example(experience, system_prompt or DEFAULT_SYSTEM_PROMPT, found[experience["id"]][0])
        for experience in without_faults(salient, everything, filters, report)
    ]
    splits = _split(examples, max_examples, held_out, filters, report)
    kept = [example for split in splits.values() for example in split]
    if not kept:
        raise NothingLeft(_nothing_left(buffers, report), report)
    _weigh(kept, weights)
    for example in kept:
        if "trimmed" in example.meta:
            report.change(TRIMMED, f"{_name(example)} ({example.meta['trimmed']} characters)")
    _note_what_matters(kept, report)
    counts = {"read": report.read, "distinct": len(everything), "salient": len(salient), "examples": len(kept)}
    details = {
        "buffers": [str(path) for path in buffers],
        "average_salience": sum(example.meta["salience"] for example in kept) / len(kept),
        "min_salience": min_salience,
        "max_examples": max_examples,
        "weights": weights,
        "rescored": rescore,
        "checks": [name for name in CHECKS if filters.makes(name)],
        "cut": filters.cut if filters.makes("cut") else "keep",
        "without_lora": filters.without_lora,
    }
    summary = f"{len(kept)} examples from {counts['distinct']} experiences ({counts['read']} rows)"
    return write_card(out, splits, report, counts, details, summary)


def make_salience_dataset(out: str | Path, buffers: Sequence[str | Path], **options: Any) -> dict[str, Any]:
    """Write a dataset as :func:`make_dataset` does, and return the content of its card, and the report in it."""
    card = make_dataset(out, buffers, **options)
    return {**card.to_dict(), "report": card.report.to_dict()}


def _cleaned(experiences: Sequence[Experience], report: ImportReport) -> list[Experience]:
    cleaned = [{**e, "response": without_empty_thoughts(e["response"])} for e in experiences]
    changed = sum(a["response"] != b["response"] for a, b in zip(experiences, cleaned, strict=True))
    if changed:
        report.notes.append(f"{changed} answers began with an empty <think> block, which was taken off.")
    return cleaned


def _rescore(experiences: Sequence[Experience], match: Match) -> None:
    scorer = ConversationalSalienceScorer(match)
    for e in experiences:
        e["salience"] = scorer.score_exchange(e["prompt"], e["response"], tool_calls=_tool_calls(e))


def _tool_calls(experience: Experience) -> list[dict[str, Any]]:
    calls = experience.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _salient(experiences: Sequence[Experience], min_salience: float, report: ImportReport) -> list[Experience]:
    """Sort the salient experiences, the most salient first; equals stay in the buffer's order."""
    salient = []
    for experience in experiences:
        if experience["salience"] is None:
            report.leave_out("no salience (score it with --rescore)", label(experience))
        elif experience["salience"]["total"] < min_salience:
            report.leave_out(f"salience below {min_salience:g}", label(experience))
        else:
            salient.append(experience)
    return sorted(salient, key=lambda experience: -experience["salience"]["total"])


def _example(experience: Experience, system_prompt: str, path: str) -> Example:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": experience["prompt"]},
        {"role": "assistant", "content": experience["response"]},
    ]
    trimmed = experience.get("trimmed")
    if trimmed:
        messages[-1]["open_end"] = True
    scores = experience["salience"]
    meta = {
        "source": "salience",
        "buffer": path,
        "experience_id": experience["id"],
        "salience": scores["total"],
        "salience_breakdown": {name: scores[name] for name in DIMENSIONS if name in scores},
        **{name: experience[name] for name in ("session", "phase", "timestamp")},
        **({"trimmed": trimmed} if trimmed else {}),
    }
    # Metadata belongs to the agent; these three keys give the origin of an answer.
    known = {name: experience["metadata"].get(name) for name in ("machine", "model", "using_lora")}
    meta.update({name: value for name, value in known.items() if isinstance(value, (str, bool))})
    return Example(messages, meta=meta)


def _pattern(example: Example) -> str:
    return pattern_of(example.messages[1]["content"])


def _split(
    examples: list[Example],
    max_examples: int | None,
    held_out: tuple[float, float],
    filters: Filters,
    report: ImportReport,
) -> dict[str, list[Example]]:
    """Split the most salient ``max_examples`` into train, valid and test by prompt, no prompt too often."""
    splits = split_by_key(examples, _pattern, held_out)
    if examples:
        note = "There are too few different prompts to hold some out: all examples are for training."
        splits = unless_held_out(splits, examples, report, note, 0.5)
    splits = _capped(splits, filters, report)
    if max_examples is None or sum(map(len, splits.values())) <= max_examples:
        return splits
    left = {id(example) for split in splits.values() for example in split}
    best = {id(example) for example in [e for e in examples if id(e) in left][:max_examples]}
    for split in splits.values():
        for example in split:
            if id(example) not in best:
                report.leave_out(f"not among the {max_examples} most salient", _name(example))
    # With fewer examples, one prompt may exceed its share again.
    return _capped({name: [e for e in split if id(e) in best] for name, split in splits.items()}, filters, report)


def _name(example: Example) -> str:
    return f"{example.meta['experience_id']}: {example.messages[1]['content'][:80]}"


def _capped(splits: dict[str, list[Example]], filters: Filters, report: ImportReport) -> dict[str, list[Example]]:
    """Limit each prompt to ``pattern_share`` of the training examples, keeping the most salient ones."""
    if not filters.makes("pattern-cap"):
        return splits
    most, reached = pattern_limit(Counter(map(_pattern, splits["train"])), filters.pattern_share)
    if not reached:
        note = (
            f"With so few different prompts, {filters.pattern_share:.0%} of the examples from one prompt cannot be "
            f"reached: at most {most} of each were kept."
        )
        report.notes += [note] * (note not in report.notes)
    capped: dict[str, list[Example]] = {}
    for name, split in splits.items():
        seen: Counter[str] = Counter()
        capped[name] = []
        for example in split:
            pattern = _pattern(example)
            seen[pattern] += 1
            if seen[pattern] <= most:
                capped[name].append(example)
            else:
                report.leave_out(CHECKS["pattern-cap"], _name(example))
    return capped


def _weigh(examples: Sequence[Example], weights: Weights) -> None:
    mean = sum(example.meta["salience"] for example in examples) / len(examples)
    for example in examples:
        if weights == "raw":
            example.weight = example.meta["salience"]
        elif weights == "salience" and mean > 0:
            example.weight = example.meta["salience"] / mean


def _note_what_matters(kept: Sequence[Example], report: ImportReport) -> None:
    by_adapter = sum(example.meta.get("using_lora") is True for example in kept)
    if by_adapter:
        report.notes.append(
            f"{by_adapter} of the {len(kept)} examples were written with an adapter; a model trained on its own "
            "answers drifts. Leave them out with --without-lora."
        )
    if len(kept) < MIN_EXAMPLES:
        report.notes.append(
            f"{len(kept)} examples are few: below {MIN_EXAMPLES}, training has made models worse. Collect more first."
        )


def _nothing_left(buffers: Sequence[str | Path], report: ImportReport) -> str:
    where = ", ".join(map(str, buffers))
    if not report.read:
        return f"{where}: there are no experiences in it; let the agent collect some first"
    reasons = "; ".join(f"{count} {reason}" for reason, count in report.counts.items())
    return (
        f"{where}: all {report.read} experiences were left out ({reasons}); lower --min-salience, or --keep what a "
        "check leaves out"
    )
