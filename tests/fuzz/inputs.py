"""One good input of each kind that a command reads, made by the package itself."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_lora.cli.main import cli
from mlx_lora.models.resolve import BUILT_IN

TINY = BUILT_IN["builtin/tiny-lumen"]
SALIENT = "We found it together {}. Why does it feel so clear? I understand now, and I am curious about us."
CONFIG = """model_name: {base}
data: {data}
max_steps: 1
warmup_steps: 0
batch_size: 2
gradient_accumulation_steps: 1
lora_rank: 2
lora_target_modules: [q_proj, v_proj]
learning_rate: 2e-4
until: "23:59"
"""
NIGHT = """name: {name}
model_name: {base}
stores:
  - data: {data}
    check: eisv_gate1
  - salience: {buffer}
min_hours: 0
min_total: 4
min_new: 4
pattern_share: 1.0
guards: {{min_battery: 0, min_disk_gb: 0, min_memory_gb: 0}}
train: {{max_steps: 1, warmup_steps: 0, lora_rank: 2, batch_size: 2, lora_target_modules: [q_proj, v_proj]}}
"""
SUITE = """name: probe
gate: ship
threshold: 0.5
cases: {file: asked.jsonl}
generate: {max_tokens: 4, temperature: 0.0, seed: 0}
checks:
  - contains: water
  - regex: "[a-z]+"
  - json_schema: {schema: {type: string}}
"""
TEMPLATE = "{% for m in messages %}<|start|>{{ m['role'] }}: {{ m['content'] | trim }}<|eot_id|>{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant: {% endif %}"


def call(*words: Any) -> None:
    """Run a command that has to succeed."""
    try:
        cli.main([str(word) for word in words], standalone_mode=False)
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{words}: status {ended.code}") from None


def make_inputs(folder: Path, base: Path | None = None) -> dict[str, Path]:
    """Write every input to a folder and return the paths by name.

    Args:
        base: a model directory to use for the base and the run; else a copy of the built-in one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if base is None:
        base = folder / "base"
        shutil.copytree(TINY, base)
    made = {"base": base, **_rows(folder), **_stores(folder)}
    call("data", "eisv", "--out", folder / "data", "--min-per-shape", 8)
    made |= {"data": folder / "data", "cases": folder / "cases.jsonl", "config": folder / "config.yaml"}
    made["cases"].write_text("\n".join((folder / "data" / "test.jsonl").read_text().splitlines()[:3]))
    made["config"].write_text(CONFIG.format(base=base, data=folder / "data"))
    made["run"] = folder / "run"
    call("train", "--config", made["config"], "--out", made["run"])
    made["results"] = folder / "results.json"
    call("eval", "--suite", "eisv_gate1", "--target", base, "--cases", made["cases"], "--out", made["results"])
    made["peft"] = folder / "peft"
    call("export", "peft", "--run", made["run"], "--out", made["peft"])
    return made | _nights(folder, made) | _index(folder)


def _index(folder: Path) -> dict[str, Path]:
    """Write an index of a PDCA and a tool example, with the embedder that the commands open."""
    call_ = {"tool_calls": [{"name": "read_file", "parameters": {"path": "a.ts"}}]}
    rows = _lines(folder / "calls.jsonl", [{"instruction": "Read a.ts", "output": json.dumps(call_)}])
    pdca = folder / "2026-02-03-UTC-0600-lake.pdca.md"
    pdca.write_text("# Lake\n\n## Plan\nLook at it.\n\n## Do\nIt is still.\n")
    call("index", "add", "--index", folder / "index", rows, pdca)
    return {"index": folder / "index", "calls": rows, "pdca": pdca}


def _nights(folder: Path, made: dict[str, Path]) -> dict[str, Path]:
    """Write a config of a night, and an adapter with one night and two generations."""
    from mlx_lora.runs.generations import Generations

    files = {"night": folder / "night.yaml", "agent": folder / "agent"}
    places = {"name": files["agent"], "base": made["base"], "data": made["data"], "buffer": made["buffer"]}
    files["night"].write_text(NIGHT.format(**places))
    with suppress(RuntimeError):  # whatever became of its candidate
        call("sleep", "run", "--config", files["night"])
    generations = Generations(files["agent"])
    for cycle in ("by hand", "by hand too"):
        generations.promote(generations.add(made["run"], {"cycle": cycle}), cycle)
    return files


def make_gguf(folder: Path, inputs: dict[str, Path]) -> dict[str, Path]:
    """Write the GGUF files, whose making takes longer, and return their paths by name."""
    made = {"gguf": folder / "base.gguf", "lora": folder / "lora.gguf"}
    call("export", "gguf", "--run", inputs["base"], "--out", made["gguf"], "--type", "f32")
    call("export", "gguf-lora", "--run", inputs["run"], "--out", made["lora"])
    return made


