"""Directories as trainings, nights and evaluations leave them, for the page: written event files, true generations."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

from mlx_lora.models.resolve import BUILT_IN, resolve_model
from mlx_lora.runs.events import (
    Checkpoint,
    Evaluation,
    Event,
    Progress,
    Start,
    TrainingResult,
    TrainingWarning,
)
from mlx_lora.runs.generations import Generations
from mlx_lora.runs.samples import write_samples

sys.path.append(str(Path(__file__).parent.parent / "sleep"))
from night_fixtures import promoted, record

BASE = next(iter(BUILT_IN))
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
CONFIG = {"model_name": BASE, "lora_rank": 16, "learning_rate": 2e-4, "batch_size": 8, "num_epochs": 3}


def write_events(file: Path, events: list[Event], start: float = 1.7e9) -> None:
    """All lines of a ``metrics.jsonl`` at once: opened for each event, 10,000 take a while."""
    rows = [{"event": event.event, **vars(event), "time": start + n} for n, event in enumerate(events)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def progress(step: int, **changes) -> Progress:
    loss = 0.35 + 2.4 * math.exp(-step / 120) + 0.06 * math.sin(step * 1.7)
    shown = {
        "step": step,
        "epoch": 1 + step // 200,
        "learning_rate": 2e-4 * max(0.0, 1 - step / 700),
        "loss": loss,
        "unweighted_loss": loss,
        "grad_norm": 0.8 + 0.5 * abs(math.sin(step)),
        "peak_memory_gb": 1.42,
        "tokens_per_second": 8200.0 + 90 * math.sin(step),
        "supervised_tokens_per_second": 3100.0,
    }
    return Progress(**{**shown, **changes})


def write_run(run: Path, steps: int = 400, done: int | None = None, every: int = 5, **record_changes) -> Path:
    """A run with curves; ``done`` steps of it, by default all."""
    done = steps if done is None else done
    run.mkdir(parents=True)
    events: list[Event] = [
        Start(step=0, model=BASE, trainable_parameters=73728, train_examples=960, valid_examples=120, total_steps=steps)
    ]
    for step in range(every, done + 1, every):
        events.append(progress(step))
        if step % (every * 10) == 0:
            events.append(Evaluation(step=step, epoch=1, validation_loss=0.5 + 2.2 * math.exp(-step / 110)))
            events.append(Checkpoint(step=step))
    result = None
    if done == steps:
        result = {"steps": steps, "loss": 0.41, "validation_loss": 0.56, "best_step": steps, "tokens": 812345}
        result |= {"seconds": 754.2, "stopped": None}
        events.append(TrainingResult(**result))
    write_events(run / "metrics.jsonl", events)
    about = {"format": 1, "model": BASE, "data": "data/eisv", "data_sha256": {"train": "ab" * 32}, "result": result}
    (run / "run.json").write_text(json.dumps({**about, **record_changes}))
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return run


def warn(run: Path, message: str) -> None:
    event = TrainingWarning(step=20, message=message)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"event": event.event, **vars(event), "time": 1.7e9}) + "\n")


def write_report(file: Path, target: str, suite: str = "eisv_gate1", passed: int = 19, total: int = 20) -> Path:
    """The report of a suite, as ``mlx-lora eval --out`` writes it, its answers left out."""
    report = {
        "format": 1,
        "test_name": suite,
        "target": target,
        "gate": "ship",
        "threshold": 0.9,
        "total_tests": total,
        "passed": passed,
        "failed": total - passed,
        "pass_rate": passed / total,
        "gate_passed": passed / total >= 0.9,
        "verdict": "PASS" if passed == total else "INCONCLUSIVE",
        "results": [{"id": str(n), "passed": n < passed} for n in range(total)],
    }
    file.write_text(json.dumps(report))
    return file


def finished_run(run: Path, number: int) -> Path:
    """A run whose adapter holds one number, from which a generation can be made."""
    run.mkdir(parents=True)
    save_file({"number": np.full((64, 4), number, np.float32)}, run / "adapters.safetensors")
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    described = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (run / "adapter_config.json").write_text(json.dumps(described))
    about = {"format": 1, "model": BASE, "base_fingerprint": resolve_model(BASE).fingerprint, "data_sha256": {}}
    (run / "run.json").write_text(json.dumps(about))
    return run


def write_adapter(place: Path, made: Path, nights: int = 3) -> Generations:
    """Generations of nights that were promoted, the last one live, and a night that was not."""
    generations = Generations(place)
    for number in range(1, nights + 1):
        cycle = f"{number:04d}"
        gate = {"verdict": "better", "reasons": ["better on tonight's rows, not worse on earlier nights"]}
        generations.add(finished_run(made / cycle, number), {"cycle": cycle, "gate": gate})
        generations.promote(number, "better on tonight's rows", cycle=cycle)
        promoted(place, number)
    generations.mark_best(nights, "better on tonight's rows")
    record(place, nights + 1, "kept", "too few new rows to tell", [])
    return generations


def write_dataset(folder: Path, rows: int = 40, **first) -> Path:
    """A dataset with an exact duplicate and a key."""
    folder.mkdir(parents=True)
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Question {n}?"},
                {"role": "assistant", "content": f"Answer {n}, at length."},
            ]
        }
        for n in range(rows)
    ]
    lines.append(lines[0])
    if first:
        lines[0] = first
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "valid.jsonl").write_text(json.dumps({"messages": lines[1]["messages"]}) + "\n")
    return folder


def write_workspace(root: Path) -> Path:
    """A models directory with something of everything."""
    run = write_run(root / "adapters" / "lumen")
    warn(run, "the gradient norm rose to 12 times its median at step 20")
    samples = [
        {
            "prompt": "How is the lamp?",
            "reference": "It stays on while it rains.",
            "before": "I am not sure about the lamp.",
            "after": "It stays on while it rains, I am sure.",
        },
        {"prompt": HOSTILE, "reference": "Nothing.", "before": HOSTILE, "after": "Nothing."},
    ]
    write_samples(run / "samples.json", samples)
    write_report(root / "report_eisv_gate1.json", "adapters/lumen")
    write_report(root / "report_claims.json", "adapters/lumen", "claims_validation", 14)
    write_run(root / "adapters" / "half", done=150)
    write_run(root / "experiments" / "rank-32" / "seed-1", steps=200)
    write_adapter(root / "adapters" / "agent", root.parent / "made")
    write_dataset(root / "data" / "eisv")
    return root
