"""Run results: the outcome of each run from a results file, since an accepted step does not mean a solved task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.import_report import ImportReport
from ...data.jsonl import read_objects
from ...errors import UserError
from .artifact import Artifact, Malformed
from .json_store import read_json
from .predicates import Predicate
from .store import ArtifactStore

STATUS_KEYS = ("workflow_status", "status", "outcome")
Row = Mapping[str, Any]


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
