"""Catalogue of the models that the server answers with: bases, runs, generations, jobs and their checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE, LIVE, has_generations
from ...errors import UserError, shortened
from ...models.resolve import BUILT_IN, ResolvedModel, resolve_model
from ...runs.directory import RUN_FILE, TEMPLATE_FILE
from ...runs.generations import Generations
from ...runs.names import ADAPTERS
from ...runs.resolve import Reference, resolve_model_or_run
from ..api_error import ApiError
from ..jobs.files import job_checkpoints
from ..jobs.fine_tuned import PREFIX, model_id, trained_directory
from ..records import Job
from ..settings import ServerSettings
from ..state import State

# How deep below the directory of models the list goes, and how many directories it looks at.
DEPTH, MOST_DIRECTORIES = 4, 5000
# Directories within which no model of its own is looked for.
INNER = {"checkpoints", "generations", "refs", "tensorboard", "__pycache__", "node_modules"}
MOST_LENGTH, MOST_PART = 500, 200
# References that are kept.
MOST_RESOLVED = 500

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class ModelEntry:
    """Line of the list of models.

    Attributes:
        created: Unix time.
        owner: where it comes from: ``built-in``, ``local``, ``hub`` or ``job``.
    """

    id: str
    created: int
    owner: str


@dataclass(frozen=True)
class ServedModel:
    """Model of the catalogue, found on the disk and not loaded.

    Attributes:
        identity: as the client named it.
        base_key, adapter_key: the same for the same weights; they change when the files do.
        system_prompt: the one that it was trained with, for conversations without one.
    """

    identity: str
    base: ResolvedModel
    adapter: Path | None
    in_4bit: bool
    system_prompt: str | None
    base_key: tuple[str, bool, Stamp]
    adapter_key: tuple[str, Stamp] | None


class Catalogue:
    """Models by the names that clients use; every call looks at the disk."""

    def __init__(self, settings: ServerSettings, state: State) -> None:
        self._settings, self._state = settings, state
        # Fingerprints of large bases take their time: what was resolved holds while the files are the same.
        self._resolved: dict[tuple[str, Path], tuple[Stamp, Path, Stamp, Reference]] = {}

    def find(self, identity: str) -> ServedModel:
        """Return the model of a name; ``NAME@live`` is the generation that is live now.

        Raises:
            ApiError: 404, there is none, or its files cannot be used.
        """
        try:
            reference = self._reference(identity)
        except UserError as error:
            raise ApiError(404, f"{error}.", "model_not_found", "model") from error
        if reference is None:
            said = f"There is no model {shortened(identity)} here; GET /v1/models lists those that there are."
            raise ApiError(404, said, "model_not_found", "model")
        if reference.other_base is not None:
            raise ApiError(409, f"{identity}: {reference.other_base}.", "other_base", "model")
        base, adapter = reference.base, reference.adapter
        in_4bit = bool(reference.run.get("learned_from", {}).get("load_in_4bit"))
        system = reference.run.get("system_prompt")
        adapter_key = None if adapter is None else (str(adapter), stamp(adapter, ADAPTER_FILE, ADAPTER_CONFIG))
        return ServedModel(
            identity,
            base,
            adapter,
            in_4bit,
            system if isinstance(system, str) else None,
            (str(base.path), in_4bit, base_stamp(base.path)),
            adapter_key,
        )

    def has_directory(self, identity: str) -> bool:
        """Return True if a name is that of a directory below that of models, whatever it holds."""
        if not _is_name(identity) or any(map(_leads_elsewhere, identity.split("/"))):
            return False
        return (self._settings.models / identity).is_dir()

    def directory_of(self, identity: str) -> Path | None:
        """Return the directory of a model of any kind, such as one for embeddings; ``None``: it is not here."""
        if not _is_name(identity):
            return None
        local = (directory for _, directory in self._places(identity) if _is_base(directory))
        return next(local, None) or _cached_snapshot(identity)

    def list(self) -> list[ModelEntry]:
        """Return all models: those built in, below the directory of models, in the hub's cache, and of jobs."""
        found = [ModelEntry(name, _modified(path / "config.json"), "built-in") for name, path in BUILT_IN.items()]
        found += self._local()
        found += [
            ModelEntry(name, _modified(path / "config.json"), "hub") for name, path in _hub_models() if _is_base(path)
        ]
        for job in self._state.list_jobs():
            found += self._of_job(job)
        return list({entry.id: entry for entry in reversed(found)}.values())[::-1]

    # Resolution

    def _reference(self, identity: str) -> Reference | None:
        if identity in BUILT_IN:
            return self._resolve(identity, BUILT_IN[identity])
        found = self.local(identity)
        snapshot = _cached_snapshot(identity) if found is None and _is_name(identity) else None
        return found if snapshot is None else Reference(identity, "base", _hub_base(identity, snapshot))

    def local(self, identity: str) -> Reference | None:
        """Return what a name means among the jobs' models and below the directory of models; ``None``: nothing.

        Raises:
            UserError: what it means cannot be used.
        """
        if not _is_name(identity):
            return None
        if identity.startswith(PREFIX):
            directory = trained_directory(identity, self._settings, self._state)
            return None if directory is None else self._resolve(str(directory), directory)
        for name, directory in self._places(identity):
            return self._resolve(name, directory)
        return None

    def _places(self, identity: str) -> Iterator[tuple[str, Path]]:
        """Yield the names by which ``runs.resolve`` finds a name below the directory of models, and their directories.

        No name leads out of it: there are no absolute ones, and none of ``..``.
        """
        for name, which in ((identity, ""), identity.rpartition("@")[::2]):
            if not name or any(map(_leads_elsewhere, name.split("/"))):
                continue
            for root in (self._settings.models, self._settings.models / ADAPTERS):
                directory = (root / name).absolute()
                if has_generations(directory):
                    yield _generation(directory, which or LIVE)
                elif not which and directory.is_dir() and (_is_base(directory) or _holds_adapter(directory)):
                    yield str(directory), directory

    def _resolve(self, name: str, directory: Path) -> Reference:
        now = stamp(directory, RUN_FILE, ADAPTER_FILE, ADAPTER_CONFIG, TEMPLATE_FILE, "config.json")
        known = self._resolved.get((name, directory))
        if known and known[0] == now and now and base_stamp(known[1]) == known[2]:
            return known[3]
        reference = resolve_model_or_run(name)
        path = reference.base.path
        if len(self._resolved) > MOST_RESOLVED:
            self._resolved.clear()
        self._resolved[name, directory] = (now, path, base_stamp(path), reference)
        return reference

    # Lists

    def _of_job(self, job: Job) -> Iterator[ModelEntry]:
        if job.status == "succeeded":
            yield ModelEntry(model_id(job), int(job.finished_at or job.created_at), "job")
        for checkpoint in job_checkpoints(self._settings, job):
            yield ModelEntry(model_id(job, checkpoint.step), int(checkpoint.created_at), "job")

    def _local(self) -> Iterator[ModelEntry]:
        root, looked = self._settings.models.absolute(), 0
        state = self._settings.state.absolute()
        for place, names, _ in os.walk(root):
            directory, looked = Path(place), looked + 1
            depth = len(directory.relative_to(root).parts)
            inner = directory != root and (_is_base(directory) or _holds_adapter(directory))
            if inner:
                yield from _entries(directory, directory.relative_to(root).as_posix())
            deeper = not inner and depth < DEPTH and looked < MOST_DIRECTORIES
            names[:] = [
                name
                for name in sorted(names)
                if deeper and name not in INNER and not name.startswith(".") and directory / name != state
            ]


