"""Artifact store on disk, read-only: ``objects/`` is authoritative, the index is only compared with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...data.import_report import ImportReport, NothingLeft
from ...errors import UserError
from .artifact import SOURCE_NAMES, Artifact, Malformed, json_files, parse_artifact, read_json, shown
from .provenance import Ancestry, amended_artifacts, ancestries

# Maximum depth below a given directory at which stores are searched.
DEPTH = 4


@dataclass
class ArtifactStore:
    """Artifacts of one store directory.

    Attributes:
        path: the directory.
        artifacts: by id, oldest first (created, id).
        left_out: (reason, file) of each object that is not an artifact.
        differences: kind of difference from the index -> the ids concerned.
        tells_sources: True if the author of each artifact is known: from its files, amendments, or a mapping.
    """

    path: Path
    artifacts: dict[str, Artifact]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    differences: dict[str, list[str]] = field(default_factory=dict)
    tells_sources: bool = False

    def __iter__(self) -> Any:
        return iter(self.artifacts.values())

    def __len__(self) -> int:
        return len(self.artifacts)

    @property
    def name(self) -> str:
        """Path as text."""
        return shown(self.path)

    def get(self, artifact_id: str | None) -> Artifact | None:
        """Return the artifact of an id, or ``None`` where the link dangles."""
        return self.artifacts.get(artifact_id) if artifact_id is not None else None

    def dangling(self) -> list[str]:
        """Return the artifacts that name a predecessor which is not in the store."""
        return [a.artifact_id for a in self if a.previous_attempt_id and not self.get(a.previous_attempt_id)]

    def cyclic(self) -> list[str]:
        """Return the artifacts that are their own predecessor, at any distance."""
        return sorted(identity for identity, ancestry in self.ancestries.items() if ancestry.cyclic)

    @cached_property
    def ancestries(self) -> dict[str, Ancestry]:
        """Ancestry of each artifact, by id."""
        return ancestries(self.artifacts)


def sparse_reward(artifact: Artifact) -> int:
    """Return +1 if accepted, −1 if rejected, 0 otherwise."""
    return artifact.reward


def _read_objects(directory: Path) -> tuple[dict[str, Artifact], list[tuple[str, str]]]:
    found: list[Artifact] = []
    left_out = []
    taken: set[str] = set()
    for path in json_files(directory):
        try:
            artifact = parse_artifact(read_json(path))
            if artifact.artifact_id in taken:
                raise Malformed("another file of the store holds the same artifact_id")
        except Malformed as error:
            left_out.append((str(error), shown(path)))
        else:
            taken.add(artifact.artifact_id)
            found.append(artifact)
    found.sort(key=lambda a: (a.created, a.artifact_id))
    return {a.artifact_id: a for a in found}, left_out


def _index_differences(path: Path, artifacts: Mapping[str, Artifact]) -> dict[str, list[str]]:
    """Return the differences between the index and ``objects/``."""
    index_path = path / "index.json"
    if not os.path.lexists(index_path):
        return {"there is no index.json": [shown(index_path)]}
    try:
        index = read_json(index_path)
    except Malformed as error:
        return {f"index.json is of no use ({error})": [shown(index_path)]}
    entries = index.get("artifacts") if isinstance(index, dict) else None
    if not isinstance(entries, dict):
        return {"index.json has no object of artifacts": [shown(index_path)]}
    twice = [
        identity
        for group in ("action_pairs", "workflows")
        for identity, count in Counter(_listed(index.get(group))).items()
        if count > 1
    ]

    def status(identity: str) -> Any:
        entry = entries[identity]
        return entry.get("status") if isinstance(entry, dict) else None

    differences = {
        "the index names an object that is not there": [i for i in entries if i not in artifacts],
        "an object is not in the index": [i for i in artifacts if i not in entries],
        "the index lists an id twice": sorted(set(twice)),
        "the index gives another status": [
            i for i in entries if i in artifacts and status(i) not in (None, artifacts[i].status)
        ],
    }
    return {kind: ids for kind, ids in differences.items() if ids}


def _listed(group: Any) -> Iterable[str]:
    lists = group.values() if isinstance(group, dict) else ()
    return (identity for ids in lists if isinstance(ids, list) for identity in ids if isinstance(identity, str))


def _assign_sources(store: ArtifactStore, sources: Mapping[str, str] | None, amendments: Path | None) -> None:
    """Set each artifact's source: mapping over its own file over amendments, else the original's default."""
    folder = amendments if amendments is not None else store.path / "amendments"
    amended: set[str] = set()
    if os.path.isdir(folder):
        amended, refused = amended_artifacts(folder, store)
        store.left_out += refused
    written = any(a.source for a in store)
    store.tells_sources = bool(sources) or os.path.isdir(folder) or written
    for artifact in store if store.tells_sources else ():
        human = "human" if artifact.artifact_id in amended else "generated"
        artifact.source = (sources or {}).get(artifact.artifact_id) or artifact.source or human


def read_store(
    path: str | Path, *, sources: Mapping[str, str] | None = None, amendments: str | Path | None = None
) -> ArtifactStore:
    """Read one store directory; files that are not artifacts are named in ``left_out`` and raise no error.

    Args:
        sources: artifact id -> generated, human or imported, where the user knows.
        amendments: directory of the amendments; by default ``amendments/`` in the store, if there.

    Raises:
        UserError: there is no such store, it holds no artifact at all, or ``sources`` has an unknown name.
    """
    path = Path(path)
    if not os.path.isdir(path / "objects"):
        raise UserError(f"{path}: this is not an artifact store: it has no directory objects/; give the store's own")
    if amendments is not None and not os.path.isdir(amendments):
        raise UserError(f"{amendments}: there is no such directory of amendments; check the path")
    unknown = sorted({str(name) for name in (sources or {}).values()} - set(SOURCE_NAMES))
    if unknown:
        raise UserError(f"the source {unknown[0]!r} is unknown; use one of {', '.join(SOURCE_NAMES)}")
    artifacts, left_out = _read_objects(path / "objects")
    if not artifacts:
        why = f"; the first of {len(left_out)} files, {left_out[0][1]}: {left_out[0][0]}" if left_out else ""
        said = f"{path}: there is no artifact in objects/{why}; check that this is the store you mean"
        raise NothingLeft(said, _report_of(left_out))
    store = ArtifactStore(path, artifacts, left_out, _index_differences(path, artifacts))
    for artifact in store:
        artifact.store = store
    named = {identity: SOURCE_NAMES[name] for identity, name in (sources or {}).items()}
    _assign_sources(store, named, Path(amendments) if amendments is not None else None)
    return store


def _report_of(left_out: Sequence[tuple[str, str]]) -> ImportReport:
    report = ImportReport("traces", read=len(left_out))
    for reason, name in left_out:
        report.leave_out(reason, name)
    return report


def find_stores(path: str | Path) -> list[Path]:
    """Return the store directories at or below a path, by name; symbolic links below it are not followed.

    Raises:
        UserError: there is no such directory, or no store in it.
    """
    root = Path(path)
    if not os.path.isdir(root):
        raise UserError(f"{root}: there is no such directory; give the directory of an artifact store")
    found = []
    for folder, folders, _ in os.walk(root, followlinks=False):
        if "objects" in folders or os.path.isdir(os.path.join(folder, "objects")):
            found.append(Path(folder))
            folders.clear()
        elif len(Path(folder).relative_to(root).parts) >= DEPTH:
            folders.clear()
        folders.sort()
    if not found:
        raise UserError(f"{root}: there is no artifact store here, no directory with objects/ in it; check the path")
    return found


def read_stores(
    paths: Sequence[str | Path], *, sources: Mapping[str, str] | None = None, amendments: str | Path | None = None
) -> list[ArtifactStore]:
    """Read all stores at or below the given directories; one without artifacts is an error where all are.

    Raises:
        UserError: as in :func:`read_store`.
    """
    directories = list(dict.fromkeys(found for path in paths for found in find_stores(path)))
    found: list[ArtifactStore] = []
    empty: list[NothingLeft] = []
    for directory in directories:
        try:
            found.append(read_store(directory, sources=sources, amendments=amendments))
        except NothingLeft as error:
            # A store that an agent has just begun must not hide the others; its unusable files are named with theirs.
            empty.append(error)
            left_out = [(reason, name) for reason, names in error.report.left_out.items() for name in names]
            found.append(ArtifactStore(directory, {}, left_out))
    if empty and len(empty) == len(directories):
        raise NothingLeft(str(empty[0]), _report_of([pair for store in found for pair in store.left_out]))
    return found
