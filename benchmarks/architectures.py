"""A matrix over mlx-lm's architectures: which train with default settings, on which path, and with which losses.

    python benchmarks/architectures.py [--configs FILE] [--only NAME ...] [--out benchmarks/architectures]

Each configuration becomes a tiny model with random weights in a directory, which `mlx_lora.training.train` trains for
two steps with the default config but for dropout. The same two steps are made by mlx-lm: its model, its LoRA layers,
its `default_loss`, on the same rows from the same first values. Each runs in a process of its own, bounded in memory
and time. Configurations are read from a JSON file of {name: config}, by default the real data's (tests/conftest.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPO = Path(__file__).parent.parent
CONFIGS = Path(os.environ.get("MLX_LORA_REALDATA", REPO.parent / "shared" / "realdata")) / "architectures.json"
STEPS, MEMORY, SECONDS = 2, 8 << 30, 600
EQUAL = 1e-4
# The same architecture with its weights named as on the hub: a row, but not counted.
NOT_COUNTED = "(HF names)"

# Further columns: a function of (model directory, run directory) that returns the text of a cell. What it raises is
# written there in its place.
COLUMNS: dict[str, Callable[[Path, Path], str]] = {}


def make_model(config: dict[str, Any], directory: Path) -> Path:
    """Write a model with random weights and the built-in base's tokenizer."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    tiny = REPO / "mlx_lora" / "models" / "tiny_lumen"
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, directory / name)
    (directory / "config.json").write_text(json.dumps({"eos_token_id": 1022, **config}))
    model_class, arguments = _get_classes(config)
    mx.random.seed(7)
    parameters = tree_flatten(model_class(arguments.from_dict(config)).parameters())
    # Zeros and ones of a fresh model would hide what is left out.
    moved = {
        n: p + 0.05 * mx.random.normal(p.shape) if p.dtype == mx.float32 and p.ndim > 1 else p for n, p in parameters
    }
    mx.save_safetensors(str(directory / "model.safetensors"), moved)
    return directory


def mlx_lm_losses(model_directory: Path, run: Path, ready: Any) -> Iterator[float]:
    """Yield the losses of the run's steps as mlx-lm computes them, updating its own LoRA layers in between."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten, tree_map, tree_unflatten
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    from mlx_lora.backends.adapter_format import initial_a
    from mlx_lora.training.schedule import learning_rate
    from mlx_lora.training.trainer import training_steps

    config = ready.config
    adapter = json.loads((run / "adapter_config.json").read_text())
    model, _ = load_model(model_directory)
    model.freeze()
    linear_to_lora_layers(model, adapter["num_layers"], adapter["lora_parameters"])
    drawn = [
        (name, mx.array(initial_a(config.seed, name, value.shape, value.shape[0 if value.ndim == 2 else -1])))
        for name, value in tree_flatten(model.trainable_parameters())
        if "lora_a" in name
    ]
    model.update(tree_unflatten(drawn))
    model.train()
    optimizer = optim.AdamW(learning_rate=0.0, weight_decay=config.weight_decay, bias_correction=True)
    steps = training_steps(config, ready.train)
    for step in range(1, STEPS + 1):
        rows = [ready.train[i] for batch in next(steps)[1] for i in batch]
        total, loss, tokens = None, 0.0, sum(int(row.supervised[1:].sum()) for row in rows)
        for row in rows:
            supervised = row.supervised[1:].nonzero()[0]
            # One span of target positions, from 1: these rows have one answer, and no padding.
            lengths = mx.array([[int(supervised[0]) + 1, int(supervised[-1]) + 1]])

            def row_sum(model: Any, row: Any = row, lengths: Any = lengths) -> Any:
                mean, count = default_loss(model, mx.array(row.ids[None]), lengths)
                return mean * count

            value, gradient = nn.value_and_grad(model, row_sum)(model)
            total = gradient if total is None else tree_map(mx.add, total, gradient)
            loss += float(value)
            mx.eval(total)
        yield loss / tokens
        optimizer.learning_rate = learning_rate(config, step, STEPS)
        optimizer.update(model, tree_map(lambda g, n=tokens: g / n, total))
        mx.eval(model.parameters(), optimizer.state)


def measure(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One row of the matrix; ``failed`` says why there is none."""
    from mlx_lora.config import TrainingConfig
    from mlx_lora.sources.eisv import make_eisv_dataset
    from mlx_lora.training.setup import prepare
    from mlx_lora.training.train import train

    model = make_model(config, folder / "model")
    data, run = folder / "data", folder / "run"
    make_eisv_dataset(data, min_per_shape=2)
    settings = TrainingConfig(
        model_name=str(model), data=str(data), output_dir=str(run), max_steps=STEPS, lora_dropout=0.0, log_steps=1,
        backend="mlx",
    )  # fmt: skip
    train(settings, quiet=True)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ours = [event["unweighted_loss"] for event in events if event["event"] == "progress"]
    ready = prepare(settings)
    theirs = list(mlx_lm_losses(model, run, ready))
    path = ready.backend.path
    row = {
        "ours": ours,
        "theirs": theirs,
        "difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "trunk": path.trunk,
        "plain": path.plain,
        "share_prefix": path.share_prefix,
        "narrow": path.narrow,
        "trained": next(event["trained_modules"] for event in events if event["event"] == "start"),
    }
    for name, column in COLUMNS.items():
        try:
            row[name] = column(model, run)
        except Exception as error:
            row[name] = f"failed: {error}"[:200]
    return row


