"""Provenance chains of attempts by ``previous_attempt_id``; links may dangle or be cyclic, each is followed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .artifact import Artifact


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
