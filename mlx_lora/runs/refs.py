"""Refs of an adapter's generations: files and links that name the live one and others, replaced by rename."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE, GENERATIONS, LIVE, REFS, read_ref
from ..files import create_file, fsync_path, remove_any, set_aside, temporary_beside, writing
from ..user_files import read_text
from .directory import REPORT_FILE, RUN_FILE, TEMPLATE_FILE

NAMES = ("live", "previous", "best", "trial")
PINNED, MANIFEST = "pinned", "manifest.json"
# The files of a generation that other programs open; the weights last: who finds them finds the rest as well.
FILES = (REPORT_FILE, RUN_FILE, TEMPLATE_FILE, ADAPTER_CONFIG, ADAPTER_FILE)


@dataclass(frozen=True)
class Refs:
    """Numbers of the generations that something names; ``None`` names none."""

    live: int | None = None
    previous: int | None = None
    best: int | None = None
    trial: int | None = None
    pinned: frozenset[int] = frozenset()

    def named(self) -> dict[str, int | None]:
        """Return the refs by name, without those that are pinned."""
        return {name: getattr(self, name) for name in NAMES}

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Refs | None:
        """Return the refs of a line of the history; ``None`` if it has none."""
        refs, pinned = line.get("refs"), line.get("pinned", [])
        if not isinstance(refs, dict) or not isinstance(pinned, list):
            return None
        named = {name: refs.get(name) for name in NAMES}
        if any(type(number) is not int for number in [*pinned, *(n for n in named.values() if n is not None)]):
            return None
        return cls(**named, pinned=frozenset(pinned))

    @classmethod
    def read(cls, directory: Path) -> Refs:
        """Return the refs of a directory; the link is the live one of earlier versions, which had no refs."""
        named = {name: read_ref(directory, name) for name in NAMES}
        if named[LIVE] is None:
            named[LIVE] = linked(directory)
        return cls(**named, pinned=read_pinned(directory))


def linked(directory: Path) -> int | None:
    """Return the generation that the link ``live`` points at, or that it is a copy of."""
    place = directory / LIVE
    with suppress(OSError):
        name = Path(os.readlink(place)).name
        return int(name) if name.isdecimal() else None
    # A copy of the directory that followed the links. The manifest holds the sha256 of every file.
    manifest = _content(place / MANIFEST)
    same = [other for other in directory.glob(f"{GENERATIONS}/[0-9]*/{MANIFEST}") if _content(other) == manifest]
    return max((int(other.parent.name) for other in same if other.parent.name.isdecimal()), default=None)


def read_pinned(directory: Path) -> frozenset[int]:
    """Return the pinned generations."""
    return frozenset(int(word) for word in (_content(directory / REFS / PINNED) or "").split() if word.isdecimal())


@contextmanager
def staged(directory: Path, refs: Refs) -> Iterator[Callable[[], None]]:
    """Write the changed refs and links beside their places; the yielded function renames them all into place.

    What can fail for want of space has then been done, before the history says that anything has changed.

    Raises:
        UserError: the file system refuses.
    """
    changes: list[tuple[Path | None, Path]] = []
    try:
        with writing(directory):
            (directory / REFS).mkdir(parents=True, exist_ok=True)
        # In this order. Links through `live` that are new dangle until there is one, so that all appear at once; a
        # file that is in a link's way, of a copied directory or an earlier version, is replaced when there is.
        links = _file_links(directory, refs.live)
        new = {place for place in links if not os.path.lexists(place)}
        live = {directory / LIVE: None if refs.live is None else f"{GENERATIONS}/{refs.live:04d}"}
        _stage_links(changes, {place: links[place] for place in links if place in new})
        _stage_files(changes, _texts(directory, refs))
        _stage_links(changes, live)
        _stage_links(changes, {place: links[place] for place in links if place not in new})
        yield lambda: _apply(changes)
    finally:
        for temporary, _ in changes:
            if temporary is not None:
                remove_any(temporary)


def _texts(directory: Path, refs: Refs) -> dict[Path, str | None]:
    texts = {directory / REFS / name: None if n is None else f"{n:04d}\n" for name, n in refs.named().items()}
    pinned = "".join(f"{number:04d}\n" for number in sorted(refs.pinned))
    return {**texts, directory / REFS / PINNED: pinned or None}


def _file_links(directory: Path, live: int | None) -> dict[Path, str | None]:
    made = directory / GENERATIONS / f"{live or 0:04d}"
    there = [name for name in FILES if (made / name).exists() or os.path.lexists(directory / name)]
    return {directory / name: f"{LIVE}/{name}" for name in there}


def _stage_files(changes: list[tuple[Path | None, Path]], texts: Mapping[Path, str | None]) -> None:
    for place, text in texts.items():
        if _content(place) == text:
            continue
        temporary = None if text is None else temporary_beside(place)
        changes.append((temporary, place))
        if temporary is not None and text is not None:
            with writing(place), open(create_file(temporary, place), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())


def _stage_links(changes: list[tuple[Path | None, Path]], targets: Mapping[Path, str | None]) -> None:
    for place, target in targets.items():
        if (os.readlink(place) if place.is_symlink() else None) == target and (target or not place.exists()):
            continue
        temporary = None if target is None else temporary_beside(place)
        changes.append((temporary, place))
        if temporary is not None and target is not None:
            remove_any(temporary)
            with writing(place):
                os.symlink(target, temporary)


def _apply(changes: list[tuple[Path | None, Path]]) -> None:
    for temporary, place in changes:
        if place.is_dir() and not place.is_symlink():
            # A copy of the directory that followed the links.
            set_aside(place, "copied")
        with writing(place):
            if temporary is None:
                place.unlink(missing_ok=True)
            else:
                os.replace(temporary, place)
    for directory in dict.fromkeys(place.parent for _, place in changes):
        with writing(directory):
            fsync_path(directory)


def _content(file: Path) -> str | None:
    try:
        return read_text(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ""
