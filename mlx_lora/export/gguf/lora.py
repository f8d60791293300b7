"""GGUF LoRA adapter for llama.cpp's ``--lora``: tensors ``<base tensor>.lora_a`` and ``.lora_b``.

llama.cpp adds (alpha / rank) · B · A, with A [rank, in] and B [out, rank]: both of MLX's matrices transposed. If the
architecture's GGUF permutes the rows of a weight (llama's q and k), B's rows are permuted as well.
Without ``adapter.lora.alpha`` the scale would be 1, and an adapter of another architecture crashes llama.cpp: both
are checked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, first_line, guarded
from ..adapter import Adapter, counted, read_adapter
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
from .architectures import Architecture, find_architecture, gguf_name, heads_of, permute_rows, unpermute_rows
from .header import read_gguf_header

MISSING = "the package gguf is missing; install it with `pip install 'mlx-lora[gguf]'`"


@dataclass
class GGUFLora:
    """LoRA in GGUF: ``tensors`` float32 by name, ``<base tensor>.lora_a`` [rank, in] and ``.lora_b`` [out, rank]."""

    architecture: str
    alpha: float
    tensors: dict[str, np.ndarray]


def export_gguf_lora(run: str | Path, out: str | Path, base: str | Path | None = None) -> ExportReport:
    """Write a run's adapter as a GGUF LoRA, read it back and compare.

    Args:
        base: the GGUF it will be used with; its architecture and shapes are checked before anything is written.

    Raises:
        UserError: see ``read_adapter``, ``reference_of`` and ``find_architecture``; DoRA; a base of another kind; or
            ``out`` exists already.
    """
    out = Path(out)
    refuse_existing(out)
    adapter = read_adapter(run, "a GGUF adapter")
    if adapter.kind == "dora":
        raise UserError(
            f"{run}: DoRA's magnitudes cannot be held by a GGUF adapter; use `mlx-lora export gguf` instead"
        )
    config = adapter.source.config
    architecture = find_architecture(config, adapter.source.model.name)
    with guarded(f"{run}: its adapter and its model's config.json do not fit together", "; download the model again"):
        lora = to_gguf(adapter, architecture, config)
    if base is not None:
        check_base(lora, Path(base), str(run))
    reference_of(adapter.source)
    check_space(out, sum(values.nbytes for values in lora.tensors.values()))
    with new_file(out) as temporary:
        write_gguf_lora(temporary, lora)
        return publish_or_reject(temporary, out, _compared(adapter, architecture, config, temporary))


def _names(adapter: Adapter, architecture: Architecture, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return (module's path, GGUF's name of its weight) of each adapted module."""
    for path in adapter.pairs:
        yield path, gguf_name(architecture, config["num_hidden_layers"], f"{path}.weight")


def to_gguf(adapter: Adapter, architecture: Architecture, config: dict[str, Any]) -> GGUFLora:
    """Convert the adapter to GGUF's names, layout and row order."""
    import mlx.core as mx

    tensors = {}
    for path, name in _names(adapter, architecture, config):
        pair = adapter.pairs[path]
        a, b = (np.ascontiguousarray(np.array(value.astype(mx.float32)).T) for value in (pair.a, pair.b))
        heads = heads_of(architecture, config, path)
        tensors[f"{name}.lora_a"] = a
        tensors[f"{name}.lora_b"] = b if heads is None else permute_rows(b, heads)
    return GGUFLora(architecture.name, adapter.alpha, tensors)


def write_gguf_lora(file: Path, lora: GGUFLora) -> None:
    """Write a GGUF LoRA file.

    Raises:
        UserError: the package gguf is missing.
    """
    gguf = gguf_package()
    writer = gguf.GGUFWriter(file, lora.architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.alpha)
        for name, values in lora.tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read_gguf_lora(file: Path) -> GGUFLora:
    """Read a GGUF LoRA.

    Raises:
        UserError: it is not a GGUF file, or not a LoRA.
    """
    reader = _reader(file)
    texts = {key: _field(reader, key) for key in ("general.type", "general.architecture", "adapter.type")}
    if (texts["general.type"], texts["adapter.type"]) != ("adapter", "lora"):
        raise UserError(f"{file}: this GGUF file is no LoRA adapter (its general.type is {texts['general.type']})")
    alpha = _field(reader, "adapter.lora.alpha")
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    return GGUFLora(str(texts["general.architecture"]), 0.0 if alpha is None else float(alpha), tensors)


def check_base(lora: GGUFLora, base: Path, name: str) -> None:
    """Raise UserError if a base GGUF has another architecture than the adapter, or other shapes."""
    reader = _reader(base)
    architecture = _field(reader, "general.architecture")
    if architecture != lora.architecture:
        raise UserError(
            f"{base}: this is a {architecture} model and {name} adapts a {lora.architecture}; "
            "together they would crash llama.cpp"
        )
    # GGUF lists dimensions from the innermost: [in, out].
    shapes = {tensor.name: tuple(int(n) for n in tensor.shape) for tensor in reader.tensors}
    for key in lora.tensors:
        tensor, _, part = key.rpartition(".")
        if part == "lora_b":
            wanted = (lora.tensors[f"{tensor}.lora_a"].shape[1], lora.tensors[key].shape[0])
            if shapes.get(tensor) != wanted:
                raise UserError(
                    f"{base}: its {tensor} is {shapes.get(tensor, 'missing')} and {name} needs {wanted}, "
                    "so this is another model than the run's base"
                )


def _compared(adapter: Adapter, architecture: Architecture, config: dict[str, Any], file: Path) -> list[ExportCheck]:
    """Read the file back with gguf, convert it to MLX's layout, and compare it with the adapter."""
    try:
        again = read_gguf_lora(file)
    except UserError as error:
        return [ExportCheck("read back", str(error), "it can be", False)]
    scale = float(np.float32(again.alpha)) / adapter.rank
    return [
        equal("architecture", again.architecture, architecture.name),
        equal("tensors", len(again.tensors), 2 * len(adapter.pairs)),
        # Alpha is a float32 in GGUF.
        at_most("relative difference of the scales", abs(scale / adapter.scale - 1), 1e-7),
        equal("matrices that differ", _differing(adapter, architecture, config, again), 0),
        *counted(adapter, sum(values.size for values in again.tensors.values())),
    ]


def _differing(adapter: Adapter, architecture: Architecture, config: dict[str, Any], again: GGUFLora) -> int:
    import mlx.core as mx

    different = 0
    for path, name in _names(adapter, architecture, config):
        heads = heads_of(architecture, config, path)
        a, b = again.tensors.get(f"{name}.lora_a"), again.tensors.get(f"{name}.lora_b")
        if b is not None and heads is not None:
            b = unpermute_rows(b, heads)
        for mine, theirs in ((adapter.pairs[path].a, a), (adapter.pairs[path].b, b)):
            different += theirs is None or not np.array_equal(np.array(mine.astype(mx.float32)).T, theirs)
    return different


def gguf_package() -> Any:
    """Import the package gguf.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError(MISSING) from error
    return gguf


def _reader(file: Path) -> Any:
    try:
        # The package would trust lengths beyond the end of the file.
        read_gguf_header(file)
        return gguf_package().GGUFReader(file)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{file}: this is no GGUF file, or a broken one ({first_line(error)})") from error


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
