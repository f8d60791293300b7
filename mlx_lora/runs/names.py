"""Names of generations: ``NAME@live``, ``NAME@7``; NAME is a path, or the name of a directory in ``adapters/``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..backends.adapter_format import LIVE, has_generations
from ..errors import UserError
from .directory import is_run
from .generations import Generations
from .refs import NAMES

ADAPTERS = Path("adapters")


def find_generations(name: str) -> Generations:
    """Return the generations of the adapter that a name without @ names.

    Raises:
        UserError: it names none.
    """
    directory = adapter_directory(name)
    if directory is None:
        near = Path(name).expanduser()
        said = "this directory holds no generations" if near.is_dir() else "there is no such directory of generations"
        raise UserError(f"{name}: {said}; name one of `sleep run` or `train --increment`, such as adapters/agent")
    return Generations(directory)


def split_name(name: str | Path) -> tuple[Generations, str] | None:
    """Return the generations and the ref or number that a name gives; ``None`` if it is a name of another kind.

    Raises:
        UserError: it names a run that has no generations.
    """
    before, _, which = str(name).rpartition("@")
    if not before or Path(name).expanduser().exists():
        return None
    directory = adapter_directory(before)
    if directory is not None:
        return Generations(directory), which
    meant = which in NAMES or re.fullmatch("[0-9]+", which)
    if meant and any(is_run(place) for place in _places(before)):
        raise UserError(f"{name}: this run has no generations; name it without @{which}")
    return None


def absolute_name(name: str) -> str:
    """Return the name of a run from any working directory."""
    found = split_name(name)
    place = Path(name).expanduser() if found is None else found[0].directory
    return str(place.absolute()) + (f"@{found[1]}" if found else "")


def adapter_files(name: str) -> Path:
    """Return the directory of a run's files: of the generation that its name gives, by default the live one.

    Raises:
        UserError: it has no such generation.
    """
    directory = Path(name).expanduser()
    found = split_name(name) or ((Generations(directory), LIVE) if has_generations(directory) else None)
    return directory if found is None else found[0].resolve(found[1])


def _places(name: str | Path) -> tuple[Path, Path]:
    return Path(name).expanduser(), ADAPTERS / name


def adapter_directory(name: str | Path, holds: Callable[[Path], bool] = has_generations) -> Path | None:
    """Return the directory that a name without @ means, the first that ``holds`` what is looked for; ``None``: none."""
    return next((place for place in _places(name) if holds(place)), None)