def in_a_process(name: str, configs: Path) -> dict[str, Any]:
    """Measure one configuration in a process that is bounded in memory and time."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.nice(10)

    command = [sys.executable, __file__, "--configs", str(configs), "--one", name]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment, preexec_fn=bounded
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {SECONDS} s"}
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()
        return {"failed": f"exit status {done.returncode}: {said[-1] if said else ''}"[:300]}


def one(name: str, configs: Path) -> None:
    """The process's own part: a row as JSON on standard output."""
    import mlx_lora.backends.mlx  # noqa: F401  first: it loads a fast BLAS before MLX

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="mlx-lora-architectures-") as folder:
        try:
            row = measure(json.loads(configs.read_text())[name], Path(folder))
        except (Exception, SystemExit) as error:  # whatever a model raises is the row
            said = str(error).replace(folder, "").strip().splitlines() or [""]
            row = {"failed": f"{type(error).__name__}: {said[0]}"[:300]}
    print(json.dumps(row), file=answers, flush=True)


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Counts over the architectures."""
    counted = [row for name, row in rows.items() if NOT_COUNTED not in name]
    trained = [row for row in counted if "failed" not in row]
    return {
        "architectures": len(counted),
        "trained": len(trained),
        "losses equal": sum(row["difference"] <= EQUAL for row in trained),
        "plain": len(counted) - sum(not row["plain"] for row in trained),
        "shared prefix": sum(row["share_prefix"] for row in trained),
    }


def markdown(rows: dict[str, dict[str, Any]], record: dict[str, Any]) -> str:
    """The matrix for people."""
    counts = record["summary"]
    lines = [
        "# Architectures of mlx-lm",
        "",
        f"{record['machine']}; {record['date']}; mlx-lm {record['mlx_lm']}; written by benchmarks/architectures.py.",
        "",
        f"Of {counts['architectures']} architectures {counts['trained']} train with default settings, "
        f"{counts['losses equal']} with mlx-lm's losses (within {EQUAL:g} over {STEPS} steps); "
        f"{counts['shared prefix']} share a common prefix; {counts['plain']} take the plain path or do not train.",
        "",
        f"| architecture | trained | logits | prefix | loss difference |{''.join(f' {name} |' for name in COLUMNS)}",
        f"| --- | --- | --- | --- | --- |{' --- |' * len(COLUMNS)}",
    ]
    for name, row in rows.items():
        if "failed" in row:
            said = re.sub(r"[|\n]", " ", row["failed"])
            lines.append(f"| {name} | no: {said} | | | |{' |' * len(COLUMNS)}")
            continue
        logits = "all positions" if row["plain"] else "chosen, narrow" if row["narrow"] else "chosen"
        shared = "shared" if row["share_prefix"] else "in each row"
        more = "".join(f" {row.get(column, '')} |" for column in COLUMNS)
        lines.append(f"| {name} | {row['trained']} | {logits} | {shared} | {row['difference']:.1e} |{more}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, default=CONFIGS)
    parser.add_argument("--only", nargs="*", help="names of configurations; the results of others are kept")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "architectures")
    options = parser.parse_args()
    if options.one:
        one(options.one, options.configs)
        return
    from mlx_lora.doctor.machine import chip
    from mlx_lora.files import write_atomic, write_json

    names = list(json.loads(options.configs.read_text()))
    results = options.out / "results.json"
    rows = json.loads(results.read_text())["rows"] if options.only and results.exists() else {}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or names:
        rows[name] = in_a_process(name, options.configs)
        print(name, rows[name].get("failed") or f"{rows[name]['difference']:.1e}", flush=True)
        # After each row, so that what ends early leaves what it has.
        rows = {name: rows[name] for name in names if name in rows}
        record = {
            "machine": f"{chip()}, {os.cpu_count()} cores",
            "date": datetime.now(UTC).date().isoformat(),
            "mlx_lm": version("mlx-lm"),
            "summary": summary(rows),
            "rows": rows,
        }
        write_json(results, record)
        write_atomic(options.out / "results.md", markdown(rows, record))
    print(summary(rows))


if __name__ == "__main__":
    main()
