"""PEFT export: ``adapter_model.safetensors`` with ``adapter_config.json``.

PEFT stores both matrices as torch's Linear does, [rank, in] and [out, rank], so each is transposed; its scale is
``lora_alpha / r``; DoRA magnitudes are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import write_json
from ...models.parameters import stored_parameters
from ..adapter import Adapter, LoraWeights, base_matrices, counted, differing, is_quantized, read_adapter, write_arrays
from ..reference import reference_of
from ..verification import (
    ExportCheck,
    ExportReport,
    at_most,
    check_space,
    equal,
    new_file,
    publish_or_reject,
    refuse_existing,
)
from .comparison import compare_with_peft
from .module_names import LAYER, transformers_names
from .reader import PARTS, PEFT_CONFIG, PEFT_FILE, PREFIX, read_peft


def export_peft(run: str | Path, out: str | Path) -> ExportReport:
    """Write a run's adapter as a PEFT directory, read it back, and compare it in PEFT if that is installed.

    Raises:
        UserError: see ``read_adapter`` and ``reference_of``; ``out`` exists already; or its modules cannot be named
            for PEFT.
    """
    out = Path(out)
    refuse_existing(out)
    adapter = read_adapter(run, "PEFT")
    named = in_peft(adapter)
    reference = reference_of(adapter.source)
    tensors = peft_tensors(named.pairs)
    check_space(out, sum(value.nbytes for value in tensors.values()))
    with new_file(out) as temporary:
        temporary.mkdir()
        write_json(temporary / PEFT_CONFIG, peft_config(adapter, named))
        write_arrays(temporary / PEFT_FILE, tensors, "pt")
        checks = _compared(adapter, named, temporary)
        notes = _notes(adapter)
        if all(check.passed for check in checks):
            more, said = compare_with_peft(adapter.source, reference, temporary)
            checks, notes = checks + more, notes + said
        return publish_or_reject(temporary, out, checks, notes)


@dataclass
class Named:
    """LoRA weights by the modules' paths in transformers; ``known`` are all linear layers there."""

    pairs: dict[str, LoraWeights]
    known: set[str]


def in_peft(adapter: Adapter) -> Named:
    """Rename the modules for PEFT's files; all-zero LoRA weights, with which the import fills gaps, are left out.

    Raises:
        UserError: the modules cannot be named, see ``transformers_names``.
    """
    pairs = _not_empty(adapter)
    shapes = {path: (pair.b.shape[1], pair.a.shape[0]) for path, pair in pairs.items()}
    names, known = transformers_names(adapter.source.model, shapes, base_matrices(adapter.source.model.path))
    return Named({names[path]: pair for path, pair in pairs.items()}, known)


def peft_tensors(pairs: dict[str, LoraWeights]) -> dict[str, Any]:
    """Return the adapter as MLX arrays in PEFT's names and layout."""
    import mlx.core as mx

    tensors: dict[str, Any] = {}
    for path, pair in pairs.items():
        tensors[f"{PREFIX}{path}.{PARTS['a']}"] = mx.contiguous(pair.a.T)
        tensors[f"{PREFIX}{path}.{PARTS['b']}"] = mx.contiguous(pair.b.T)
        if pair.m is not None:
            tensors[f"{PREFIX}{path}.{PARTS['m']}"] = pair.m
    return tensors


def _not_empty(adapter: Adapter) -> dict[str, LoraWeights]:
    import mlx.core as mx

    def empty(pair: LoraWeights) -> bool:
        return pair.m is None and not bool(mx.any(pair.a)) and not bool(mx.any(pair.b))

    return {path: pair for path, pair in adapter.pairs.items() if not empty(pair)} or adapter.pairs


def peft_config(adapter: Adapter, named: Named) -> dict[str, Any]:
    """Return PEFT's ``adapter_config.json``; rsLoRA's scale is already in ``lora_alpha``."""
    alpha = adapter.alpha
    base = adapter.source.model
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.path.absolute()) if base.revision is None else base.name,
        "revision": base.revision,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": False,
        "use_dora": adapter.kind == "dora",
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        **_selection(set(named.pairs), named.known),
    }


def _selection(paths: set[str], known: set[str]) -> dict[str, Any]:
    """Return the module selection for PEFT: last path components if they match no other module, else whole paths.

    PEFT selects a module whose path is, or ends in a dot and, one of ``target_modules``; ``layers_to_transform``
    restricts the selection to some layers.
    """
    found = [match for path in paths if (match := LAYER.match(path))]
    layers, patterns = sorted({int(match["layer"]) for match in found}), {m["prefix"].rpartition(".")[2] for m in found}
    names = sorted({path.rsplit(".", 1)[-1] for path in paths})

    def chosen(within: list[int] | None) -> set[str]:
        named = {path for path in known if path.rsplit(".", 1)[-1] in names}
        if within is None:
            return named
        matched = {path: LAYER.match(path) for path in named}
        return {path for path, match in matched.items() if match and int(match["layer"]) in within}

    if chosen(None) == paths:
        return {"target_modules": names, "layers_to_transform": None, "layers_pattern": None}
    if len(found) == len(paths) and chosen(layers) == paths and len(patterns) == 1:
        return {"target_modules": names, "layers_to_transform": layers, "layers_pattern": patterns.pop()}
    return {"target_modules": sorted(paths), "layers_to_transform": None, "layers_pattern": None}


def _compared(adapter: Adapter, named: Named, directory: Path) -> list[ExportCheck]:
    """Read the directory back as the import does, and compare it with the adapter it was made from."""
    try:
        again = read_peft(directory)
        checks = [equal("modules", len(again.pairs), len(named.pairs)), equal("rank", again.rank, adapter.rank)]
        checks.append(at_most("difference of the scales", abs(again.scale - adapter.scale), 1e-15 * adapter.scale))
        checks.append(equal("values that differ", differing(again.pairs, named.pairs), 0))
    except UserError as error:
        return [ExportCheck("read back", str(error), "it can be", False)]
    return checks + counted(adapter, stored_parameters(directory / PEFT_FILE), len(named.pairs) == len(adapter.pairs))


def _notes(adapter: Adapter) -> list[str]:
    model = adapter.source.model
    if not is_quantized(model.path):
        return []
    return [f"{model.name} is quantized for MLX; transformers cannot load it, so give PEFT the model as it was before"]
