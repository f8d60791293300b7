"""PEFT import: a PEFT directory as a run, in mlx-lm's adapter format, with its origin in ``run.json``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import __version__
from ...backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE
from ...backends.mlx.layer_streaming import load_lazily
from ...errors import UserError
from ...files import FORMAT, sha256_of, write_json
from ...models.resolve import ResolvedModel, resolve_model
from ...runs.directory import RUN_FILE
from ..adapter import LoraWeights, check_fit, check_range, differing, read_adapter, write_arrays
from ..reference import reference_of
from ..source import read_source
from ..verification import ExportCheck, ExportReport, check_space, equal, new_file, publish_or_reject, refuse_existing
from .comparison import compare_with_peft
from .module_names import LAYER, TextPart, mlx_names, text_part
from .reader import PEFT_CONFIG, PEFT_FILE, PeftAdapter, read_peft


def import_peft(directory: str | Path, out: str | Path, base: str | None = None) -> ExportReport:
    """Import a PEFT adapter as a run directory, for use with generate, eval, fuse and every export.

    Args:
        base: the base model, by name or directory, if not the one that PEFT's config names.

    Raises:
        UserError: see ``read_peft``; the base is not found or does not match; ``out`` exists already.
    """
    directory, out = Path(directory), Path(out)
    refuse_existing(out)
    adapter = read_peft(directory)
    model = _base(directory, adapter, base)
    part = text_part(load_lazily(model))
    names = mlx_names(directory / PEFT_FILE, model, adapter.pairs, part)
    adapted = {names[path]: pair for path, pair in adapter.pairs.items()}
    check_fit(directory / PEFT_FILE, adapted, adapter.rank, model)
    check_range(directory / PEFT_FILE, adapted, adapter.scale, model)
    config, pairs = _in_mlx_format(directory, adapter, model, adapted, part)
    check_space(out, 2 * (directory / PEFT_FILE).stat().st_size)
    with new_file(out) as temporary:
        temporary.mkdir()
        write_json(temporary / RUN_FILE, _record(directory, adapter, model, config))
        write_json(temporary / ADAPTER_CONFIG, config)
        write_arrays(temporary / ADAPTER_FILE, _tensors(pairs), "mlx")
        checks, notes = _compared(temporary, pairs, adapter), _notes(pairs, adapter)
        if all(check.passed for check in checks):
            source = replace(read_source(str(temporary), needs_adapter=True), name=str(directory))
            reference = reference_of(source)
            more, said = compare_with_peft(source, reference, directory)
            checks, notes = checks + more, notes + said
        return publish_or_reject(temporary, out, checks, notes)


def _base(directory: Path, adapter: PeftAdapter, base: str | None) -> ResolvedModel:
    named = adapter.config.get("base_model_name_or_path")
    if base is None and not named:
        raise UserError(f"{directory / PEFT_CONFIG}: it names no base model; name it with --base MODEL")
    try:
        return resolve_model(base or str(named), None if base else adapter.config.get("revision"))
    except UserError as error:
        if base:
            raise
        raise UserError(f"{error} (the adapter names this base; --base MODEL names another)") from error


def _in_mlx_format(
    directory: Path, adapter: PeftAdapter, model: ResolvedModel, adapted: dict[str, LoraWeights], part: TextPart
) -> tuple[dict[str, Any], dict[str, LoraWeights]]:
    """Return mlx-lm's config and the LoRA weights that it implies: the same modules in each of the last N layers.

    PEFT may adapt any module of any layer. Modules that it left out get two zero matrices: they change nothing and
    would stay zero in training.

    Args:
        adapted: LoRA weights by mlx-lm's names.
    """
    import mlx.core as mx

    file = directory / PEFT_FILE
    places = [match for path in adapted if (match := LAYER.match(path))]
    first, keys, pairs = min(int(m["layer"]) for m in places), sorted({m["within"] for m in places}), dict(adapted)
    for path in adapted:
        if path not in part.modules:
            raise UserError(f"{file}: {path} is not a linear layer of {model.name} in mlx-lm, which cannot adapt it")
    for path, (rows, columns) in part.modules.items():
        match = LAYER.match(path)
        if path in pairs or match is None or match["within"] not in keys or int(match["layer"]) < first:
            continue
        if adapter.kind == "dora":
            raise UserError(f"{file}: {path} is not adapted, and DoRA in mlx-lm's format needs it")
        pairs[path] = LoraWeights(mx.zeros((columns, adapter.rank)), mx.zeros((adapter.rank, rows)))
    config = {
        "model": model.reference,
        "base_fingerprint": model.fingerprint,
        "fine_tune_type": adapter.kind,
        "num_layers": part.depth - first,
        "lora_parameters": {
            "rank": adapter.rank,
            "scale": adapter.scale,
            "dropout": adapter.dropout,
            "keys": keys,
        },
    }
    return config, pairs


def _record(directory: Path, adapter: PeftAdapter, model: ResolvedModel, config: dict[str, Any]) -> dict[str, Any]:
    """Build the ``run.json``; it was trained elsewhere, so it names no data and training cannot resume from it."""
    return {
        "format": FORMAT,
        "mlx_lora_version": __version__,
        "model": model.reference,
        "model_revision": model.revision,
        "base_fingerprint": model.fingerprint,
        "imported_from": {"peft": str(directory.absolute()), "sha256": sha256_of(directory / PEFT_FILE)},
        "data": None,
        "data_sha256": {},
        "learned_from": {
            "model_name": model.reference,
            "fine_tune_type": adapter.kind,
            "lora_rank": adapter.rank,
            "lora_alpha": float(adapter.config["lora_alpha"]),
            "lora_dropout": adapter.dropout,
            "use_rslora": bool(adapter.config.get("use_rslora")),
            "lora_target_modules": sorted({key.rsplit(".", 1)[-1] for key in config["lora_parameters"]["keys"]}),
            "num_layers": config["num_layers"],
        },
        "system_prompt": None,
        "result": None,
    }


def _tensors(pairs: dict[str, LoraWeights]) -> dict[str, Any]:
    parts = {"lora_a": "a", "lora_b": "b", "m": "m"}
    named = {f"{path}.{name}": getattr(pair, part) for path, pair in pairs.items() for name, part in parts.items()}
    return {name: value for name, value in named.items() if value is not None}


def _compared(directory: Path, pairs: dict[str, LoraWeights], adapter: PeftAdapter) -> list[ExportCheck]:
    """Read the run back as every export does, and compare it."""
    try:
        again = read_adapter(directory, "a run")
    except UserError as error:
        return [ExportCheck("read back", str(error), "it can be", False)]
    return [
        equal("modules", len(again.pairs), len(pairs)),
        equal("rank", again.rank, adapter.rank),
        equal("scale", again.scale, adapter.scale),
        equal("values that differ", differing(again.pairs, pairs), 0),
    ]


def _notes(pairs: dict[str, LoraWeights], adapter: PeftAdapter) -> list[str]:
    filled = len(pairs) - len(adapter.pairs)
    if not filled:
        return []
    return [f"{filled} modules that PEFT left as they were are zeros here, which change nothing"]
