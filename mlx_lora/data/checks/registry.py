"""Check registry: all checks by name, run in full for a report or only for errors before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError, nearest
from ..formats import Reader, read_rows
from . import answers, conflicts, control_text, duplicates, leakage, metadata, pii, template
from .base import DataCheck, DataFinding, run_check
from .dataset_table import Table, read_table

PLAN = "it is rows too many or too few: add or remove some, or correct the plan"
CHECKS = (
    DataCheck("malformed", "error", "lines that hold no row", metadata.malformed),
    DataCheck("empty_answer", "error", "answers that are empty", answers.empty),
    DataCheck(
        "unknown_message_keys", "warning", "keys of messages without a known meaning", metadata.unknown_message_keys
    ),
    DataCheck("leaked_rows", "error", "evaluation rows that are trained on", leakage.rows),
    DataCheck("leaked_prompts", "error", "evaluation prompts trained on with another answer", leakage.prompts),
    DataCheck(
        "near_leaks", "warning", "evaluation rows that nearly are training rows", duplicates.near_leaks, slow=True
    ),
    DataCheck("shared_documents", "warning", "documents that training and evaluation share", leakage.documents),
    DataCheck("never_train", "error", "rows marked never_train in training", leakage.never_train),
    DataCheck("is_eval", "error", "rows marked is_eval in training", leakage.is_eval),
    DataCheck("is_negative_example", "error", "negative examples in training", leakage.is_negative_example),
    DataCheck("contradictory_answers", "error", "negatives against positives", conflicts.contradictions),
    DataCheck(
        "negative_equals_positive", "error", "negatives that equal positives", conflicts.negative_equals_positive
    ),
    DataCheck("several_answers", "warning", "one prompt, different answers", conflicts.several_answers),
    DataCheck("one_answer", "warning", "one answer, many prompts", conflicts.one_answer),
    DataCheck("mostly_copies", "error", "more than half of the training rows are copies", duplicates.mostly_copies),
    DataCheck("exact_duplicates", "warning", "rows that are there already", duplicates.exact),
    DataCheck("near_duplicates", "warning", "rows that nearly are there already", duplicates.near, slow=True),
    DataCheck("short_answer", "warning", "answers of fewer than ten characters", answers.short),
    DataCheck("cut_answer", "warning", "answers that seem cut off", answers.truncated),
    DataCheck("secrets", "error", "what looks like keys or passwords", pii.secrets),
    DataCheck("email_addresses", "warning", "e-mail addresses", pii.emails),
    DataCheck("control_like_text", "warning", "text in the form of control tokens", control_text.control_like_text),
    DataCheck("special_token_text", "error", "control tokens as text", control_text.special_token_text, needs="base"),
    DataCheck("duplicate_sample_id", "warning", "sample_ids that are there already", metadata.sample_ids),
    DataCheck("no_validation_rows", "warning", "a dataset that holds nothing out", metadata.no_validation_rows),
    DataCheck(
        "bucket_counts", "error", "buckets that are not as planned", metadata.buckets, needs="plan", unfixable=PLAN
    ),
    DataCheck("template_refuses", "error", "turns the template refuses", template.refused, needs="base", final=True),
    DataCheck(
        *("no_end_of_turn", "error", "answers that teach no end", template.no_end_of_turn),
        needs="base",
        unfixable="the model's chat template ends no turn with a special token: use another base or template",
    ),
    DataCheck(
        "serving_differs", "warning", "training text unlike serving text", template.serving_differs, needs="base"
    ),
    DataCheck("dropped_text", "warning", "texts that the template leaves out", template.dropped_text, needs="base"),
    DataCheck(
        "answer_too_long", "error", "answers that do not fit", template.answer_too_long, needs="base", final=True
    ),
    DataCheck("too_long", "warning", "prompts that lose their middle", template.too_long, needs="base"),
)


def check_table(table: Table) -> list[DataFinding]:
    """Return the findings of all checks, errors first; those that need a plan or a base run where the table has one."""
    given = {"": True, "plan": table.plan is not None, "base": table.tokenizer is not None}
    found = [run_check(check, table) for check in CHECKS if given[check.needs]]
    return sorted((finding for finding in found if finding), key=lambda finding: finding.severity)


def errors_that_stop(
    data: str | Path | Sequence[str | Path],
    tokenizer: Any,
    max_seq_length: int,
    waived: Sequence[str] = (),
    read: Reader = read_rows,
) -> list[DataFinding]:
    """Return the findings that stop training, in seconds: of severity error and not waived.

    Of the checks that need the tokenizer only the first rows of each sequence of roles are checked: training
    encodes every row itself, and refuses the one that cannot be encoded.

    Args:
        data: a dataset directory, or several that are trained on together.
        read: as in :func:`~mlx_lora.data.checks.dataset_table.read_table`.

    Raises:
        UserError: a name is waived that no check has, or the data cannot be read.
    """
    names = [check.name for check in CHECKS]
    for name in waived:
        if name not in names:
            raise UserError(f"waive_checks: there is no check {name!r}; the nearest is {nearest(name, names)!r}")
    table = read_table([data] if isinstance(data, (str, Path)) else data, read)
    table.tokenizer, table.max_seq_length, table.sampled = tokenizer, max_seq_length, True
    errors = [c for c in CHECKS if c.severity == "error" and c.name not in waived]
    wanted = [c for c in errors if c.needs != "plan" and not c.slow and not c.final]
    return [finding for finding in (run_check(check, table) for check in wanted) if finding]


def stop_sentence(findings: Sequence[DataFinding], data: Sequence[str | Path], waived: Sequence[str] = ()) -> str:
    """Return why training on ``data`` stops, and how to fix it."""
    first = findings[0]
    others = f" (and {', '.join(f.check for f in findings[1:])})" if len(findings) > 1 else ""
    names = ", ".join([*waived, *(finding.check for finding in findings)])
    return (
        f"the check {first.check}{others} stops training: {first.means}, {first.count} in all, the first "
        f"{first.examples[0]}; {_advice(findings, data)}, or train on it nevertheless with "
        f"--set 'waive_checks=[{names}]'"
    )


def _advice(findings: Sequence[DataFinding], data: Sequence[str | Path]) -> str:
    """Return the advice for findings: correct the data where a cleaned copy helps, else the check's own advice."""
    more = f"`mlx-lora data check {' '.join(map(str, data))}` says more"
    beyond = [f"--fix does not help with {finding.check}, since {finding.unfixable}" for finding in unfixable(findings)]
    if len(beyond) == len(findings):
        return "; ".join(beyond)
    return "; ".join([f"correct the data ({more}, and --fix writes a cleaned copy)", *beyond])


def unfixable(findings: Sequence[DataFinding]) -> list[DataFinding]:
    """Return the errors that a cleaned copy keeps."""
    return [finding for finding in findings if finding.severity == "error" and finding.unfixable]
