"""Adapter generations: immutable directories and a symbolic link to the one in use.

``out/live`` points at ``generations/N`` and is replaced atomically; ``out/adapters.safetensors`` and the other files
that mlx-lm and people's scripts open are links through it, which stay. A program that opens two of them one after the
other may meet a new generation in between. So ``adapter_config.json`` is kept byte for byte while only dropout differs,
and our own readers find the generation once (:func:`~mlx_lora.backends.adapter_format.published`).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..backends.adapter_format import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    LIVE,
    check_can_begin_from,
    published,
    read_description,
)
from ..files import FORMAT, new_directory, replace_link, set_aside, sha256_of, write_atomic, write_json
from .directory import REPORT_FILE, RUN_FILE, TEMPLATE_FILE, read_run

GENERATIONS, MANIFEST = "generations", "manifest.json"
# The weights last: a program that finds them finds the rest as well.
FILES = (REPORT_FILE, RUN_FILE, TEMPLATE_FILE, ADAPTER_CONFIG, ADAPTER_FILE)


def publish(run: Path, out: Path, number: int) -> None:
    """Publish a finished run's adapter as the live generation of ``out``; publishing it again changes nothing.

    Args:
        number: of the round that the run is of, for the manifest.

    Raises:
        UserError: the file system refuses; what was in use stays in use.
    """
    generation = _made(run, out, number)
    # Dangling links until there is a generation, so that the first one appears atomically as well.
    link_files(out, generation, replace=False)
    if (out / LIVE).is_dir() and not (out / LIVE).is_symlink():
        # LIVE is a real directory in a copy of the run that followed the links.
        set_aside(out / LIVE, "copied")
    replace_link(out / LIVE, f"{GENERATIONS}/{generation.name}")
    link_files(out, generation)


def link_files(out: Path, generation: Path, replace: bool = True) -> None:
    """Link the names that other programs open to the live generation's files.

    Args:
        replace: also where a file is in the way, which an earlier version wrote.
    """
    for name in FILES:
        target, place = f"{LIVE}/{name}", out / name
        if not (generation / name).exists() or (place.is_symlink() and os.readlink(place) == target):
            continue
        if replace or not os.path.lexists(place):
            replace_link(place, target)


def _made(run: Path, out: Path, number: int) -> Path:
    """Return the generation of a run; create it unless a killed process has."""
    place = out / GENERATIONS
    numbers = sorted(int(file.name) for file in place.glob("[0-9]" * 4) if file.is_dir())
    sha256 = sha256_of(run / ADAPTER_FILE)
    if numbers:
        newest = place / f"{numbers[-1]:04d}"
        if _manifest(newest).get("round") == number and sha256_of(newest / ADAPTER_FILE) == sha256:
            return newest
    generation = place / f"{numbers[-1] + 1 if numbers else 1:04d}"
    record = read_run(run)
    with new_directory(generation) as directory:
        for name in FILES:
            if (run / name).exists():
                shutil.copyfile(run / name, directory / name)
        write_atomic(directory / ADAPTER_CONFIG, _description(run, out))
        manifest = {
            "format": FORMAT,
            "round": number,
            "parent": published(out).name if (out / LIVE).is_symlink() else None,
            "base_fingerprint": record.get("base_fingerprint"),
            "data_sha256": record.get("data_sha256"),
            "sha256": {file.name: sha256_of(file) for file in sorted(directory.iterdir())},
        }
        write_json(directory / MANIFEST, manifest)
    return generation


def _manifest(generation: Path) -> dict[str, Any]:
    try:
        content = json.loads((generation / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _description(run: Path, out: Path) -> bytes:
    """Return the run's ``adapter_config.json``: the previous generation's where only dropout differs."""
    own, before = run / ADAPTER_CONFIG, published(out) / ADAPTER_CONFIG
    try:
        now, then = read_description(run), read_description(published(out))
        check_can_begin_from(then, now)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return own.read_bytes()
    return (before if set(now) == set(then) else own).read_bytes()
