"""Artifacts: their schema, the parser of the five layouts of version "1.0", and the JSON files that hold them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.schema import kind_of
from ...errors import shortened
from ...user_files import UnusableFile, read_bytes

if TYPE_CHECKING:
    from .store import ArtifactStore

STATUSES = ("pending", "rejected", "accepted", "superseded")
SOURCES = ("generated", "human", "imported")
# Aliases of one value in users' files and in the original's documents.
SOURCE_NAMES = {**{source: source for source in SOURCES}, "generator": "generated"}
# An attempt is text that a model wrote or a person pasted; a larger file is something else.
MAX_BYTES = 64 * 2**20


class Malformed(ValueError):
    """Error for a file that is not an artifact; its message is the reason in the import report."""


def shown(path: str | Path) -> str:
    """Return a path as text that can be printed and written, for any bytes in its name."""
    return os.fsencode(path).decode("utf-8", "replace")


def json_files(directory: Path) -> Iterator[Path]:
    """Return every ``*.json`` below a directory, by path; directories behind symbolic links are named, not entered."""
    for folder, folders, files in os.walk(directory, followlinks=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders.sort()
        for name in sorted([*files, *links]):
            if name.endswith(".json") or name in links:
                yield Path(folder, name)


def read_json(path: Path) -> Any:
    """Read the JSON in a file.

    Raises:
        Malformed: the file is unusable; the message is a reason that can be counted.
    """
    try:
        if os.stat(path).st_size > MAX_BYTES:
            raise Malformed(f"larger than {MAX_BYTES // 2**20} MiB")
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Malformed("not UTF-8 text") from None
    except IsADirectoryError:
        raise Malformed("a symbolic link to a directory, which is not followed") from None
    except UnusableFile:
        raise Malformed("not a plain file") from None
    except OSError as error:
        raise Malformed(f"cannot be read ({error.strerror or error})") from None
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            # An escaped unpaired surrogate is legal JSON, but it can be neither encoded as UTF-8 nor tokenized.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("text with half a character (an unpaired surrogate)") from None
    except RecursionError:
        raise Malformed("JSON nested too deeply") from None
    except ValueError:
        raise Malformed("not JSON, or cut off in the middle") from None
    return value


@dataclass
class GuardResult:
    """Verdict of the guard; ``fatal`` is a rejection that no retry can repair."""

    passed: bool
    feedback: str = ""
    fatal: bool = False
    guard_name: str | None = None
    sub_results: list[Any] = field(default_factory=list)


@dataclass
class Feedback:
    """Entry of the feedback history H: the rejected attempt's id and the reason; its text is looked up by id."""

    artifact_id: str | None
    feedback: str


@dataclass
class Context:
    """Context given to the generator.

    Attributes:
        specification: Ψ.
        constraints: Ω.
        feedback_history: H, oldest first.
        dependencies: (action pair, artifact id) of the earlier steps it could see; the pair is ``None`` where the
            layout gives ids only.
        escalation_feedback: feedback from later steps, in the layout that has it.
    """

    specification: str
    constraints: str = ""
    feedback_history: list[Feedback] = field(default_factory=list)
    dependencies: list[tuple[str | None, str]] = field(default_factory=list)
    escalation_feedback: list[str] = field(default_factory=list)


@dataclass
class Artifact:
    """Attempt and its guard's verdict.

    Attributes:
        created_at: as written; ``created`` is the same as an aware time (no zone = UTC), so that all compare.
        attempt_number: as written; it is not the chain's length, so nothing is computed from it.
        source: generated, human or imported; ``None`` where neither the store nor a mapping has it.
        store: the store that holds it, to resolve its links.
    """

    artifact_id: str
    content: str
    action_pair_id: str
    created_at: str
    created: datetime
    status: str
    context: Context
    workflow_id: str | None = None
    previous_attempt_id: str | None = None
    parent_action_pair_id: str | None = None
    attempt_number: int | None = None
    guard_result: GuardResult | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    store: ArtifactStore | None = field(default=None, repr=False, compare=False)

    @property
    def reward(self) -> int:
        """Sparse reward: +1 accepted, −1 rejected, 0 without a verdict or superseded."""
        return {"accepted": 1, "rejected": -1}.get(self.status, 0)

    @property
    def is_generator_error(self) -> bool:
        """True if the content is the generator's error message, not an attempt."""
        # Stores without metadata have only the name of the check that found no usable answer.
        named = self.guard_result is not None and self.guard_result.guard_name == "GeneratorValidation"
        return bool(self.metadata.get("generator_error")) or named


def parse_time(value: Any) -> datetime:
    """Parse ISO-8601 text or a datetime to an aware time in UTC; without a zone it is taken as UTC.

    Raises:
        ValueError: neither, or beyond the calendar once in UTC.
    """
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(_text(value, "the time").strip())
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"{shortened(value)} is beyond the calendar") from error


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{name} is {kind_of(value)} instead of text")
    return value


