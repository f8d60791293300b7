"""Exact mixing of two LoRA adapters: the live one, moved a share of the way to the candidate, at the same rank.

ΔW_α = α·s₁·A₁B₁ + (1 − α)·s₀·A₀B₀ has rank r₁ + r₀ at most. It is [A₁, A₀]·[α·s₁·B₁; (1 − α)·s₀·B₀]; with two QR
factorizations and an SVD of the small matrix between them it becomes its best approximation of rank r₁ (Eckart and
Young), the sum itself where that has no higher rank. ΔW is never formed, and all of it is computed in float64.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE, initial_a, read_description
from ..errors import UserError, first_line
from ..files import new_directory, sha256_of, write_json
from ..models.resolve import check_safetensors
from ..runs.directory import CONFIG_FILE, RUN_FILE, TEMPLATE_FILE, read_run
from .tensors import read_header, to_float32

# Key of run.json that says of what an adapter is mixed.
MIXED = "mixed"
REFUSED = {"dora": "DoRA, whose magnitudes do not add up", "full": "whole layers, a share of which is no adapter"}
_LAYER = re.compile(r"(.*\blayers\.)(\d+)\.(.+)")
_PART = re.compile(r"(.+)\.(lora_[ab])((?:\.\d+)?)")


# lora_a and lora_b of a module, or its two factors.
Pair = tuple[np.ndarray, np.ndarray]


@dataclass
class _Adapter:
    """LoRA adapter: its description, and lora_a and lora_b of each module.

    A module is its path, with a number after it where a fused layer has several pairs.
    """

    described: dict[str, Any]
    pairs: dict[tuple[str, str], Pair]

    @property
    def rank(self) -> int:
        return int(self.described["lora_parameters"]["rank"])

    @property
    def scale(self) -> float:
        return float(self.described["lora_parameters"]["scale"])

    @property
    def layers(self) -> int:
        return int(self.described["num_layers"])


def mix_adapters(live: Path | None, candidate: Path, alpha: float, out: Path) -> None:
    """Write the mixture of two adapters to the new directory ``out``, with the candidate's run.json and template.

    Its rank, scale and dropout are the candidate's, its modules those of both.

    Args:
        live: ``None`` is the base alone, whose change is 0.
        alpha: share of the candidate, above 0 and at most 1.

    Raises:
        UserError: ``out`` exists, an adapter is broken or not LoRA, or the two are of different bases.
    """
    if not 0 < alpha <= 1:
        raise UserError(f"the share of the candidate is {alpha:g}, and must be above 0 and at most 1")
    ours = _read(candidate)
    theirs = None if live is None else _read(live)
    others = {} if theirs is None else theirs.pairs
    pairs = {}
    for module in sorted({*ours.pairs, *others}):
        parts = [(ours.pairs[module], alpha * ours.scale)] if module in ours.pairs else []
        if theirs is not None and module in others:
            parts.append((others[module], (1 - alpha) * theirs.scale))
        pairs[module] = _mix(parts, ours, f"{candidate}: {module[0]}")
    layers = ours.layers if theirs is None else max(ours.layers, theirs.layers)
    _complete(pairs, layers)
    parameters = {**ours.described["lora_parameters"], "keys": _keys(pairs)}
    description = {**ours.described, "num_layers": layers, "lora_parameters": parameters}
    with new_directory(out) as directory:
        _save(directory / ADAPTER_FILE, pairs)
        write_json(directory / ADAPTER_CONFIG, description)
        for name in (CONFIG_FILE, TEMPLATE_FILE):
            if (candidate / name).exists():
                shutil.copyfile(candidate / name, directory / name)
        if (candidate / RUN_FILE).exists():
            of = {"candidate": candidate} if live is None else {"candidate": candidate, "live": live}
            mixed = {"alpha": alpha, "sha256": {name: sha256_of(place / ADAPTER_FILE) for name, place in of.items()}}
            write_json(directory / RUN_FILE, {**read_run(candidate), MIXED: mixed})


def _read(directory: Path) -> _Adapter:
    """Read a LoRA adapter.

    Raises:
        UserError: it is broken, or not LoRA.
    """
    file = directory / ADAPTER_FILE
    try:
        described = read_description(directory)
        kind = described.get("fine_tune_type", "lora")
        if kind == "lora":
            _Adapter(described, {}).rank, _Adapter(described, {}).layers, described["lora_parameters"]["scale"]
        check_safetensors(file)
        stored = {} if kind != "lora" else {n: to_float32(t.read(), t.dtype) for n, t in read_header(file).items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{directory}: this adapter cannot be read ({first_line(error)}); train it again") from error
    if kind != "lora":
        raise UserError(f"{directory}: this adapter is {REFUSED.get(kind, kind)}; only LoRA adapters can be mixed")
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, values in stored.items():
        match = _PART.fullmatch(name)
        if match is None:
            raise UserError(f"{file}: {name} is not part of a LoRA adapter, so this cannot be mixed")
        if not np.isfinite(values).all():
            raise UserError(f"{file}: {name} holds a number that is not finite, so the training of it had failed")
        found.setdefault((match[1], match[3]), {})[match[2]] = values
    broken = next((module for module, parts in found.items() if len(parts) < 2), None)
    if broken is not None or not found:
        said = "there is nothing in this adapter" if broken is None else f"{broken[0]} has only one of its two matrices"
        raise UserError(f"{file}: {said}; train it again")
    return _Adapter(described, {module: (parts["lora_a"], parts["lora_b"]) for module, parts in found.items()})


def _mix(parts: Sequence[tuple[Pair, float]], ours: _Adapter, where: str) -> Pair:
    """Return the pair whose product times our scale is Σ factor · lora_a @ lora_b, at our rank.

    Args:
        parts: pairs, each with its factor; the sum has the form of the first.
    """
    form = parts[0][0]
    factors = [_factors(*pair) for pair, _ in parts]
    if len({(left.shape[:-1], right.shape[:-2], right.shape[-1]) for left, right in factors}) > 1:
        raise UserError(f"{where} has another shape in the live adapter: the two are not of one base")
    left = np.concatenate([left for left, _ in factors], axis=-1)
    scaled = [right * (factor / ours.scale) for (_, right), (_, factor) in zip(factors, parts, strict=True)]
    right = np.concatenate(scaled, axis=-2)
    if left.shape[-1] > ours.rank:
        left, right = _reduced(left, right, ours.rank)
    missing = ours.rank - left.shape[-1]
    if missing:
        left = np.concatenate([left, np.zeros((*left.shape[:-1], missing))], axis=-1)
        right = np.concatenate([right, np.zeros((*right.shape[:-2], missing, right.shape[-1]))], axis=-2)
    return _stored(left, right, form)


def _reduced(left: np.ndarray, right: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return factors of the best approximation of ``left @ right`` of a lower rank.

    The left one has orthogonal columns as long as those that it replaces, and the singular values are in the right one:
    a direction that the sum does not use is as open to further training as one of a fresh adapter.
    """
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(np.swapaxes(right, -1, -2))
    u, values, v = np.linalg.svd(r_left @ np.swapaxes(r_right, -1, -2), full_matrices=False)
    length = math.sqrt(float(np.mean(np.sum(left * left, axis=-2)))) or 1.0
    right = (values[..., :rank, None] / length) * (v[..., :rank, :] @ np.swapaxes(q_right, -1, -2))
    return q_left @ u[..., :rank] * length, right


