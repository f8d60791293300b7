"""Selection predicates of artifacts, composed with ``&``, ``|`` and ``~``; named policies; results of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.import_report import ImportReport
from ...data.jsonl import read_objects
from ...errors import UserError
from .artifact import SOURCE_NAMES, SOURCES, STATUSES, Artifact, Malformed, parse_time, read_json
from .provenance import Ancestry, get_provenance_chain, require_sources

if TYPE_CHECKING:
    from .store import ArtifactStore

# Keys of a run's outcome in a results file.
STATUS_KEYS = ("workflow_status", "status", "outcome")
Row = Mapping[str, Any]


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


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a results file: JSONL, or a JSON list of objects.

    Raises:
        UserError: it cannot be read, or a row has no outcome.
    """
    if Path(path).suffix == ".json":
        try:
            content: Any = read_json(Path(path))
        except Malformed as error:
            raise UserError(f"{path}: the results cannot be used ({error}); give JSONL or a JSON list") from None
        rows = [(f"{path}, entry {i}", row) for i, row in enumerate(content if isinstance(content, list) else [], 1)]
    else:
        report = ImportReport("results")
        rows = list(read_objects(path, report))
        for reason, (name, *_) in report.left_out.items():
            raise UserError(f"{name}: {reason}; correct or remove it")
    for where, row in rows:
        if not isinstance(row, dict) or not isinstance(_status(row), str):
            raise UserError(f"{where}: a result is an object with {STATUS_KEYS[0]}; correct or remove it")
    if not rows:
        raise UserError(f"{path}: there is no result in this file; give the results of the runs in the stores")
    return [row for _, row in rows]


def _status(row: Row) -> Any:
    return next((row[key] for key in STATUS_KEYS if key in row), None)


def _belongs(row: Row, artifact: Artifact) -> bool:
    """Return True for an equal workflow_id; without one, if the store's path has instance_id and arm as directories."""
    if row.get("workflow_id") is not None:
        return row["workflow_id"] == artifact.workflow_id
    names = [row[key] for key in ("instance_id", "arm") if isinstance(row.get(key), str)]
    parts = artifact.store.path.resolve().parts if artifact.store is not None else ()
    return bool(names) and all(name in parts for name in names)


def by_outcome(results: Sequence[Row] | Mapping[str, str], outcome: str = "success") -> Predicate:
    """Select artifacts of runs that ended with ``outcome``; runs that are missing in the results are not selected.

    Args:
        results: rows of :func:`read_results`, or workflow id -> outcome.
    """
    if isinstance(results, Mapping):
        results = [{"workflow_id": identity, "status": status} for identity, status in results.items()]
    known: dict[tuple[str, str | None], bool] = {}

    def test(artifact: Artifact) -> bool:
        key = (artifact.store.name if artifact.store is not None else "", artifact.workflow_id)
        if key not in known:
            known[key] = any(_status(row) == outcome for row in results if _belongs(row, artifact))
        return known[key]

    return Predicate(test, f"outcome {outcome}")


def check_results(rows: Sequence[Row], stores: Iterable[ArtifactStore], source: str | Path) -> None:
    """Raise UserError if the results match none of the stores.

    Raises:
        UserError: no row belongs to any artifact.
    """
    runs = {(store.name, artifact.workflow_id): artifact for store in stores for artifact in store}.values()
    if not any(_belongs(row, artifact) for artifact in runs for row in rows):
        raise UserError(
            f"{source}: no result belongs to these stores; each needs the workflow_id, or an instance_id (and arm) "
            "that are directories in the store's path"
        )
