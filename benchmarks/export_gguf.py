"""How long the converter takes beside numpy writing the same bytes, and how much memory: at Qwen2.5-0.5B's shape.

    python benchmarks/export_gguf.py [--type f16] [--adapter] [--folder DIR] [--rounds 3]

Weights are random bfloat16. Reported are the best of some rounds, and the most memory beyond what the process had
before the first tensor was written.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from mlx_lora.export.convert import plan, write_gguf
from mlx_lora.export.source import Source
from mlx_lora.export.tensors import make_header
from mlx_lora.export.vocabulary import Vocabulary
from mlx_lora.models.resolve import ResolvedModel

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY, RANK = 24, 896, 4864, 14, 2, 151936, 16
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
}


def shapes() -> dict[str, tuple[int, ...]]:
    key = HIDDEN // HEADS * KV_HEADS
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, rows in (("q_proj", HIDDEN), ("k_proj", key), ("v_proj", key)):
            found[f"{at}.self_attn.{name}.weight"] = (rows, HIDDEN)
            found[f"{at}.self_attn.{name}.bias"] = (rows,)
        found[f"{at}.self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        found[f"{at}.mlp.gate_proj.weight"] = found[f"{at}.mlp.up_proj.weight"] = (INNER, HIDDEN)
        found[f"{at}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        found[f"{at}.input_layernorm.weight"] = found[f"{at}.post_attention_layernorm.weight"] = (HIDDEN,)
    return found


def make_base(directory: Path) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    generator = np.random.default_rng(0)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(make_header({name: ("BF16", shape) for name, shape in shapes().items()}, "pt"))
        for shape in shapes().values():
            numbers = generator.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
            (numbers.view(np.uint32) >> 16).astype(np.uint16).tofile(file)


def make_adapter(directory: Path) -> None:
    """Rank 16 on all seven projections."""
    directory.mkdir()
    generator = np.random.default_rng(1)
    found = {}
    for name, shape in shapes().items():
        if "_proj.weight" in name:
            module = name.removesuffix(".weight")
            found[f"{module}.lora_a"], found[f"{module}.lora_b"] = (shape[1], RANK), (RANK, shape[0])
    with open(directory / "adapters.safetensors", "wb") as file:
        file.write(make_header({name: ("F32", shape) for name, shape in found.items()}, "pt"))
        for shape in found.values():
            (generator.standard_normal(shape, dtype=np.float32) * np.float32(0.01)).tofile(file)


def memory() -> int:
    """Bytes of this process's own: not the pages of files that it reads."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


class Watch:
    """The most memory while the block runs, looked at each millisecond."""

    def __enter__(self) -> Watch:
        self.before = self.most = memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.001):
            self.most = max(self.most, memory())

    def __exit__(self, *arguments: object) -> None:
        self._over.set()
        self._thread.join()


def synced(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def numpy_seconds(file: Path, sizes: list[int]) -> float:
    """Writing arrays of these sizes that are in memory already, and syncing them."""
    largest = np.random.default_rng(2).integers(0, 255, max(sizes), dtype=np.uint8)
    file.unlink(missing_ok=True)
    started = time.perf_counter()
    with open(file, "wb") as opened:
        for size in sizes:
            largest[:size].tofile(opened)
    synced(file)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--type", default="f16")
    parser.add_argument("--adapter", action="store_true", help="with an adapter of rank 16 on all seven projections")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        base, adapter, out = Path(folder) / "base", Path(folder) / "adapter", Path(folder) / "out.gguf"
        make_base(base)
        make_adapter(adapter)
        source = Source(
            "benchmark",
            ResolvedModel("benchmark", base, None, {}),
            CONFIG,
            adapter if options.adapter else None,
            {"lora_parameters": {"scale": 2.0}},
            {},
        )
        tokens = {i: f"token{i}" for i in range(VOCABULARY)}
        vocabulary = Vocabulary("qwen2", VOCABULARY, tokens, dict.fromkeys(tokens, 1), [], {}, False, False, None)
        taken, plain, most = [], [], 0
        for _ in range(options.rounds):
            planned = plan(source, options.type)
            out.unlink(missing_ok=True)
            started = time.perf_counter()
            with Watch() as watch:
                write_gguf(planned, vocabulary, out)
                synced(out)
            taken.append(time.perf_counter() - started)
            most = max(most, watch.most - watch.before)
            sizes = [planned.shape(weight) for _, _, weight in planned.tensors]
            scale = planned.weight_bytes / sum(int(np.prod(shape)) for shape in sizes)
            plain.append(numpy_seconds(out, [int(np.prod(shape) * scale) for shape in sizes]))
        largest = VOCABULARY * HIDDEN * {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}[options.type]
        print(f"{planned.weight_bytes / 1e9:.2f} GB of {options.type}, adapter: {options.adapter}")
        print(f"converter {min(taken):.2f} s, numpy {min(plain):.2f} s: {min(taken) / min(plain):.2f} times as long")
        print(f"memory {most / 1e6:.0f} MB, {most / largest:.2f} times the largest tensor ({largest / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
