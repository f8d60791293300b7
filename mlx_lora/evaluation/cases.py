"""Evaluation cases: read from case files, dataset rows, Inspect's Samples and trajectory windows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.dataset import Example, parse_example, read_jsonl
from ..data.messages import parse_messages
from ..errors import UserError, shortened

# Keys of a row's meta that name its class, the first that is there.
CLASS_KEYS = ("shape", "task_type", "template", "source")
# The text under `target`, as Inspect's Samples have it, is the reference too.
REFERENCES = ("expect", "target")
# Keys of a case that a dataset row does not have.
CASE_KEYS = {"system", "tags", *REFERENCES}
KEYS = {"id", "prompt", "messages", "input", "system", "tags", "metadata", "meta", "description", *REFERENCES}
# Keys that Inspect adds to each message of a Sample; its ids are new each time, and no model reads them.
INSPECT_MESSAGE_KEYS = {"id", "source", "metadata", "model"}


@dataclass
class Case:
    """Conversation to answer, and what its answer is checked against.

    Attributes:
        id: unique in its suite.
        messages: the conversation; the last message is the user's or a tool's.
        expect: reference as the suite's checks read it: text, a list of texts, or an object.
        tags: the first one is the class of ``balanced``.
    """

    id: str
    messages: list[dict[str, Any]]
    expect: Any = None
    tags: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Class of the case, for means over classes."""
        return self.tags[0] if self.tags else ""


Parser = Callable[[str, int, dict[str, Any]], Case]


def read_cases(path: str | Path, parse: Parser | None = None) -> list[Case]:
    """Read the cases of a JSONL file.

    Args:
        parse: (where, number of the row, row) → case; by default :func:`parse_case`.

    Raises:
        UserError: the file cannot be read, a row is no case, an id is there twice, or there is no case.
    """
    read, places = parse or parse_case, dict[str, str]()
    cases = []
    for number, (where, row) in enumerate(read_jsonl(path), 1):
        if not isinstance(row, dict):
            raise UserError(f"{where}: a case is a JSON object, not {shortened(row)}")
        case = read(where, number, row)
        if case.id in places:
            raise UserError(f"{where}: the id {shortened(case.id)} is that of {places[case.id]} too; give each its own")
        places[case.id] = where
        cases.append(case)
    if not cases:
        raise UserError(f"{path}: the file holds no case; give one JSON object a line")
    return cases


def parse_case(where: str, number: int, row: dict[str, Any]) -> Case:
    """Read a case, Inspect's Sample, or a dataset row, whose last answer is the reference.

    Raises:
        UserError: it has no id, or no conversation to answer.
    """
    if _ends_with_answer(row) and not CASE_KEYS & set(row):
        return case_of_example(where, number, row)
    # Inspect writes every key of a Sample: null where it has no value, and an empty target where there is none.
    row = {key: value for key, value in row.items() if value is not None}
    unknown = sorted(set(row) - KEYS)
    if "choices" in unknown:
        raise UserError(f"{where}: choices are not read; write them into the question, and the right one into target")
    if unknown:
        raise UserError(f"{where}: a case has no key {shortened(unknown[0])}; it has {', '.join(sorted(KEYS))}")
    identity = row.get("id")
    if not isinstance(identity, (str, int)) or isinstance(identity, bool) or identity == "":
        raise UserError(f"{where}: the case has no id; give each case its own, as text")
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UserError(f"{where}: tags must be a list of texts")
    meta = row.get("metadata", row.get("meta", {}))
    if not isinstance(meta, dict):
        raise UserError(f"{where}: metadata must be an object")
    expect = next((row[key] for key in REFERENCES if key in row and (key, row[key]) != ("target", "")), None)
    messages = _conversation(where, row)
    try:
        json.dumps([messages, expect, meta], allow_nan=False)
    except ValueError:
        raise UserError(f"{where}: the case holds a number that is not finite; correct it") from None
    return Case(str(identity), messages, expect, tags or class_of(meta), meta)


def _ends_with_answer(row: dict[str, Any]) -> bool:
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _conversation(where: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    given = [key for key in ("prompt", "messages", "input") if key in row]
    if len(given) != 1:
        raise UserError(f"{where}: a case needs one of prompt, messages and input, and has {len(given)} of them")
    value = row[given[0]]
    if isinstance(value, str) and given[0] != "messages":
        if not value.strip():
            raise UserError(f"{where}: the {given[0]} is empty; write the question, or remove the case")
        messages = [{"role": "user", "content": value}]
    else:
        try:
            messages = parse_messages(value, given[0])[0]
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if given[0] == "input":
        messages = [{k: v for k, v in message.items() if k not in INSPECT_MESSAGE_KEYS} for message in messages]
    if messages[-1]["role"] not in ("user", "tool"):
        raise UserError(f"{where}: the last message must be the user's or a tool's, since the model answers it")
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise UserError(f"{where}: system must be text")
    return with_system(messages, system)


def with_system(messages: list[dict[str, Any]], system: str | None) -> list[dict[str, Any]]:
    """Return a conversation that begins with a system prompt, unless it has one already."""
    if not system or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def case_of_example(where: str, number: int, row: dict[str, Any]) -> Case:
    """Return the case of a dataset row: its last answer is the reference, what is before it the conversation.

    Raises:
        UserError: see ``parse_example``, or nothing is before the answer.
    """
    identity = next((row[key] for key in ("id", "sample_id") if isinstance(row.get(key), (str, int))), None)
    example = parse_example(where, row)
    known = example.meta.get("item_id", example.meta.get("sample_id", identity))
    return example_case(example, str(number if known is None else known), where)


def example_case(example: Example, identity: str, where: str) -> Case:
    """Return the case of an example: its last answer is the reference, what is before it the conversation.

    Raises:
        UserError: it has no answer, or nothing is before the answer; ``where`` begins the sentence.
    """
    last = max((i for i, message in enumerate(example.messages) if message["role"] == "assistant"), default=0)
    if last == 0:
        raise UserError(f"{where}: nothing is before the answer, so there is nothing to ask")
    expect = example.messages[last]["content"]
    return Case(identity, example.messages[:last], expect, class_of(example.meta), example.meta)


def class_of(meta: dict[str, Any]) -> list[str]:
    """Return the class that a row's meta names, in a list, or an empty list."""
    return next(([str(meta[key])] for key in CLASS_KEYS if isinstance(meta.get(key), str)), [])


def with_systems(cases: Sequence[Case], system: str | None) -> list[Case]:
    """Return the cases with a system prompt before each that has none."""
    return [replace(case, messages=with_system(case.messages, system)) for case in cases]
