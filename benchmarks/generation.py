"""CPU time of answers on MLX: ours beside mlx-lm's `batch_generate`, and beside its `generate` one by one.

    python benchmarks/generation.py [--prompts 500] [--tokens 128] [--rounds 3] [--shape qwen2.5-0.5b] [--out DIR]

1. EISV: prompts of `eval`'s suite to the built-in base, greedy, at most --tokens each; ours in the groups of `eval`,
   mlx-lm's in one call. In turns, --rounds times; the ratio is the median over the rounds.
2. Decoding bound by memory: a model of --shape with random float32 weights; prompts of 120 common and 8 to 24 own
   random tokens, 48 tokens each, none of which ends an answer. Ours answers 32, mlx-lm's `generate` the first four of
   them, two before and two after; the ratio is that of the times per answer.

Both sides have answered prompts before the clock starts; ours then has no kept prefix. CPU seconds are those of all
threads.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import mlx_lora.backends.mlx  # noqa: F401  first: it loads a fast BLAS before MLX, for both sides

# isort: split
import mlx.core as mx
import mlx_lm
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import _get_classes
from record import record

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.backends.mlx.generation import Generation
from mlx_lora.bench.cases import shape_config
from mlx_lora.data.batch_encoding import common_prefix
from mlx_lora.data.chat_template import encode_prompt
from mlx_lora.evaluation.targets.opening import GROUP
from mlx_lora.models.resolve import resolve_model
from mlx_lora.sources.eisv import (
    SYSTEM_PROMPT,
    TrajectoryShape,
    compute_trajectory_window,
    format_summary,
    generate_trajectory,
    summarize_window,
)

COMMON, OWN, ALONE, ANSWER = 120, (8, 24), 4, 48
Answers = list[str]


class Timer:
    """CPU and wall seconds of calls."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def __call__(self, call: Callable[[], Answers]) -> Answers:
        """Add a call, and return its answers."""
        cpu, wall = time.process_time(), time.perf_counter()
        answers = call()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        return answers

    def result(self) -> dict[str, list[float]]:
        """Return the seconds of each call."""
        return {"cpu_seconds": [round(s, 2) for s in self.cpu], "seconds": [round(s, 2) for s in self.wall]}


class Numbers:
    """Tokenizer whose texts are token ids, none of which ends an answer."""

    eos_token_id = chat_template = bos_token = None

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{token} " for token in tokens)

    def encode(self, text: str, **options: Any) -> list[int]:
        return [0]

    def get_vocab(self) -> dict[str, int]:
        return {}

    def apply_chat_template(self, messages: list[dict[str, str]]) -> list[int]:
        raise NotImplementedError


def eisv_prompts(backend: MLXBackend, count: int) -> list[list[int]]:
    """Return the encoded prompts of synthetic trajectories, all shapes in turn."""
    prompts = []
    for seed, shape in enumerate(islice(cycle(TrajectoryShape), count)):
        window = compute_trajectory_window(generate_trajectory(shape.value, dt=2.0, seed=seed))
        text = format_summary(shape.value, summarize_window(window))
        messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}]
        prompts.append(encode_prompt(backend.tokenizer, messages))
    return prompts


def measure_eisv(count: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Measure ours beside `batch_generate` on EISV prompts."""
    backend = MLXBackend(resolve_model("builtin/tiny-lumen"), wide=True)
    prompts, greedy = eisv_prompts(backend, count), make_sampler(temp=0.0)
    tokenizer = TokenizerWrapper(backend.tokenizer)
    tokenizer.eos_token_ids = backend.base.ends

    def theirs(prompts: list[list[int]] = prompts) -> Answers:
        return mlx_lm.batch_generate(backend.model, tokenizer, prompts, max_tokens=tokens, sampler=greedy).texts

    def ours(prompts: list[list[int]] = prompts) -> Answers:
        groups = [prompts[start : start + GROUP] for start in range(0, len(prompts), GROUP)]
        return [answer for group in groups for answer in backend.generate(group, tokens, 0.0, 0)]

    ours(prompts[:GROUP]), theirs(prompts[:GROUP])
    timers = Timer(), Timer()
    for _ in range(rounds):
        backend._generation.forget()
        found = [timer(call) for timer, call in zip(timers, (ours, theirs), strict=True)]
    ratios = [b / a for a, b in zip(timers[0].cpu, timers[1].cpu, strict=True)]
    return {
        "prompts": count,
        "prompt_tokens": sum(map(len, prompts)),
        "common_tokens": len(common_prefix(prompts)),
        "answer_tokens": sum(len(backend.tokenizer.encode(text, add_special_tokens=False)) for text in found[0]),
        "ours": timers[0].result(),
        "batch_generate": timers[1].result(),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_rounds": [round(min(ratios), 2), round(max(ratios), 2)],
        "equal_answers": sum(a == b for a, b in zip(*found, strict=True)),
    }


def measure_one_by_one(shape: str, hidden: int | None) -> dict[str, Any]:
    """Measure ours beside `generate` one by one, at a shape whose decoding is bound by memory."""
    config = shape_config(shape, hidden=hidden)
    model_class, arguments = _get_classes(config)
    mx.random.seed(0)
    model = model_class(arguments.from_dict(config))
    mx.eval(model.parameters())
    model.eval()
    rng, vocabulary = random.Random(0), config["vocab_size"]
    common = [rng.randrange(vocabulary) for _ in range(COMMON)]
    prompts = [common + [rng.randrange(vocabulary) for _ in range(rng.randint(*OWN))] for _ in range(GROUP)]
    tokenizer, greedy = TokenizerWrapper(Numbers()), make_sampler(temp=0.0)
    generation = Generation(model, vocabulary)

    def alone(prompt: list[int]) -> Answers:
        return [mlx_lm.generate(model, tokenizer, prompt, max_tokens=ANSWER, sampler=greedy)]

    generation.answer(tokenizer, [[1, 2], [2, 1]], 1, 0.0, 0)
    mlx_lm.generate(model, tokenizer, [1, 2], max_tokens=1, sampler=greedy)
    ours, theirs = Timer(), Timer()
    before = [theirs(lambda p=p: alone(p))[0] for p in prompts[: ALONE // 2]]
    together = ours(lambda: generation.answer(tokenizer, prompts, ANSWER, 0.0, 0))
    after = [theirs(lambda p=p: alone(p))[0] for p in prompts[ALONE // 2 : ALONE]]

    def ratio(ours: list[float], theirs: list[float]) -> float:
        return round(statistics.mean(theirs) * GROUP / ours[0], 2)

    return {
        "shape": shape,
        "hidden": config["hidden_size"],
        "prompts": GROUP,
        "common_tokens": COMMON,
        "answer_tokens": ANSWER,
        "ours": ours.result(),
        "generate": theirs.result(),
        "ratio": ratio(ours.cpu, theirs.cpu),
        "ratio_of_wall_time": ratio(ours.wall, theirs.wall),
        "compared_answers": ALONE,
        "equal_answers": sum(a == b for a, b in zip(together, before + after, strict=False)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", default="qwen2.5-0.5b")
    parser.add_argument("--hidden", type=int, help="a smaller model of the same proportions")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    record(
        given.out,
        device=mx.default_device().type.name,
        mlx_lm=mlx_lm.__version__,
        eisv=measure_eisv(given.prompts, given.tokens, given.rounds),
        one_by_one=measure_one_by_one(given.shape, given.hidden),
    )


if __name__ == "__main__":
    main()
