"""Seven simulated nights beside plain sequential training and joint training, in one run.

    python benchmarks/nights.py [--kinds eisv,salience,traces] [--seeds 1] [--out benchmarks/nights]

Every night brings what no night before had (new shapes of trajectories, new topics of an agent's experiences, new
steps of a workflow): the hardest order. Measured after each night, on the held-out rows of every night, greedy:

R      matrix of mean scores: row i after night i, column j on night j's held-out rows
BWT    backward transfer: mean over nights j < 7 of R[7][j] − R[j][j]
final  mean of the last row; `of joint` is its share of joint training's score

Trajectories are learned on the built-in base, which knows Lumen's language, but not which words go with which
trajectory. For the other two kinds a base in the same state is made first: of the same size, with fresh weights and
words of its own, trained on all nights' prompts with the answers of other topics (night_bases.py).

`sleep` is `mlx-lora sleep run` as it is, judging, promotion and all; `sequential` trains the same rows for the same
steps, each night from the adapter of the night before, with nothing of earlier nights; `joint` trains on the rows of
all nights together, for the steps of all nights together.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import mlx_lora.backends.mlx  # noqa: F401  first: it loads a fast BLAS before MLX

# isort: split
from night_bases import make_base
from night_stores import SIZES, make_stores

from mlx_lora.data.dataset import read_split
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.runs.generations import Generations
from mlx_lora.sleep.checks import main_metric, row_checks
from mlx_lora.sleep.config import SleepConfig, sleep_config
from mlx_lora.sleep.context import Surroundings
from mlx_lora.sleep.cycle import run_cycle
from mlx_lora.sleep.demo import TRAIN
from mlx_lora.sleep.record import read_cycles
from mlx_lora.sleep.stores.reading import gather
from mlx_lora.training.train import train

NIGHTS = len(SIZES)
BASE = "builtin/tiny-lumen"
# Steps of a night; code is longer.
STEPS = {"eisv": 40, "salience": 120, "traces": 120}
Matrix = list[list[float]]


def config_of(out: Path, stores: list[dict[str, Any]], seed: int, steps: int, base: str) -> SleepConfig:
    """Return the config of a night with these stores."""
    training = {**TRAIN, "max_steps": steps, "num_epochs": 1000, "eval_steps": steps, "seed": seed}
    return sleep_config(
        {
            "name": str(out / "adapter"),
            "model_name": base,
            "stores": stores,
            "min_hours": 0,
            "held_out": 0.2,
            "keep": 99,
            "guards": {"min_battery": 0, "min_disk_gb": 0.1, "min_memory_gb": 0.2},
            "pattern_share": 1.0,
            "train": training,
        },
        "the benchmark",
    )


class Scorer:
    """Scores of a target on the held-out rows of each night."""

    def __init__(self, config: SleepConfig, nights: list[Path]) -> None:
        self.checks = row_checks(config.stores)
        self.rows = [read_split(data, "valid") for data in nights]

    def __call__(self, target: str) -> tuple[list[float], int]:
        """Return the mean score of each night, and the number of distinct words in all answers."""
        loaded, scores, words = load_target(target), [], set()
        for rows in self.rows:
            texts: list[str] = []
            for start in range(0, len(rows), loaded.group):
                group = rows[start : start + loaded.group]
                replies = loaded.answer(
                    [row.messages[:-1] for row in group], [""] * len(group), Generation(max_tokens=96)
                )
                texts += [reply.text or "" for reply in replies]
            found = [self.checks[row.meta["sleep_store"]](row, text) for row, text in zip(rows, texts, strict=True)]
            scores.append(mean(main_metric(score) for score in found))
            words |= {word for text in texts for word in re.findall(r"[\w']+", text.lower())}
        del loaded
        gc.collect()
        return scores, len(words)


def summary(matrix: Matrix, words: list[int], seconds: float) -> dict[str, Any]:
    """Return what is kept of a way of training."""
    last = matrix[-1]
    backward = mean(last[j] - matrix[j][j] for j in range(len(matrix) - 1)) if len(matrix) > 1 else None
    return {
        "R": [[round(value, 3) for value in row] for row in matrix],
        "final": round(mean(last), 4),
        "learned": round(mean(matrix[i][i] for i in range(len(matrix))), 4) if len(matrix) > 1 else None,
        "backward_transfer": None if backward is None else round(backward, 4),
        "words_in_use": words,
        "seconds": round(seconds),
    }


def sleeping(
    out: Path, stores: list[dict[str, Any]], seed: int, steps: int, base: str, told: Callable[[str], None]
) -> tuple[list[Path], list[dict[str, Any]], float]:
    """Run the nights; return the dataset of each, its outcome, and the seconds."""
    around = Surroundings(lambda description, total: nullcontext(lambda done: None), quiet=True)
    outcomes, started = [], time.perf_counter()
    for number in range(1, NIGHTS + 1):
        outcome = run_cycle(config_of(out, stores[:number], seed, steps, base), around)
        outcomes.append({key: outcome.summary[key] for key in ("decision", "reason", "generation", "new", "replayed")})
        told(f"  night {number}: {outcome.summary['decision']}, {outcome.summary['reason'][:150]}")
    cycles = read_cycles(out / "adapter")
    return [cycle.directory / "data" for cycle in cycles], outcomes, time.perf_counter() - started


def one_kind(kind: str, seed: int, steps: int, out: Path, told: Callable[[str], None]) -> dict[str, Any]:
    """Run the three ways on one kind of store."""
    stores = make_stores(kind, out / "stores", seed)
    base = BASE
    if kind != "eisv":
        rows = gather(config_of(out, stores, seed, 1, BASE).stores, out / "rows").rows
        base = make_base(out, BASE, [row.example for row in rows], seed)
    nights, outcomes, seconds = sleeping(out, stores, seed, steps, base, told)
    if len(nights) != NIGHTS:
        raise SystemExit(f"{kind}: {len(nights)} of {NIGHTS} nights ran: {[o['reason'] for o in outcomes]}")
    config = config_of(out, stores, seed, steps, base)
    score = Scorer(config, nights)
    generations = Generations(out / "adapter")
    before = score(base)[0]
    live, number = [], None
    for outcome in outcomes:
        number = outcome["generation"] if outcome["decision"] == "promoted" else number
        live.append(score(base if number is None else str(generations.path(number))))
    result = {"sleep": summary([row for row, _ in live], [words for _, words in live], seconds), "nights": outcomes}
    told(f"  sleep       {result['sleep']}")
    matrix, words, begin, started = [], [], None, time.perf_counter()
    for number, data in enumerate(nights, 1):
        place = out / "sequential" / str(number)
        train(replace(config.training(), data=str(data), output_dir=str(place), init_adapter=begin), quiet=True)
        begin = str(place)
        row, used = score(begin)
        matrix.append(row)
        words.append(used)
    result["sequential"] = summary(matrix, words, time.perf_counter() - started)
    told(f"  sequential  {result['sequential']}")
    started = time.perf_counter()
    together: Any = [{"path": str(data), "weight": float(len(read_split(data, "train")))} for data in nights]
    settings = replace(config.training(), data=together, output_dir=str(out / "joint"), max_steps=steps * NIGHTS)
    train(settings, quiet=True)
    row, used = score(str(out / "joint"))
    result["joint"] = summary([row], [used], time.perf_counter() - started)
    told(f"  joint       {result['joint']}")
    own = result["sleep"]
    result["reached"] = {
        "of_joint": round(own["final"] / max(result["joint"]["final"], 1e-9), 4),
        "backward_transfer": own["backward_transfer"],
        "words_not_fewer": own["words_in_use"][-1] >= own["words_in_use"][0],
        "base": round(mean(before), 4),
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="eisv,salience,traces")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "steps": STEPS,
        "kinds": {},
    }
    for kind in options.kinds.split(","):
        for seed in range(options.seeds):
            print(f"{kind}, seed {seed}", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                found = one_kind(kind, seed, STEPS[kind], Path(folder), lambda line: print(line, flush=True))
            results["kinds"].setdefault(kind, {})[str(seed)] = found
            print(f"  reached     {found['reached']}", flush=True)
            if options.out is not None:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
