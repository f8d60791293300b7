"""Name resolution: from what a user names to a base, a run, a GGUF file, a server's model, or a file of answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ..backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE, LIVE, check_description, has_generations
from ..errors import UserError
from ..models.resolve import BUILT_IN, ResolvedModel, check_safetensors, is_local, resolve_model
from .directory import RUN_FILE, base_of, check_exists, is_run, other_base, read_run, read_trained
from .generations import Generations
from .names import split_name

Kind = Literal["base", "run", "gguf", "ollama", "server", "answers"]
FORMS = "a run, NAME@live, a base model, FILE.gguf, ollama:NAME, http://HOST/v1#MODEL, or answers:FILE.jsonl"


@dataclass
class Reference:
    """Resolved name, before anything is loaded.

    Attributes:
        name: as the user gave it.
        model: the base, of a base or a run.
        adapter: the directory of the run's adapter: its live generation, where it has several.
        run: content of the run's ``run.json``.
        other_base: a warning if the adapter was trained on other weights than its base has now.
        location: path of the file (``gguf``, ``answers``), URL of the server.
        remote_model: the model's name on the server.
    """

    name: str
    kind: Kind
    model: ResolvedModel | None = None
    adapter: Path | None = None
    run: dict[str, Any] = field(default_factory=dict)
    other_base: str | None = None
    location: str = ""
    remote_model: str = ""

    @property
    def directory(self) -> Path:
        """Directory that the user named, without the @ of a generation."""
        found = split_name(self.name)
        return Path(self.name).expanduser() if found is None else found[0].directory

    @property
    def base(self) -> ResolvedModel:
        """Base model of a base or a run.

        Raises:
            UserError: the name is of another kind.
        """
        if self.model is None:
            raise UserError(f"{self.name}: this must be a run that `train` made, or a base model")
        return self.model


def resolve(name: str) -> Reference:
    """Resolve a name of any kind.

    Raises:
        UserError: it names nothing, or something broken; see ``resolve_model`` and ``read_trained``.
    """
    scheme, _, rest = name.partition(":")
    if scheme in ("http", "https") and rest.startswith("//"):
        return _server(name)
    if scheme in ("ollama", "answers"):
        if not rest:
            raise UserError(f"{name}: nothing is named after the colon; give {FORMS}")
        if scheme == "ollama":
            return Reference(name, "ollama", remote_model=rest)
        return Reference(name, "answers", location=_file(name, rest))
    if name.endswith(".gguf"):
        return Reference(name, "gguf", location=_file(name, name))
    return resolve_model_or_run(name)


def resolve_model_or_run(name: str, needs_adapter: bool = False) -> Reference:
    """Resolve the name of a base model or a run.

    Args:
        needs_adapter: accept only a run.

    Raises:
        UserError: there is no such run or model, or the run has no adapter yet.
    """
    directory = Path(name).expanduser()
    generations, which = split_name(name) or (Generations(directory), LIVE)
    if has_generations(generations.directory):
        return _generation(name, generations, which, needs_adapter)
    if is_run(directory):
        return _run(name, directory)
    if needs_adapter:
        said = "there is no such run directory"
        if directory.exists() or name in BUILT_IN:
            said = f"this is not a run directory (there is no {RUN_FILE} in it)"
        raise UserError(f"{name}: {said}; name one that `train` made")
    check_exists(name)
    try:
        return Reference(name, "base", resolve_model(name))
    except UserError as error:
        if is_local(name):
            raise
        raise UserError(f"{error} (and there is no run directory {name} here)") from None


def _run(name: str, directory: Path) -> Reference:
    run = read_trained(directory)
    model = base_of(run, directory)
    check_safetensors(directory / ADAPTER_FILE)
    if (directory / ADAPTER_CONFIG).exists():
        # Now, before a command has asked another model for an hour.
        check_description(directory)
    return Reference(name, "run", model, directory, run, other_base(run, directory, model))


def _generation(name: str, generations: Generations, which: str, needs_adapter: bool) -> Reference:
    """Resolve a generation; where none is live, that is the base which the newest one was trained on."""
    live = generations.live if which == LIVE else None
    if which != LIVE or (live is None and needs_adapter):
        return _run(name, generations.resolve(which))
    if live is not None:
        # By its number: another one may be live by now.
        return _run(name, generations.resolve(str(live)))
    numbers = generations.numbers()
    if not numbers:
        raise UserError(f"{name}: there are no generations yet; `sleep run` and `train --increment` make them")
    newest = generations.path(numbers[-1])
    return Reference(name, "base", base_of(read_run(newest), newest))


def _file(name: str, path: str) -> str:
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(f"{name}: there is no such file; check the path")
    return str(place.absolute())


def _server(name: str) -> Reference:
    try:
        parts = urlsplit(name)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0) and not parts.query
    except ValueError:
        usable = False
    if not usable or not parts.fragment:
        raise UserError(f"{name}: a server is named as http://HOST:PORT/v1#MODEL, with the model after the #")
    if parts.username or parts.password:
        raise UserError("the server's address holds a password; put its key into OPENAI_API_KEY instead")
    return Reference(name, "server", location=name.partition("#")[0].rstrip("/"), remote_model=parts.fragment)
