"""Authorship of artifacts: from amendments or a user's mapping, since the original does not record it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from .artifact import SOURCE_NAMES, Artifact, Malformed
from .json_store import json_files, read_json, shown

if TYPE_CHECKING:
    from .store import ArtifactStore


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
                raise Malformed("an amendment that is not an object")
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