def _is_name(identity: str) -> bool:
    return 0 < len(identity) <= MOST_LENGTH and identity.isprintable()


def _leads_elsewhere(part: str) -> bool:
    """Return True if a part of a name can be no directory's below another one."""
    return part in ("", ".", "..") or part.startswith("~") or "\\" in part or len(part.encode()) > MOST_PART


def _generation(directory: Path, which: str) -> tuple[str, Path]:
    """Return the name of the generation that a ref means now, by its number, and its directory."""
    generations = Generations(directory)
    number = generations.refs.named().get(which)
    if number is None and re.fullmatch("[0-9]{1,9}", which):
        number = int(which)
    if number is None:
        return f"{directory}@{which}", directory
    return f"{directory}@{number}", generations.path(number)


def _entries(directory: Path, name: str) -> Iterator[ModelEntry]:
    if not has_generations(directory):
        file = directory / (ADAPTER_FILE if (directory / ADAPTER_FILE).exists() else "config.json")
        yield ModelEntry(name, _modified(file), "local")
        return
    generations = Generations(directory)
    for which, number in generations.refs.named().items():
        if number is not None:
            yield ModelEntry(f"{name}@{which}", _modified(generations.path(number) / ADAPTER_FILE), "local")
    for number in generations.numbers():
        yield ModelEntry(f"{name}@{number}", _modified(generations.path(number) / ADAPTER_FILE), "local")


def _is_base(directory: Path) -> bool:
    return (directory / "config.json").is_file() and any(directory.glob("model*.safetensors"))


def _holds_adapter(directory: Path) -> bool:
    return has_generations(directory) or all((directory / name).is_file() for name in (RUN_FILE, ADAPTER_FILE))


def _modified(file: Path) -> int:
    try:
        return int(file.stat().st_mtime)
    except OSError:
        return 0


def stamp(directory: Path, *names: str) -> Stamp:
    """Return name, time and size of files that exist; other content has another stamp."""
    found = []
    for name in names:
        try:
            status = os.stat(directory / name)
        except OSError:
            continue
        found.append((name, status.st_mtime_ns, status.st_size))
    return tuple(found)


def base_stamp(directory: Path) -> Stamp:
    """Return the stamp of a base's files."""
    return stamp(directory, "config.json", *sorted(file.name for file in directory.glob("model*.safetensors")))


def _cached_snapshot(name: str) -> Path | None:
    """Return the directory of a hub model that has been downloaded; nothing is downloaded."""
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        file = try_to_load_from_cache(name, "config.json")
    except (errors.HFValidationError, OSError):
        return None
    return Path(file).parent if isinstance(file, str) else None


def _hub_base(name: str, snapshot: Path) -> ResolvedModel:
    return replace(resolve_model(str(snapshot)), name=name, revision=snapshot.name)


def _hub_models() -> Iterator[tuple[str, Path]]:
    from huggingface_hub import constants

    for directory in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        name = directory.name.removeprefix("models--").replace("--", "/")
        snapshot = _cached_snapshot(name)
        if snapshot is not None:
            yield name, snapshot