def _optional_text(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _items(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"{name} is {kind_of(value)} instead of a list")
    return value


def _parse_guard(value: Any, feedback: Any) -> GuardResult | None:
    """Parse ``null``, a bool with the feedback in another field, or the full object."""
    if value is None:
        return None
    if isinstance(value, bool):
        return GuardResult(value, _optional_text(feedback, "feedback") or "")
    if not isinstance(value, dict) or not isinstance(value.get("passed"), bool):
        raise Malformed("guard_result is neither null, true or false, nor an object with passed")
    return GuardResult(
        value["passed"],
        _optional_text(value.get("feedback"), "guard_result.feedback") or "",
        value.get("fatal") is True,
        _optional_text(value.get("guard_name"), "guard_result.guard_name"),
        _items(value.get("sub_results"), "guard_result.sub_results"),
    )


def _parse_history(rows: Any) -> list[Feedback]:
    history = []
    for row in _items(rows, "feedback_history"):
        if not isinstance(row, dict):
            raise Malformed(f"an entry of feedback_history is {kind_of(row)} instead of an object")
        identity = _optional_text(row.get("artifact_id"), "feedback_history.artifact_id")
        history.append(Feedback(identity, _optional_text(row.get("feedback"), "feedback_history.feedback") or ""))
    return history


def _parse_dependencies(context: dict[str, Any]) -> list[tuple[str | None, str]]:
    """Parse a mapping from pair to id, a list of {action_pair_id, artifact_id}, or ``dependency_ids`` (ids only)."""
    value = context.get("dependency_artifacts")
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        for row in _items(value, "dependency_artifacts"):
            if not isinstance(row, dict):
                raise Malformed(f"an entry of dependency_artifacts is {kind_of(row)} instead of an object")
            pairs.append((row.get("action_pair_id"), row.get("artifact_id")))
    pairs += [(None, identity) for identity in _items(context.get("dependency_ids"), "dependency_ids")]
    return [
        (_optional_text(pair, "dependency_artifacts.action_pair_id"), _text(identity, "a dependency's artifact_id"))
        for pair, identity in pairs
    ]


def _escalation(row: Any) -> str:
    feedback = row.get("feedback") if isinstance(row, dict) else row
    return _text(feedback, "an entry of escalation_feedback")


def _parse_context(value: Any) -> Context:
    if not isinstance(value, dict):
        raise Malformed(f"context is {kind_of(value)} instead of an object")
    return Context(
        _text(value.get("specification"), "context.specification"),
        _optional_text(value.get("constraints"), "context.constraints") or "",
        _parse_history(value.get("feedback_history")),
        _parse_dependencies(value),
        [_escalation(row) for row in _items(value.get("escalation_feedback"), "escalation_feedback")],
    )


def parse_artifact(data: Any) -> Artifact:
    """Parse an artifact from a store's JSON in any layout; unused fields may be missing or malformed.

    Raises:
        Malformed: a field that an example needs is missing or of the wrong type.
    """
    if not isinstance(data, dict):
        raise Malformed(f"the file holds {kind_of(data)} instead of an object")
    context = data.get("context")
    status = _text(data.get("status"), "status").lower()
    if status not in STATUSES:
        raise Malformed(f"the status is none of {', '.join(STATUSES)}")
    created_at = _text(data.get("created_at"), "created_at")
    try:
        created = parse_time(created_at)
    except ValueError:
        raise Malformed("created_at is no ISO-8601 time") from None
    workflow = data.get("workflow_id") or (context.get("workflow_id") if isinstance(context, dict) else None)
    attempt, metadata, source = data.get("attempt_number"), data.get("metadata"), data.get("source")
    return Artifact(
        artifact_id=_text(data.get("artifact_id"), "artifact_id"),
        content=_text(data.get("content"), "content"),
        action_pair_id=_text(data.get("action_pair_id"), "action_pair_id"),
        created_at=created_at,
        created=created,
        status=status,
        context=_parse_context(context),
        workflow_id=_optional_text(workflow, "workflow_id"),
        previous_attempt_id=_optional_text(data.get("previous_attempt_id"), "previous_attempt_id"),
        parent_action_pair_id=_optional_text(data.get("parent_action_pair_id"), "parent_action_pair_id"),
        attempt_number=attempt if isinstance(attempt, int) and not isinstance(attempt, bool) else None,
        guard_result=_parse_guard(data.get("guard_result"), data.get("feedback")),
        metadata=metadata if isinstance(metadata, dict) else {},
        source=SOURCE_NAMES.get(source.lower()) if isinstance(source, str) else None,
    )
