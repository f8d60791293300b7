"""Selection predicates of artifacts, composed with ``&``, ``|`` and ``~``, and the named policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ...errors import UserError
from .artifact import SOURCE_NAMES, SOURCES, STATUSES, Artifact, parse_time
from .authorship import require_sources
from .provenance import Ancestry, get_provenance_chain


@dataclass(frozen=True)
class Predicate:
    """Predicate of an artifact.

    Attributes:
        name: display name.
        asks_source: True if the author is needed; a store that does not know it must be rejected before the selection,
            which would be empty without an explanation.
    """

    test: Callable[[Artifact], bool]
    name: str
    asks_source: bool = False

    def __call__(self, artifact: Artifact) -> bool:
        """Return True if the artifact is selected."""
        return bool(self.test(artifact))

    def __and__(self, other: Callable[[Artifact], bool]) -> Predicate:
        second = as_predicate(other)
        return self._with(second, "&", lambda a: self(a) and second(a))

    def __or__(self, other: Callable[[Artifact], bool]) -> Predicate:
        second = as_predicate(other)
        return self._with(second, "|", lambda a: self(a) or second(a))

    def __invert__(self) -> Predicate:
        return Predicate(lambda a: not self(a), f"~{self.name}", self.asks_source)

    def _with(self, other: Predicate, sign: str, test: Callable[[Artifact], bool]) -> Predicate:
        return Predicate(test, f"({self.name} {sign} {other.name})", self.asks_source or other.asks_source)


def as_predicate(test: Callable[[Artifact], bool]) -> Predicate:
    """Wrap any callable as a :class:`Predicate`."""
    return test if isinstance(test, Predicate) else Predicate(test, getattr(test, "__name__", "filter"))


def _plain(value: Any) -> str:
    """Return the text of a name, or of an enum whose value it is."""
    return str(getattr(value, "value", value)).lower()


def by_status(status: Any) -> Predicate:
    """Select artifacts of one status: pending, rejected, accepted or superseded."""
    wanted = _plain(status)
    if wanted not in STATUSES:
        raise UserError(f"the status {wanted!r} is unknown; use one of {', '.join(STATUSES)}")
    return Predicate(lambda a: a.status == wanted, f"status {wanted}")


def by_source(source: Any) -> Predicate:
    """Select artifacts by author: generated (generator), human or imported.

    Raises:
        UserError: an unknown source; when called, an artifact whose store does not know it.
    """
    wanted = SOURCE_NAMES.get(_plain(source))
    if wanted is None:
        raise UserError(f"the source {_plain(source)!r} is unknown; use one of {', '.join(SOURCES)}")

    def test(artifact: Artifact) -> bool:
        if artifact.source is None and artifact.store is not None:
            require_sources([artifact.store])
        return artifact.source == wanted

    return Predicate(test, f"source {wanted}", asks_source=True)


def by_action_pair(*action_pair_ids: str) -> Predicate:
    """Select artifacts of these steps."""
    return Predicate(lambda a: a.action_pair_id in action_pair_ids, f"action pair {', '.join(action_pair_ids)}")


def by_workflow(*workflow_ids: str) -> Predicate:
    """Select artifacts of these runs."""
    return Predicate(lambda a: a.workflow_id in workflow_ids, f"workflow {', '.join(workflow_ids)}")


def created_after(when: datetime | str) -> Predicate:
    """Select artifacts created after a time; without a zone it is taken as UTC, as in the stores.

    Raises:
        UserError: text that is not an ISO-8601 time.
    """
    try:
        limit = parse_time(when)
    except ValueError:
        raise UserError(f"{when!r} is no ISO-8601 time; write it as 2026-02-13T06:50:17+00:00") from None
    return Predicate(lambda a: a.created > limit, f"after {limit.isoformat()}")


def _ancestry(artifact: Artifact) -> Ancestry:
    known = artifact.store.ancestries if artifact.store is not None else {}
    return known.get(artifact.artifact_id, Ancestry())


def has_rejected_ancestor(artifact: Artifact) -> bool:
    """Return True if an attempt before this one, by link, was rejected."""
    return _ancestry(artifact).rejected


def retry_count(artifact: Artifact) -> int:
    """Return the number of known earlier attempts: by link, or named in the feedback history.

    Not ``attempt_number``, which counts other things too; not the links alone, which later layouts stopped setting.
    """
    linked = _ancestry(artifact).attempts
    history = artifact.context.feedback_history
    if not history:
        return linked
    named = {entry.artifact_id for entry in history if entry.artifact_id is not None}
    others = named - {a.artifact_id for a in get_provenance_chain(artifact)}
    return linked + len(others) + sum(entry.artifact_id is None for entry in history)


refinement_by_link = Predicate(lambda a: a.status == "accepted" and has_rejected_ancestor(a), "refinement by link")
refinement = Predicate(
    lambda a: a.status == "accepted" and (bool(a.context.feedback_history) or has_rejected_ancestor(a)), "refinement"
)
all_successes = Predicate(lambda a: a.status == "accepted", "all")
generator_only = refinement & by_source("generated")
human_only = refinement & by_source("human")


def high_value(min_retries: int = 3) -> Predicate:
    """Select refinements after at least ``min_retries`` earlier attempts: the hard ones."""
    return refinement & Predicate(lambda a: retry_count(a) >= min_retries, f"at least {min_retries} retries")


def recent(days: float = 30, now: datetime | None = None) -> Predicate:
    """Select refinements of the last ``days`` before ``now``."""
    try:
        return refinement & created_after((now or datetime.now(UTC)) - timedelta(days=days))
    except OverflowError:
        return refinement


POLICIES = ("refinement", "generator", "human", "high_value", "recent", "all")


def named_policy(name: str, *, min_retries: int = 3, days: float = 30) -> Predicate:
    """Return the predicate of one of :data:`POLICIES`, by its name on the command line.

    Raises:
        UserError: an unknown name.
    """
    policies: Mapping[str, Predicate] = {
        "refinement": refinement,
        "generator": generator_only,
        "human": human_only,
        "high_value": high_value(min_retries),
        "recent": recent(days),
        "all": all_successes,
    }
    if name not in policies:
        raise UserError(f"the policy {name!r} is unknown; use one of {', '.join(POLICIES)}")
    return policies[name]
