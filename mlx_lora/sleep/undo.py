"""Changes of what is live by hand: rollback and promotion, followed by the alias in Ollama."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..runs.generations import Generations
from .config import ExportConfig
from .record import read_cycles


def roll_back(generations: Generations, reason: str, to: int | None) -> tuple[int | None, list[str]]:
    """Make an earlier generation live, and return its number, ``None`` for the base, with notes for the user.

    Raises:
        UserError: see ``Generations.rollback``.
    """
    number = generations.rollback(reason, to)
    return number, follow(generations)


def promote(generations: Generations, number: int, reason: str) -> list[str]:
    """Make a generation live, or confirm it where it is on trial, and return notes for the user.

    Raises:
        UserError: see ``Generations.promote``.
    """
    generations.promote(number, reason)
    if generations.trial == number:
        generations.confirm(reason)
    return follow(generations)


def follow(generations: Generations) -> list[str]:
    """Point the alias in Ollama at what is live, where the nights export there; return what is wrong with it."""
    try:
        export = _export_of(generations)
        if export is not None and export.ollama is not None:
            # Exports load models, and whoever only undoes, as a server does, is not kept waiting for those libraries.
            from .publish import point_alias

            point_alias(generations, generations.live, export)
    except UserError as error:
        return [str(error)]
    return []


def _export_of(generations: Generations) -> ExportConfig | None:
    """Return the export settings of the last night."""
    cycles = read_cycles(generations.directory)
    content: Any = cycles[-1].content["config"].get("export") if cycles else None
    return ExportConfig(**content) if isinstance(content, dict) else None
