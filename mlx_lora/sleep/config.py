"""Config of the sleep cycle (``configs/sleep.yaml``): keys, defaults, ranges, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len

from ..config import TrainingConfig
from ..config.loading import find_config, read_mapping
from ..data.schema import is_text
from ..errors import UserError, nearest, shortened

Share = Annotated[float, Interval(ge=0, le=1)]
Kind = Literal["salience", "traces", "eisv", "claims", "instructions", "data"]
KINDS: tuple[str, ...] = ("salience", "traces", "eisv", "claims", "instructions", "data")
# Keys of a store that are not options of its source.
STORE_KEYS = {"name", "check"}


@dataclass
class StoreConfig:
    """One store of the agent's days.

    Attributes:
        name: unique; by default its kind, with a number where several have it.
        kind: source that reads it; ``data`` is a dataset directory.
        options: keyword arguments of the source's ``make_dataset``.
        check: suite (name or file) whose checks an answer to its prompts must pass; ``None`` is the source's own.
    """

    name: str
    kind: Kind
    paths: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    check: str | None = None


@dataclass
class ReplayConfig:
    """Replay of earlier nights.

    Attributes:
        share: of each batch that is replay.
        source: ``own_checked``: the live adapter's own answers where they pass the check; ``gold``: as stored.
        gold: share of the replay that is always as stored.
        own_loss: largest share of the loss that own answers carry.
    """

    share: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    source: Literal["own_checked", "gold"] = "own_checked"
    gold: Share = 0.25
    own_loss: Share = 0.38


@dataclass
class GuardsConfig:
    """Limits below which a night does not begin.

    Attributes:
        min_battery: percent on battery; ``None`` asks for AC power.
        min_disk_gb, min_memory_gb: free space and available memory.
        slow: share of the speed at installation below which the report says that the system throttles the job.
    """

    min_battery: Annotated[float, Interval(ge=0, le=100)] | None = None
    min_disk_gb: Annotated[float, Interval(ge=0, le=1e6)] = 2.0
    min_memory_gb: Annotated[float, Interval(ge=0, le=1e6)] = 1.0
    slow: Share = 0.5


@dataclass
class ExportConfig:
    """Export of a promoted generation; ``None`` exports nothing.

    Attributes:
        gguf: type of the weights, such as ``q8_0``.
        ollama: name of the model in Ollama, without a tag; its tag ``live`` follows the live generation.
        host: address of the Ollama server; ``None`` is the usual one.
    """

    gguf: str | None = None
    ollama: str | None = None
    host: str | None = None


@dataclass
class IndexConfig:
    """Index of what is looked up instead of learned.

    Attributes:
        path: directory of the index, created if absent.
        facts: ``marked``: rows whose owner says so; ``likely``: answers that mostly are verbatim facts, too.
        collection: of the rows that are looked up.
    """

    path: Annotated[str, Len(1)]
    facts: Literal["marked", "likely"] = "marked"
    # retrieval.collections.BUFFER, which brings the checks of data, and NumPy with them.
    collection: str = "daily_buffer"


@dataclass
class SleepConfig:
    """All settings of a cycle; paths are relative to the working directory.

    Attributes:
        name: directory of the adapter, ``adapters/NAME``.
        model_name: base model.
        min_total, min_new: examples that a night needs, in all and never trained on.
        min_hours: hours since the last night that trained.
        held_out: share of the examples that judge and never train.
        pattern_share: largest share of a night's examples that one pattern may have.
        suites: judged on base, live, best and candidate; by default no suite but the held-out rows.
        trial: suites that a promoted generation must pass; it is rolled back otherwise.
        merge: milder adapters that are tried where the candidate fails: shares of its change.
        index: where facts are looked up; by default all rows are learned.
        retries: failed nights after which a row is set aside.
        keep: last generations that are kept.
        notify: show a notification on macOS.
        train: keys of the training config.
    """

    name: Annotated[str, Len(1)]
    stores: list[StoreConfig]
    model_name: str = "Qwen/Qwen2.5-0.5B-Instruct"
    min_total: Annotated[int, Interval(ge=1, le=10**9)] = 30
    min_new: Annotated[int, Interval(ge=1, le=10**9)] = 10
    min_hours: Annotated[float, Interval(ge=0, le=10_000)] = 12.0
    held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    pattern_share: Annotated[float, Interval(gt=0, le=1)] = 0.1
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    suites: str | None = None
    trial: str | None = None
    merge: list[Annotated[float, Interval(gt=0, lt=1)]] = field(default_factory=lambda: [0.75, 0.5, 0.25])
    retries: Annotated[int, Interval(ge=1, le=1000)] = 2
    keep: Annotated[int, Interval(ge=1, le=10**6)] = 5
    export: ExportConfig = field(default_factory=ExportConfig)
    index: IndexConfig | None = None
    max_minutes: Annotated[float, Interval(gt=0, le=10**6)] | None = None
    until: str | None = None
    notify: bool = False
    train: dict[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Directory of the adapter's generations."""
        return Path(self.name).expanduser()

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict of JSON values."""
        return asdict(self)

    def training(self) -> TrainingConfig:
        """Return the training config of a night, without its data and its directory."""
        from ..config.validation import validated

        limits = {"max_minutes": self.max_minutes, "until": self.until}
        return TrainingConfig(**validated("train", {"model_name": self.model_name, **limits, **self.train}))


# Keys of `train:` that the cycle decides.
DECIDED = ("data", "output_dir", "init_adapter", "model_name", "max_minutes", "until")


def load_sleep_config(path: str | Path) -> SleepConfig:
    """Read the config of a cycle.

    Args:
        path: a YAML or JSON file, or the name of a preset: ``sleep``.

    Raises:
        UserError: no such file, an unknown key, a wrong type or a value out of range.
    """
    file = find_config(path)
    return sleep_config(read_mapping(file), str(file))


def sleep_config(settings: Mapping[str, Any], where: str) -> SleepConfig:
    """Return the config of a mapping of settings.

    Raises:
        UserError: an unknown key, a wrong type or a value out of range; ``where`` begins the sentence.
    """
    from pydantic import TypeAdapter, ValidationError

    from ..config.validation import validated

    settings = dict(settings)
    if not is_text(json.dumps(settings, default=str, ensure_ascii=False)):
        raise UserError(f"{where}: it holds an unpaired surrogate, which is not text; correct it")
    if "stores" not in settings or "name" not in settings:
        missing = "stores" if "stores" not in settings else "name"
        raise UserError(f"{where}: this is not a config of the night: it has no {missing}; see configs/sleep.yaml")
    settings["stores"] = _stores(settings["stores"], where)
    _check_keys(settings, SleepConfig, where)
    for key, kind in (
        ("replay", ReplayConfig),
        ("guards", GuardsConfig),
        ("export", ExportConfig),
        ("index", IndexConfig),
    ):
        if isinstance(inner := settings.get(key), Mapping):
            if key == "replay" and "from" in inner:
                inner = {("source" if name == "from" else name): value for name, value in inner.items()}
                settings[key] = inner
            _check_keys(inner, kind, f"{where}: {key}")
    if type(until := settings.get("until")) is int:
        # YAML 1.1 reads 23:00 as minutes, in base 60.
        settings["until"] = f"{until // 60:02d}:{until % 60:02d}"
    try:
        config = TypeAdapter(SleepConfig).validate_python(settings)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        raise UserError(f"{where}: {place}: {detail['msg'].lower()}, not {shortened(detail['input'])}") from None
    validated(where, {"until": config.until})
    if config.index is not None:
        try:
            from ..retrieval.collections import check_collection

            check_collection(config.index.collection)
        except UserError as error:
            raise UserError(f"{where}: index: {error}") from None
    decided = [key for key in DECIDED if key in config.train]
    if decided:
        raise UserError(f"{where}: train: {decided[0]} is decided by the cycle; leave it out here")
    try:
        config.training()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return config


def _check_keys(settings: Mapping[str, Any], kind: Any, where: str) -> None:
    known = [field.name for field in fields(kind)]
    for key in settings:
        if key not in known:
            raise UserError(f"{where}: there is no key {shortened(key)}; the nearest is {nearest(str(key), known)!r}")


def _stores(given: Any, where: str) -> list[StoreConfig]:
    """Return the stores of ``stores:``, a list of mappings such as ``{salience: FILE, min_salience: 0.6}``."""
    if not isinstance(given, list) or not given:
        raise UserError(f"{where}: stores is a list of at least one store, such as `- salience: experiences.json`")
    found: list[StoreConfig] = []
    for number, store in enumerate(given, 1):
        kinds = [key for key in store if key in KINDS] if isinstance(store, Mapping) else []
        if len(kinds) != 1:
            raise UserError(f"{where}: store {number} must name one of {', '.join(KINDS)} with its file or files")
        kind = kinds[0]
        paths = store[kind] if isinstance(store[kind], list) else [store[kind]]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise UserError(f"{where}: store {number}: {kind} must be a path or a list of paths")
        name = store.get("name") or (kind if kind not in {s.name for s in found} else f"{kind}-{number}")
        if not isinstance(name, str) or name in {s.name for s in found}:
            raise UserError(f"{where}: store {number}: the name {shortened(name)} must be text, and no other store's")
        options = {key: value for key, value in store.items() if key not in STORE_KEYS | {kind}}
        found.append(StoreConfig(name, kind, paths, options, store.get("check")))
    return found