def _lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rows(folder: Path) -> dict[str, Path]:
    def chat(i: int) -> list[dict[str, Any]]:
        return [
            {"role": "system", "content": "You are Lumen."},
            {"role": "user", "content": f"shape: convergence {i}"},
            {"role": "assistant", "content": f"~stillness~ {i}", "weight": 1.0},
        ]

    call_ = {"type": "function", "id": "c1", "function": {"name": "look", "arguments": {"at": "lake"}}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    rows: list[dict[str, Any]] = [{"messages": chat(i), "weight": 0.5 + i, "meta": {"n": i}} for i in range(4)]
    rows[0]["spans"] = [{"message": 2, "start": 0, "end": 4, "weight": 2.0}]
    spoken = [chat(9)[1], {"role": "assistant", "content": "", "tool_calls": [call_]}]
    rows.append({"messages": [*spoken, {"role": "tool", "content": "a lake"}, chat(9)[2]], "tools": tools})
    alpaca = [{"instruction": f"Say {i}", "input": "", "output": f"{i}!", "task_type": "bugfix"} for i in range(4)]
    turns = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day"}]
    files = {
        "rows": _lines(folder / "rows.jsonl", rows),
        "sharegpt": _lines(folder / "sharegpt.jsonl", [{"conversations": turns}] * 3),
        "alpaca": folder / "alpaca.json",
        "table": folder / "table.csv",
        "plan": folder / "plan.yaml",
        "template": folder / "template.jinja",
        "prompt": folder / "prompt.txt",
        "suite": folder / "suite.yaml",
        "asked": _lines(folder / "asked.jsonl", [{"id": f"q{i}", "prompt": "Sea?", "tags": ["a"]} for i in range(3)]),
        "answers": _lines(folder / "answers.jsonl", [{"id": f"q{i}", "answer": "water"} for i in range(3)]),
    }
    files["suite"].write_text(SUITE)
    files["alpaca"].write_text(json.dumps(alpaca))
    files["table"].write_text("prompt,completion,weight\nHello?,Good day.,1\nAnd now?,Good night.,0.5\n")
    files["plan"].write_text("stated_total: 9\nbuckets:\n  bugfix: 4\n  feature: 5\n")
    files["template"].write_text(TEMPLATE)
    files["prompt"].write_text("You are Lumen, who speaks little.\n")
    return files


def _stores(folder: Path) -> dict[str, Path]:
    experiences = _lines(
        folder / "exchanges.jsonl",
        [{"prompt": f"What {i}?", "response": SALIENT.format(i), "session": i, "phase": "a"} for i in range(4)],
    )
    from mlx_lora.sources.salience import ExperienceCollector

    collector = ExperienceCollector(folder / "buffer.json", 0.0)
    for i in range(4):
        collector.add_exchange(f"What did you notice {i}?", SALIENT.format(i), i, "a", metadata={"machine": "den"})
    claims = [
        {"id": i, "claim": f"Drug {i} lowers risk.", "cited_doc_ids": [i], "evidence": _evidence(i)} for i in range(4)
    ]
    documents = [{"doc_id": i, "title": f"Study {i}", "abstract": [f"Drug {i} lowers risk."]} for i in range(4)]
    return {
        "exchanges": experiences,
        "buffer": folder / "buffer.json",
        "claims": _lines(folder / "claims.jsonl", claims),
        "corpus": _lines(folder / "corpus.jsonl", documents),
        "store": _store(folder / "store"),
        "results_of_runs": _lines(folder / "outcomes.jsonl", [{"workflow_id": "w1", "outcome": "success"}]),
        "origins": _origins(folder / "origins.json"),
        "anima": _anima(folder / "anima.db"),
        **_notes(folder),
    }


def _notes(folder: Path) -> dict[str, Path]:
    """Write an index of a single document, which may be removed from it."""
    notes = folder / "notes.md"
    notes.write_text("# Notes\n\nThe tide turns twice a day.\n")
    call("index", "add", "--index", folder / "notes-index", notes)
    return {"notes": notes, "notes_index": folder / "notes-index"}


def _evidence(number: int) -> dict[str, Any]:
    return {str(number): [{"sentences": [0], "label": "SUPPORT"}]}


def _origins(file: Path) -> Path:
    file.write_text(json.dumps({"a1": "human", "r1": "generated"}))
    return file


def _store(path: Path) -> Path:
    index = {}
    for minute, (identity, status, previous) in enumerate([("r1", "rejected", None), ("a1", "accepted", "r1")]):
        content = {
            "artifact_id": identity,
            "workflow_id": "w1",
            "content": f"content of {identity}",
            "previous_attempt_id": previous,
            "parent_action_pair_id": None,
            "action_pair_id": "ap_a",
            "created_at": f"2026-02-03T06:{minute:02}:00+00:00",
            "attempt_number": minute + 1,
            "status": status,
            "guard_result": {"passed": status == "accepted", "feedback": "so it is", "fatal": False},
            "context": {
                "specification": "Add two numbers",
                "constraints": "",
                "feedback_history": [{"artifact_id": "r1", "feedback": "wrong"}] if previous else [],
                "dependency_artifacts": {},
            },
            "metadata": {},
        }
        file = path / "objects" / identity[:2] / f"{identity}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        index[identity] = {"path": str(file.relative_to(path)), "status": status}
    (path / "index.json").write_text(
        json.dumps({"version": "1.0", "artifacts": index, "action_pairs": {}, "workflows": {}})
    )
    return path


def _anima(file: Path) -> Path:
    draw = random.Random(3)
    connection = sqlite3.connect(file)
    connection.execute(
        "CREATE TABLE state_history (id INTEGER PRIMARY KEY, timestamp TEXT, warmth REAL, clarity REAL, "
        "stability REAL, presence REAL, sensors TEXT)"
    )
    connection.execute(
        "CREATE TABLE primitive_history (id INTEGER PRIMARY KEY, timestamp TEXT, tokens TEXT, category_pattern TEXT, "
        "warmth REAL, brightness REAL, stability REAL, presence REAL, score REAL, feedback_signals TEXT, "
        "UNIQUE(timestamp, tokens))"
    )
    for second in range(40):
        values = (f"2026-02-03T06:00:{second:02}", *(draw.random() for _ in range(4)))
        connection.execute(
            "INSERT INTO state_history (timestamp, warmth, clarity, stability, presence, sensors) "
            "VALUES (?, ?, ?, ?, ?, '{}')",
            values,
        )
    connection.commit()
    connection.close()
    return file
