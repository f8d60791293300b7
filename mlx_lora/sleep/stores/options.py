"""Options of a store: parameters of its source's ``make_dataset``, checked before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

from ...data.dataset_card import DatasetCard
from ...data.hub import is_hub
from ...errors import UserError, nearest, shortened
from ..config import StoreConfig

# Parameter that takes the store's paths.
PATHS = {"salience": "buffers", "traces": "stores", "eisv": "anima_db", "claims": "claims", "instructions": "files"}
# Options that the config of the night decides for all stores.
DECIDED = ("held_out", "max_examples", "pattern_share")
# Parameters that no config can give.
INTERNAL = {"out", "filters", "lengths", *PATHS.values()}
# A day is what happened, not what a seed draws; a state that cannot be used is named, and the rest is read.
DEFAULTS: dict[str, dict[str, Any]] = {"eisv": {"min_per_shape": 0, "skip_invalid": True}}


def make_dataset_of(kind: str) -> Callable[..., DatasetCard]:
    """Return the ``make_dataset`` of a source."""
    return import_module(f"mlx_lora.sources.{kind}").make_dataset


def dataset_calls(store: StoreConfig) -> list[dict[str, Any]]:
    """Return the arguments of each call of ``make_dataset`` that a store needs; none for a dataset directory.

    Raises:
        UserError: an option that is unknown, of a wrong type, or decided by the night; the sentence names the store.
    """
    options = _checked(store, dict(store.options))
    if store.kind == "data":
        return []
    places = paths_of(store)
    options = {**DEFAULTS.get(store.kind, {}), **_converted(store, options)}
    if store.kind == "eisv":
        return [{"anima_db": place, **options} for place in places]
    return [{PATHS[store.kind]: places, **options}]


def paths_of(store: StoreConfig) -> list[Path]:
    """Return the paths of a store, ``~`` as the home directory."""
    return [Path(path) if is_hub(path) else Path(path).expanduser() for path in store.paths]


def _checked(store: StoreConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with their values as the parameters' types."""
    types = _types(store.kind)
    for name in options:
        if name in DECIDED:
            raise UserError(f"store {store.name}: {name} is decided by the night for all stores; leave it out here")
        if name not in types:
            near = f"; the nearest is {nearest(name, types)!r}" if types else f": {store.kind} has none"
            raise UserError(f"store {store.name}: there is no option {shortened(name)} of {store.kind}{near}")
    if store.kind == "claims" and not options.get("corpus"):
        raise UserError(f"store {store.name}: corpus is missing: name the file of the documents that the claims cite")
    return {name: _as_type(store, name, value, types[name]) for name, value in options.items()}


def _types(kind: str) -> dict[str, Any]:
    """Return the options of a kind of store and their types."""
    if kind == "data":
        return {}
    make_dataset = make_dataset_of(kind)
    hints = get_type_hints(make_dataset)
    types = {name: hints[name] for name in signature(make_dataset).parameters if name not in INTERNAL}
    if kind == "salience":
        from ...sources.salience import Filters

        types |= get_type_hints(Filters)
        types["keep"] = types.pop("skip")
    if kind == "claims":
        types["corpus"] = list[str]
    if kind == "instructions":
        types |= {"plan": str, "leave_out": list[str]}
    return {name: type_ for name, type_ in types.items() if name not in DECIDED}


def _as_type(store: StoreConfig, name: str, value: Any, type_: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, str) and any(word in str(type_) for word in ("list[", "set[", "Sequence[str]")):
        value = [value]
    try:
        return TypeAdapter(type_).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"].lower()
        raise UserError(f"store {store.name}: {name}: {said}, not {shortened(value)}") from None


def _converted(store: StoreConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as the parameters that a config cannot write: filters, a plan, the text of a prompt."""
    if store.kind == "salience":
        return _salience(store, options)
    if store.kind == "instructions" and options.get("plan") is not None:
        from ...sources.instructions import load_plan

        options["plan"] = load_plan(options["plan"])
    if store.kind == "claims":
        options["corpus"] = [Path(path).expanduser() for path in options["corpus"]]
    return options


def _salience(store: StoreConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    from ...sources.salience import CHECKS, Filters, read_system_prompt

    keep = options.get("keep", frozenset())
    for name in keep:
        if name not in CHECKS:
            near = nearest(name, CHECKS)
            raise UserError(f"store {store.name}: keep: there is no check {shortened(name)}; the nearest is {near!r}")
    own = {field.name for field in fields(Filters)}
    # The night limits patterns over all stores, and holds out by itself.
    filters = Filters(
        skip=frozenset({*keep, "pattern-cap"}), **{name: value for name, value in options.items() if name in own}
    )
    rest = {name: value for name, value in options.items() if name not in own | {"keep"}}
    prompt = rest.get("system_prompt")
    # A prompt has words; a name without white space is that of its file, as on the command line.
    if prompt is not None and not any(map(str.isspace, prompt.strip())):
        rest["system_prompt"] = read_system_prompt(Path(prompt).expanduser())
    return {**rest, "filters": filters, "held_out": (0.0, 0.0)}