def _factors(a: np.ndarray, b: np.ndarray) -> Pair:
    """Return ΔW/scale of a pair as two float64 factors [in, rank] and [rank, out], with a leading axis for experts.

    A layer of experts has lora_a [experts, rank, in], its first two axes joined in some versions of mlx-lm, and lora_b
    [experts, out, rank].
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    if b.ndim == 2:
        return a, b
    return np.swapaxes(a.reshape(len(b), -1, a.shape[-1]), -1, -2), np.swapaxes(b, -1, -2)


def _stored(left: np.ndarray, right: np.ndarray, form: Pair) -> Pair:
    """Return factors as lora_a and lora_b, float32, with the axes of ``form``."""
    if left.ndim == 3:
        left, right = np.swapaxes(left, -1, -2), np.swapaxes(right, -1, -2)
        if form[0].ndim == 2:
            left = left.reshape(-1, left.shape[-1])
    return np.ascontiguousarray(left, np.float32), np.ascontiguousarray(right, np.float32)


def _keys(pairs: Mapping[tuple[str, str], Pair]) -> list[str]:
    """Return the paths within a layer of the modules that have a pair."""
    return sorted({match[3] for path, _ in pairs if (match := _LAYER.fullmatch(path))})


def _complete(pairs: dict[tuple[str, str], Pair], layers: int) -> None:
    """Add a pair that changes nothing where an adapter's config implies one that neither adapter has.

    The config names the modules once for all layers, and the two adapters may have different modules in different
    layers.
    """
    found = {
        (match[1], int(match[2]), match[3], suffix): (path, suffix)
        for path, suffix in pairs
        if (match := _LAYER.fullmatch(path))
    }
    depth = 1 + max((layer for _, layer, _, _ in found), default=-1)
    kinds = {(before, key, suffix): pairs[module] for (before, _, key, suffix), module in found.items()}
    for (before, key, suffix), (a, b) in kinds.items():
        for layer in range(max(0, depth - layers), depth):
            path = f"{before}{layer}.{key}"
            if (path, suffix) not in pairs:
                fan_in = a.shape[0 if b.ndim == 2 else -1]
                fresh = initial_a(0, f"{path}.lora_a{suffix}", a.shape, fan_in)
                pairs[path, suffix] = (fresh, np.zeros_like(b))


def _save(file: Path, pairs: Mapping[tuple[str, str], Pair]) -> None:
    from safetensors.numpy import save_file

    arrays = {}
    for (path, suffix), pair in pairs.items():
        for name, values in zip(("lora_a", "lora_b"), pair, strict=True):
            arrays[f"{path}.{name}{suffix}"] = values
    save_file(arrays, file, metadata={"format": "mlx"})
