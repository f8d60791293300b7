"""Selection of training artifacts from stores; every one that is left out is counted and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ...data.import_report import NAMED, ImportReport
from ...errors import UserError
from .artifact import Artifact
from .predicates import POLICIES, all_successes, as_predicate, named_policy, refinement, retry_count
from .prompt_format import dependencies_of, training_example
from .provenance import require_sources
from .store import ArtifactStore, read_stores

Filter = Callable[[Artifact], bool]
Stores = ArtifactStore | str | Path | Sequence[ArtifactStore | str | Path]

ORDERS: dict[str, Callable[[Artifact], Any]] = {
    "created_at": lambda a: a.created,
    "retry_count": retry_count,
    "action_pair_id": lambda a: a.action_pair_id,
    "workflow_id": lambda a: a.workflow_id or "",
    "item_id": lambda a: a.artifact_id,
}


def as_stores(stores: Stores) -> list[ArtifactStore]:
    """Return one store or several, read or by path, as a list of read ones."""
    several: Sequence[Any] = [stores] if isinstance(stores, (ArtifactStore, str, Path)) else stores
    found: list[ArtifactStore] = []
    for store in several:
        found += [store] if isinstance(store, ArtifactStore) else read_stores([store])
    return found


def _group(artifact: Artifact) -> tuple[str, str, str]:
    """Return the group that needs one accepted artifact: a step of a run; without runs, of a specification."""
    place = artifact.store.name if artifact.store is not None else ""
    return place, artifact.workflow_id or artifact.context.specification, artifact.action_pair_id


def overtaken(artifacts: Iterable[Artifact]) -> set[tuple[str, str]]:
    """Return (store, id) of the accepted artifacts after which another of the same run and step was accepted."""
    last: dict[tuple[str, str, str], Artifact] = {}
    accepted = [a for a in artifacts if a.status == "accepted"]
    for artifact in sorted(accepted, key=lambda a: (a.created, a.artifact_id)):
        last[_group(artifact)] = artifact
    return {(_group(a)[0], a.artifact_id) for a in accepted if last[_group(a)] is not a}


def select(
    stores: Sequence[ArtifactStore],
    filter: Filter = refinement,
    order_by: str = "created_at",
    every_accepted: bool = False,
    report: ImportReport | None = None,
) -> list[Artifact]:
    """Return the selected artifacts in order; ``report`` receives the counts and each artifact that was left out.

    Raises:
        UserError: the filter needs sources that a store does not know, or an unknown order.
    """
    if order_by not in ORDERS:
        raise UserError(f"order_by {order_by!r} is unknown; use one of {', '.join(ORDERS)}")
    predicate = as_predicate(filter)
    if predicate.asks_source:
        require_sources(stores)
    report = report if report is not None else ImportReport("traces")
    everything = [artifact for store in stores for artifact in store]
    report.read += len(everything) + sum(len(store.left_out) for store in stores)
    for store in stores:
        for reason, name in store.left_out:
            report.leave_out(reason, name)
    late = set() if every_accepted else overtaken(everything)
    chosen: list[Artifact] = []
    seen: set[tuple[str, str | None, str]] = set()
    for artifact in everything:
        identity = (artifact.artifact_id, artifact.workflow_id, artifact.content)
        against = _reason_against(artifact, predicate, (_group(artifact)[0], artifact.artifact_id) in late)
        if against is None and identity in seen:
            against = "the same artifact is in another store too"
        if against is None:
            seen.add(identity)
            chosen.append(artifact)
        else:
            report.leave_out(against, f"{artifact.artifact_id} in {_group(artifact)[0]}")
    return sorted(chosen, key=lambda a: (ORDERS[order_by](a), a.artifact_id))


def _reason_against(artifact: Artifact, predicate: Filter, late: bool) -> str | None:
    if not predicate(artifact):
        if artifact.status != "accepted":
            return f"its status is {artifact.status}"
        return f"accepted, but not chosen by {getattr(predicate, 'name', 'the filter')}"
    if late:
        return "overtaken: a later artifact of the same run and step was accepted"
    if artifact.is_generator_error:
        return "its content is a generator's error, not an answer"
    if not artifact.content.strip():
        return "its content is empty"
    return None


def extract_training_data(
    store: Stores,
    filter: Filter = refinement,
    order_by: str = "created_at",
    *,
    context: bool = True,
    every_accepted: bool = False,
) -> list[dict[str, Any]]:
    """Return ``{"prompt", "completion", "messages", "metadata"}`` of each artifact that the filter selects, in order.

    Args:
        store: a store, a directory at or below which stores lie, or several of these.
        filter: a predicate of artifacts.
        order_by: created_at, retry_count, action_pair_id, workflow_id or item_id.
        context: put the step, the constraints and the dependencies into the prompt.
        every_accepted: also those that a later accepted artifact of the same run and step supersedes.

    Raises:
        UserError: no store there, an unknown order, or a filter by source for a store that does not know it.
    """
    chosen = select(as_stores(store), filter, order_by, every_accepted)
    return [training_example(artifact, context) for artifact in chosen]


def nothing_found(
    stores: Sequence[ArtifactStore],
    policy: str,
    also: Filter | None = None,
    every_accepted: bool = False,
    **options: Any,
) -> str:
    """Return the error for a policy that selected nothing: the counts, and the matches of the other policies.

    Args:
        also: further filter; the other policies are tried with it.
        options: of :func:`~mlx_lora.sources.traces.named_policy`.
    """
    statuses = Counter(artifact.status for store in stores for artifact in store)
    where = ", ".join(store.name for store in stores[:2]) + f" and {len(stores) - 2} more" * (len(stores) > 2)
    start = (
        f"{where}: of {statuses.total()} artifacts, {statuses['accepted']} accepted, the policy {policy} chooses none"
    )
    helpful = []
    for name in POLICIES:
        asked = named_policy(name, **options) & (also or all_successes)
        if name != policy and not (asked.asks_source and not all(store.tells_sources for store in stores)):
            count = len(select(stores, asked, every_accepted=every_accepted))
            helpful += [f"{name} would find {count}"] * (count > 0)
    if helpful:
        return f"{start}; choose another --policy: {', '.join(helpful)}"
    if also is not None:
        return f"{start} with what else was asked for, and neither would another; ask for less"
    return f"{start}, and neither would another; let the agent run until a guard accepts something"


def without_task(artifact: Artifact, context: bool = True) -> bool:
    """Return True if the prompt is empty: no specification, and no other content in its place."""
    told = artifact.context
    more = context and (told.constraints.strip() or dependencies_of(artifact) or told.escalation_feedback)
    return not (told.specification.strip() or told.feedback_history or more)


def specification_notes(chosen: Sequence[Artifact]) -> list[str]:
    """Return notes on the examples whose specification is empty, for the report."""
    empty = [artifact.artifact_id for artifact in chosen if not artifact.context.specification.strip()]
    if not empty:
        return []
    more = f" and {len(empty) - NAMED} more" * (len(empty) > NAMED)
    return [
        f"{len(empty)} of {len(chosen)} examples have an empty specification; they are kept, since their prompts hold "
        f"history, constraints or dependencies ({', '.join(empty[:NAMED])}{more})."
    ]


def link_notes(stores: Iterable[ArtifactStore], chosen: Iterable[Artifact]) -> list[str]:
    """Return notes on the index and on dangling or cyclic links, for the report."""
    notes = []
    for store in stores:
        kinds = dict(store.differences)
        kinds["the link to the earlier attempt leads nowhere"] = store.dangling()
        kinds["the links to earlier attempts form a circle"] = store.cyclic()
        for kind, ids in kinds.items():
            if ids:
                more = f" and {len(ids) - 3} more" * (len(ids) > 3)
                notes.append(f"{store.name}: {kind} ({len(ids)}: {', '.join(ids[:3])}{more}).")
    missing = sum(len(a.context.dependencies) - len(dependencies_of(a)) for a in chosen)
    if missing:
        notes.append(f"{missing} dependencies are not in their store, so the prompts go without their contents.")
    return notes
