"""Dataset of traces: artifact stores → a dataset directory and its import report."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...data.dataset import Example
from ...data.dataset_card import DatasetCard, write_card
from ...data.import_report import ImportReport, NothingLeft
from ...data.split import split_by_key, unless_held_out
from ...files import check_absent
from .artifact import Artifact
from .predicates import (
    Predicate,
    all_successes,
    by_action_pair,
    by_outcome,
    check_results,
    named_policy,
    read_results,
)
from .prompt_format import training_example
from .provenance import read_sources
from .selection import link_notes, nothing_found, select, specification_notes, without_task
from .store import ArtifactStore, read_stores

# (prompt tokens, answer tokens) of an example, by the base model's tokenizer.
Lengths = Callable[[Example], tuple[int, int]]
# Minimum number of prompt tokens that training keeps: the beginning and the end.
KEPT_PROMPT = 2
NO_TASK = "specification is empty, and there is no history, constraint or dependency to tell the task by"


def as_example(artifact: Artifact, context: bool = True) -> Example:
    """Convert an artifact to a line of a dataset: prompt and content as chat messages, its origin as meta.

    ``task`` in meta is a digest of the specification: examples that share it belong to one task.
    """
    example = training_example(artifact, context)
    store = artifact.store.name if artifact.store is not None else None
    task = hashlib.sha256(artifact.context.specification.encode()).hexdigest()[:16]
    meta = {**example["metadata"], "created_at": artifact.created_at, "store": store, "task": task}
    return Example(example["messages"], meta=meta)


def make_dataset(
    out: str | Path,
    stores: Sequence[str | Path],
    *,
    policy: str = "refinement",
    min_retries: int = 3,
    days: float = 30,
    action_pairs: Sequence[str] = (),
    results: str | Path | None = None,
    outcome: str = "success",
    sources: str | Path | None = None,
    amendments: str | Path | None = None,
    context: bool = True,
    every_accepted: bool = False,
    lengths: Lengths | None = None,
    base: str | None = None,
    max_seq_length: int = 4096,
) -> DatasetCard:
    """Write a new dataset directory and return its card.

    Args:
        policy: one of :data:`~mlx_lora.sources.traces.POLICIES`; ``min_retries`` and ``days`` are options of two.
        action_pairs: only these steps, where given.
        results: file of the runs' outcomes; only artifacts of runs that ended with ``outcome``.
        sources, amendments: JSON file with the author of each artifact, or the directory of the amendments.
        context, every_accepted: see :func:`~mlx_lora.sources.traces.extract_training_data`.
        lengths: counts an example's tokens; an answer longer than ``max_seq_length`` is left out and reported.
        base: the model whose tokenizer counts them, in place of ``lengths``.

    Raises:
        UserError: the directory exists, a store or file cannot be used, or the policy selects nothing.
    """
    check_absent(out)
    if base is not None:
        lengths = token_lengths(base)
    mapping = read_sources(sources) if sources is not None else None
    read = read_stores(stores, sources=mapping, amendments=amendments)
    also = _also(read, action_pairs, results, outcome)
    options: dict[str, Any] = {"min_retries": min_retries, "days": days}
    report = ImportReport("traces")
    filter = named_policy(policy, **options) & also if also else named_policy(policy, **options)
    chosen = select(read, filter, every_accepted=every_accepted, report=report)
    if not chosen:
        raise NothingLeft(nothing_found(read, policy, also, every_accepted, **options), report)
    chosen = _with_task(chosen, context, report)
    report.notes += [*link_notes(read, chosen), *specification_notes(chosen)]
    examples = [as_example(artifact, context) for artifact in chosen]
    if lengths is not None:
        examples = _fitting(examples, lengths, max_seq_length, report)
    splits = _split(examples, report)
    details = {
        "stores": [store.name for store in read],
        "policy": policy,
        "context": context,
        "every_accepted": every_accepted,
    }
    return write_card(out, splits, report, _counts(read, examples), details)


def make_traces_dataset(
    out: str | Path, stores: Sequence[str | Path], **options: Any
) -> tuple[dict[str, Any], ImportReport]:
    """Write a dataset as :func:`make_dataset` does, and return the content of its card and the import report."""
    card = make_dataset(out, stores, **options)
    return card.to_dict(), card.report


def token_lengths(base: str) -> Lengths:
    """Return a function from an example to the token counts of its prompt and answer, as training counts them.

    Raises:
        UserError: there is no such model, or its tokenizer cannot be loaded.
    """
    # At import, transformers would print that without torch only tokenizers are available.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from ...data.tokenize import encode_example
    from ...models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base)

    def lengths(example: Example) -> tuple[int, int]:
        encoded = encode_example(tokenizer, example, max_seq_length=10**9)
        prompt = int(encoded.supervised.argmax())
        return prompt, len(encoded) - prompt

    return lengths


def _also(
    stores: Sequence[ArtifactStore], action_pairs: Sequence[str], results: str | Path | None, outcome: str
) -> Predicate | None:
    also: Predicate | None = by_action_pair(*action_pairs) if action_pairs else None
    if results is not None:
        rows = read_results(results)
        check_results(rows, stores, results)
        also = (also or all_successes) & by_outcome(rows, outcome)
    return also


def _with_task(chosen: Sequence[Artifact], context: bool, report: ImportReport) -> list[Artifact]:
    """Leave out artifacts with an empty prompt: they would be trained on as the answer to anything."""
    kept = []
    for artifact in chosen:
        if without_task(artifact, context):
            name = artifact.store.name if artifact.store is not None else ""
            report.leave_out(NO_TASK, f"{artifact.artifact_id} in {name}")
        else:
            kept.append(artifact)
    if not kept:
        raise NothingLeft(
            f"none of the {len(chosen)} chosen artifacts has a task (their {NO_TASK}); correct the store, or choose "
            "another --policy",
            report,
        )
    return kept


def _fitting(examples: Sequence[Example], lengths: Lengths, max_seq_length: int, report: ImportReport) -> list[Example]:
    """Return the examples whose answer fits; prompts stay whole here, since training truncates them."""
    kept, cut = [], 0
    for example in examples:
        prompt, answer = lengths(example)
        if answer + KEPT_PROMPT > max_seq_length:
            reason = f"the answer alone does not fit {max_seq_length} tokens"
            report.leave_out(reason, f"{example.meta['item_id']} in {example.meta['store']}: {answer} tokens")
        else:
            kept.append(example)
            cut += prompt + answer > max_seq_length
    if not kept:
        raise NothingLeft(
            f"none of the {len(examples)} chosen answers fits {max_seq_length} tokens; raise --max-seq-length", report
        )
    if cut:
        report.notes.append(
            f"{cut} of {len(kept)} examples exceed {max_seq_length} tokens: training cuts the middle of their prompts."
        )
    return kept


def _split(examples: Sequence[Example], report: ImportReport) -> dict[str, list[Example]]:
    """Split by specification: steps of one task share most of their prompts, so that they stay in one split."""
    splits = split_by_key(examples, lambda example: example.meta["task"])
    # With one or two tasks, all may be held out; a dataset without a train split is useless.
    note = "So few specifications that all would be held out: every example is in train."
    return unless_held_out(splits, examples, report, note)


def _counts(stores: Sequence[ArtifactStore], examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "artifacts": sum(len(store) for store in stores),
        "statuses": dict(sorted(Counter(a.status for store in stores for a in store).items())),
        "action_pairs": dict(sorted(Counter(e.meta["action_pair_id"] for e in examples).items())),
        "distinct_prompts": len({e.messages[0]["content"] for e in examples}),
        "distinct_specifications": len({e.meta["task"] for e in examples}),
    }
