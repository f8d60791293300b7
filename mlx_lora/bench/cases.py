"""Benchmark cases: model shapes, synthetic datasets, the standard comparisons, and the task of each side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.tokenize import EncodedExample
from ..errors import UserError

# Warm-up steps (compilation, caches), excluded on both sides.
WARM_UP = 2
# hidden, intermediate, layers, heads, KV heads, head dimension, vocabulary, tied: from the models' config.json.
SHAPES: dict[str, tuple[str, int, int, int, int, int, int, int, bool]] = {
    "llama-3.2-1b": ("llama", 2048, 8192, 16, 32, 8, 64, 128256, True),
    "llama-3.2-3b": ("llama", 3072, 8192, 28, 24, 8, 128, 128256, True),
    "llama-3.1-8b": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, False),
    "qwen2.5-0.5b": ("qwen2", 896, 4864, 24, 14, 2, 64, 151936, True),
    "qwen2.5-7b": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False),
    "qwen2.5-coder-7b": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False),
    "qwen3-0.6b": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True),
    "small-8k": ("llama", 256, 1024, 6, 4, 2, 64, 8192, True),
    "small-32k": ("llama", 256, 1024, 6, 4, 2, 64, 32000, True),
}


def body_parameters(config: dict[str, Any]) -> int:
    """Return the number of weights in the matrices of all layers, the body of the model."""
    hidden, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    attention = hidden * config["head_dim"] * (2 * heads + 2 * kv)
    return config["num_hidden_layers"] * (attention + 3 * hidden * config["intermediate_size"])


def shape_config(name: str, layers: int | None = None, hidden: int | None = None) -> dict[str, Any]:
    """Return the model config of a shape.

    Args:
        layers: reduced number of layers; without ``hidden`` the rest is unchanged.
        hidden: hidden size of a smaller model of the same proportions, including the ratio of head to body.

    Raises:
        UserError: the shape is unknown; the message lists the known ones.
    """
    if name not in SHAPES:
        raise UserError(f"--shape {name}: there is no such shape; use one of {', '.join(SHAPES)}")
    model_type, size, intermediate, depth, heads, kv, head_dim, vocabulary, tied = SHAPES[name]
    config = {
        "model_type": model_type,
        "hidden_size": size,
        "intermediate_size": intermediate,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
    }
    if hidden is not None:
        ratio = vocabulary * size / body_parameters(config)
        factor = hidden / size
        kv_heads = max(1, round(kv * factor))
        config |= {
            "hidden_size": hidden,
            "intermediate_size": round(intermediate * factor),
            "num_hidden_layers": layers or depth,
            "num_attention_heads": kv_heads * (heads // kv),
            "num_key_value_heads": kv_heads,
            "head_dim": max(16, hidden // (kv_heads * (heads // kv)) // 8 * 8),
        }
        config["vocab_size"] = max(1024, round(ratio * body_parameters(config) / hidden))
    elif layers is not None:
        config["num_hidden_layers"] = layers
    return config


@dataclass
class Row:
    """Prompt and one answer; the answer is supervised."""

    ids: np.ndarray
    prompt: int
    weight: float = 1.0

    def encoded(self) -> EncodedExample:
        """Return the row as an encoded example."""
        supervised = np.arange(len(self.ids)) >= self.prompt
        return EncodedExample(self.ids.astype(np.int32), supervised, self.weight)


def _drawn(
    lengths: Callable[[np.random.Generator], tuple[int, int, int]], weighted: bool = False
) -> Callable[[int, int, np.random.Generator], list[Row]]:
    """Return a maker of rows with Zipf-like token frequencies; ``lengths`` gives (common, own prompt, answer)."""

    def make(count: int, vocabulary: int, rng: np.random.Generator) -> list[Row]:
        def tokens(length: int) -> np.ndarray:
            return (vocabulary ** rng.uniform(0, 1, length)).astype(np.int64)

        shared = tokens(4096)
        rows = []
        for _ in range(count):
            common, own, answer = lengths(rng)
            ids = np.r_[shared[:common], tokens(own + answer)]
            rows.append(Row(ids, common + own, float(rng.uniform(0.5, 1.5)) if weighted else 1.0))
        return rows

    return make


def _eisv(rng: np.random.Generator) -> tuple[int, int, int]:
    # Lengths with Llama 3's tokenizer and template, measured on 180 examples of `mlx-lora data eisv`.
    return 80, int(rng.integers(119, 128)), int(rng.integers(22, 36))


def _salience(rng: np.random.Generator) -> tuple[int, int, int]:
    # Lengths of real buffers: 94 to 565 tokens, a short question under a system prompt, and a long answer.
    total, own = int(np.clip(rng.lognormal(5.3, 0.45), 94, 565)), int(rng.integers(8, 20))
    return 70, own, total - 70 - own


def _unique(rng: np.random.Generator) -> tuple[int, int, int]:
    total = int(rng.integers(60, 400))
    return 0, total - round(0.3 * total), round(0.3 * total)


DATASETS: dict[str, Callable[[int, int, np.random.Generator], list[Row]]] = {
    "eisv": _drawn(_eisv),
    "eisv-like": _drawn(lambda rng: (80, 90, 30)),
    "salience": _drawn(_salience, weighted=True),
    "unique": _drawn(_unique),
    "worst": _drawn(lambda rng: (0, 1, 191)),
    "traces": _drawn(lambda rng: (400, int(rng.integers(400, 1200)), int(rng.integers(100, 400)))),
    "long": _drawn(lambda rng: (1024, int(rng.integers(900, 960)), int(rng.integers(32, 64)))),
}


def make_rows(data: str, count: int, vocabulary: int, seed: int) -> list[Row]:
    """Return the rows of a dataset; the same seed gives the same rows.

    Raises:
        UserError: the dataset is unknown; the message lists the known ones.
    """
    if data not in DATASETS:
        raise UserError(f"--data {data}: there is no such dataset; use one of {', '.join(DATASETS)}")
    return DATASETS[data](count, vocabulary, np.random.default_rng(seed))


@dataclass
class Spec:
    """Task of one side.

    Attributes:
        side: ``ours`` or ``theirs``.
        config: a model's config.json.
        steps: optimizer steps of ``batch_size`` rows each; with ``packing``, as many as the same rows fill.
        rows: number of rows drawn from ``data``.
        packing: the baseline packs several rows into one (torch).
        dtype: dtype of the base's weights; ``None`` is float32 on the CPU and bfloat16 on CUDA (torch).
        in_our_order: the baseline takes the rows in our order, instead of its own shuffle (torch).
        own_warm_up: the first steps take the first rows, and the steps after them the others, on both sides; otherwise
            each side takes all rows in its own order.
        by_length: the baseline's batches are bucketed by length.
    """

    side: str
    data: str
    config: dict[str, Any]
    batch_size: int
    steps: int
    rows: int
    seed: int
    grad_checkpoint: bool = False
    packing: bool = False
    dtype: str | None = None
    in_our_order: bool = False
    own_warm_up: int = 0
    by_length: bool = False

    def parts(self, rows: list[Row]) -> list[tuple[list[Row], int]]:
        """Return the warm-up rows and the timed rows, each with the number of steps."""
        warm = self.own_warm_up
        parts = [(rows[: warm * self.batch_size], warm), (rows[warm * self.batch_size :], self.steps - warm)]
        return [part for part in parts if part[1]]


@dataclass(frozen=True)
class Case:
    """Benchmark case; ``packing`` and ``dtype`` apply to torch, ``by_length`` to the baseline, as in ``Spec``."""

    data: str
    shape: str
    batch_size: int
    layers: int | None = None
    hidden: int | None = None
    grad_checkpoint: bool = False
    backend: str = "mlx"
    packing: bool = False
    dtype: str | None = None
    by_length: bool = False

    def spec(self, side: str, steps: int, seed: int) -> Spec:
        """Return a side's task."""
        return Spec(
            side=side,
            data=self.data,
            config=shape_config(self.shape, self.layers, self.hidden),
            batch_size=self.batch_size,
            steps=steps,
            rows=steps * self.batch_size,
            seed=seed,
            grad_checkpoint=self.grad_checkpoint,
            # Our side is the same whether the baseline packs or not.
            packing=self.packing and side == "theirs",
            dtype=self.dtype,
            # TRL shuffles all rows: the first steps of each side are excluded, whichever rows they hold.
            own_warm_up=WARM_UP if self.backend == "mlx" else 0,
            by_length=self.by_length and side == "theirs",
        )


# Standard cases, by which the project is measured; scaled down to a machine with two cores.
STANDARD = {
    "mlx": [
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256),
        Case("eisv-like", "small-8k", 8),
        Case("eisv-like", "small-8k", 8, grad_checkpoint=True),
        Case("eisv-like", "small-32k", 8),
        Case("salience", "qwen2.5-0.5b", 8, layers=6, hidden=224),
        Case("unique", "llama-3.2-1b", 8, layers=4, hidden=256),
        Case("unique", "llama-3.2-1b", 8, layers=4, hidden=256, by_length=True),
        Case("worst", "llama-3.2-1b", 8, layers=4, hidden=256),
        Case("traces", "llama-3.2-1b", 8, layers=4, hidden=256),
        Case("long", "llama-3.2-1b", 4, layers=4, hidden=256),
    ],
    "torch": [
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256, backend="torch"),
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256, backend="torch", packing=True),
        Case("salience", "qwen2.5-0.5b", 8, layers=6, hidden=224, backend="torch"),
        Case("worst", "llama-3.2-1b", 8, layers=4, hidden=256, backend="torch"),
    ],
}
