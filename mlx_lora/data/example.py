"""The one dataset format: a directory of JSONL files whose lines are conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import new_directory, sha256_of, write_atomic, write_json
from .report import ImportReport

SPLITS = ("train", "valid", "test")
ROLES = ("system", "user", "assistant", "tool")
NO_VALIDATION = (
    "There are no validation rows: training on this has no validation loss to stop early or keep the best step by."
)
CARD = "card.json"
# Weights are float32 in a batch, and their sums must be finite.
MOST_WEIGHT = 1e6


@dataclass
class Span:
    """A part of an answer whose tokens' loss is multiplied by ``weight``.

    Attributes:
        message: index into the example's messages.
        start, end: characters of that message's content, the end excluded.
    """

    message: int
    start: int
    end: int
    weight: float


@dataclass
class Example:
    """A conversation to learn from.

    Attributes:
        weight: multiplies the example's loss.
        meta: carried along untouched.
        spans: parts of the answers that count more or less than the rest.
        tools: JSON schemas of the functions the model may call (OpenAI's ``tools``), given to the chat template.
        template_kwargs: further variables of the chat template (``chat_template_kwargs`` in a row).

    A message may carry ``weight``: a number that its tokens' loss is multiplied by; 0 makes an answer context only.
    """

    messages: list[dict[str, Any]]
    weight: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the dataset's line; optional keys are written only where they hold something."""
        row = asdict(self)
        row["chat_template_kwargs"] = row.pop("template_kwargs")
        return {k: v for k, v in row.items() if v or k not in ("spans", "tools", "chat_template_kwargs")}


def read_jsonl(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(where, value) of each non-empty line, ``where`` naming file and line.

    Raises:
        UserError: the file cannot be read, or a line is not JSON.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path}, line {number}"
                    try:
                        yield where, json.loads(line)
                    except (ValueError, RecursionError) as error:
                        reason = getattr(error, "msg", "a number or a nesting without end")
                        raise UserError(f"{where}: this is not JSON ({reason}); correct or remove the line") from error
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: this file cannot be read as UTF-8 text ({error})") from error


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number that a float can hold, and finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may hold half of a surrogate pair, which cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def parse_example(where: str, row: Any) -> Example:
    """Check one line of a dataset.

    Raises:
        UserError: no messages, an unknown role, an empty answer, or a weight that is no number ≥ 0.
    """
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError(f'{where}: a dataset line is {{"messages": [...]}} with at least one message')
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise UserError(f"{where}: the role {role!r} is unknown; use one of {', '.join(ROLES)}")
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and role == "assistant" and message.get("tool_calls")):
            raise UserError(f"{where}: the {role} message has no text in content")
        if role == "assistant" and not (content or "").strip() and not message.get("tool_calls"):
            raise UserError(f"{where}: the assistant's answer is empty; fill it in or remove the line")
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(
            f"{where}: there is no assistant message, so there is nothing to learn; add one or remove the line"
        )
    weight, meta = row.get("weight", 1.0), row.get("meta", {})
    if not is_number(weight) or not 0 <= weight <= MOST_WEIGHT:
        raise UserError(f"{where}: the weight {repr(weight)[:40]} must be a number from 0 to {MOST_WEIGHT:g}")
    if not is_text(json.dumps(messages, ensure_ascii=False)):
        raise UserError(f"{where}: a message holds half of a character (a lone surrogate); correct or remove the line")
    if not isinstance(meta, dict):
        raise UserError(f"{where}: meta must be an object, not {meta!r}")
    return Example(messages, float(weight), meta, parse_spans(where, row.get("spans", []), messages))


def parse_spans(where: str, rows: Any, messages: list[dict[str, Any]]) -> list[Span]:
    """A line's spans.

    Raises:
        UserError: one is not within an assistant's message, or its weight is not above 0 and at most 10⁶.
    """
    try:
        spans = [Span(**row) for row in rows]
        for span in spans:
            message = messages[span.message]
            inside = span.message >= 0 and 0 <= span.start < span.end <= len(message["content"])
            if message["role"] != "assistant" or not inside or not is_number(span.weight):
                raise ValueError
            if not 0 < span.weight <= MOST_WEIGHT:
                raise ValueError
    except (TypeError, ValueError, IndexError):
        raise UserError(
            f'{where}: a span is {{"message", "start", "end", "weight"}} within an assistant message, its weight '
            "above 0; correct or remove it"
        ) from None
    return spans


def read_examples(path: str | Path) -> list[Example]:
    """All examples of one JSONL file; :func:`parse_example` says what is refused."""
    return [parse_example(where, row) for where, row in read_jsonl(path)]


def read_split(directory: str | Path, split: str) -> list[Example]:
    """The examples of one split of a dataset directory; an absent valid or test split is empty.

    Raises:
        UserError: no such directory, no train.jsonl, an empty train split, or a bad line.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such dataset directory; make one with `mlx-lora data`")
    path = directory / f"{split}.jsonl"
    if split != "train" and not path.exists():
        return []
    examples = read_examples(path)
    if split == "train" and not examples:
        raise UserError(f"{path}: the file is empty, so there is nothing to train on")
    return examples


def read_trainable(directory: str | Path) -> list[Example]:
    """The examples of the train split whose weight is above 0.

    Raises:
        UserError: there is none; or see :func:`read_split`.
    """
    examples = [example for example in read_split(directory, "train") if example.weight > 0]
    if not examples:
        file = Path(directory) / "train.jsonl"
        raise UserError(f"{file}: every example has the weight 0, so there is nothing to train on")
    return examples


def dataset_hashes(directory: str | Path) -> dict[str, str]:
    """sha256 of each split's file."""
    paths = {split: Path(directory) / f"{split}.jsonl" for split in SPLITS}
    return {split: sha256_of(path) for split, path in paths.items() if path.exists()}


def write_dataset(
    out: str | Path,
    splits: Mapping[str, Sequence[Example]],
    card: Mapping[str, Any],
    report: ImportReport | None = None,
) -> dict[str, Any]:
    """Write a new dataset directory with a ``card.json`` that says what is in it; returns the card.

    Args:
        report: what came in and what was left out; written beside the data as ``report.json`` and ``report.md``.

    Raises:
        UserError: the directory exists, or cannot be written; nothing is left half-written.
    """
    if report is not None and not splits.get("valid"):
        report.notes.append(NO_VALIDATION)
    with new_directory(out) as directory:
        for split in SPLITS:
            with open(directory / f"{split}.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(e.to_dict(), ensure_ascii=False) + "\n" for e in splits.get(split, ()))
        full = {
            **card,
            "splits": {split: len(splits.get(split, ())) for split in SPLITS},
            "sha256": dataset_hashes(directory),
        }
        write_json(directory / CARD, full)
        if report is not None:
            write_json(directory / "report.json", report.to_dict(every=True))
            write_atomic(directory / "report.md", report.to_markdown())
    return full
