"""Provenance of artifacts: the attempts before each one, by link, and its author, a person or the generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from .artifact import SOURCE_NAMES, Artifact, Malformed, json_files, read_json, shown

if TYPE_CHECKING:
    from .store import ArtifactStore


@dataclass(frozen=True)
class Ancestry:
    """Predecessors of an artifact, in numbers.

    Attributes:
        attempts: number of others, by link.
        rejected: True if one of them was.
        cyclic: True if the links lead from the artifact back to it.
    """

    attempts: int = 0
    rejected: bool = False
    cyclic: bool = False


def get_provenance_chain(artifact: Artifact) -> list[Artifact]:
    """Return the artifact and its predecessors by ``previous_attempt_id``, oldest first.

    A link that dangles, or comes back to an artifact already seen, ends the chain.
    """
    chain, seen = [artifact], {artifact.artifact_id}
    while artifact.store is not None:
        previous = artifact.store.get(chain[-1].previous_attempt_id)
        if previous is None or previous.artifact_id in seen:
            break
        chain.append(previous)
        seen.add(previous.artifact_id)
    return chain[::-1]


def ancestries(artifacts: Mapping[str, Artifact]) -> dict[str, Ancestry]:
    """Compute the ancestry of every artifact in one pass: linear time, where following each chain is quadratic."""
    known: dict[str, Ancestry] = {}
    for start in artifacts:
        trail: dict[str, int] = {}
        current: str | None = start
        while current is not None and current in artifacts and current not in known and current not in trail:
            trail[current] = len(trail)
            current = artifacts[current].previous_attempt_id
        steps = list(trail)
        if current is not None and current in trail:
            circle = steps[trail[current] :]
            refused = {identity for identity in circle if artifacts[identity].status == "rejected"}
            known.update((i, Ancestry(len(circle) - 1, bool(refused - {i}), cyclic=True)) for i in circle)
            steps = steps[: trail[current]]
        for identity in reversed(steps):
            before = artifacts[identity].previous_attempt_id
            known[identity] = (
                Ancestry(known[before].attempts + 1, known[before].rejected or artifacts[before].status == "rejected")
                if before is not None and before in known
                else Ancestry()
            )
    return known


def amended_artifacts(directory: Path, store: ArtifactStore) -> tuple[set[str], list[tuple[str, str]]]:
    """Return the ids of the artifacts that a person wrote, and (reason, file) of each file that is not an amendment.

    An amendment names the rejected artifact it follows (``parent_artifact_id``), so its own artifact is the next in
    that chain: the one with the same content, where it has content. Feedback from a person is not an artifact.
    """
    children: dict[str, list[Artifact]] = {}
    for artifact in store:
        if artifact.previous_attempt_id:
            children.setdefault(artifact.previous_attempt_id, []).append(artifact)
    human, refused = set(), []
    for path in json_files(directory):
        try:
            amendment = read_json(path)
            if not isinstance(amendment, dict):
                raise Malformed("an amendment that is no object")
        except Malformed as error:
            refused.append((str(error), shown(path)))
            continue
        parent, content = amendment.get("parent_artifact_id"), amendment.get("content")
        if str(amendment.get("amendment_type", "artifact")).lower() != "artifact" or not isinstance(parent, str):
            continue
        human |= {a.artifact_id for a in children.get(parent, ()) if not content or a.content == content}
    return human, refused


def read_sources(path: str | Path) -> dict[str, str]:
    """Read a user's mapping from a JSON file, ``{artifact id: "generated", "human" or "imported"}``.

    Raises:
        UserError: it cannot be read, or is not such a mapping.
    """
    try:
        mapping: Any = read_json(Path(path))
    except Malformed as error:
        raise UserError(f"{path}: the sources cannot be used ({error}); give a JSON object of artifact ids") from None
    names = ", ".join(SOURCE_NAMES)
    if not isinstance(mapping, dict) or any(not isinstance(v, str) or v not in SOURCE_NAMES for v in mapping.values()):
        raise UserError(f'{path}: the sources must be a JSON object {{"artifact id": source}}, each one of {names}')
    return mapping


def require_sources(stores: Iterable[ArtifactStore]) -> None:
    """Raise UserError if a store does not know the sources of its artifacts.

    Raises:
        UserError: names the store, why it does not know, and what to provide.
    """
    for store in stores:
        if not store.tells_sources:
            raise UserError(
                f"{store.name}: whether a person or the generator made an artifact is not written in this store, so "
                "it cannot be chosen by source; give its amendments directory or a file of sources, or use a policy "
                "that does not ask (refinement, all)"
            )
