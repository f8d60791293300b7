"""Small true models and real data, shared by the tests."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from scheduler_doubles import doubles  # noqa: F401

# Before any test imports MLX by itself, which would then multiply some 15 times slower.
import mlx_lora.backends.mlx  # noqa: F401
from mlx_lora.processes import python_environment

REPO = Path(__file__).parent.parent
TINY = REPO / "mlx_lora" / "models" / "tiny_lumen"
BUILT_IN = "builtin/tiny-lumen"


# Files that compare with another implementation: torch, PEFT, llama.cpp, Ollama's templates, the published project.
PARITY = {
    *("test_torch_parity", "test_bench_mlx", "test_bench_torch", "test_eisv_published", "test_go_template"),
    *("test_convert", "test_converter", "test_gguf_lora", "test_quantize", "test_peft", "test_peft_comparison"),
    *("test_peft_settings", "test_peft_vision", "test_minilm"),
}


def pytest_collection_modifyitems(items):
    """Mark each test with one tier, by which `pytest -m TIER` picks it; `slow` is marked by hand."""
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker(tier_of(item.path, getattr(item, "fixturenames", ())))


def tier_of(path: Path, fixtures) -> str:
    if path.parent.name == "compat":
        return "compat"
    if path.stem in PARITY:
        return "parity"
    return "integration" if {"command", "refused", "program_path"} & set(fixtures) else "unit"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The real data beside the project, or where MLX_LORA_REALDATA points."""
    path = Path(os.environ.get("MLX_LORA_REALDATA", REPO.parent / "shared" / "realdata"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set MLX_LORA_REALDATA")
    return path


@pytest.fixture(scope="session")
def command():
    """Run ``mlx-lora`` as a user does; returns the finished process with text output."""

    def run(*arguments, cwd=None, timeout=300, **kwargs) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "mlx_lora", *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            **kwargs,
        )

    return run


@pytest.fixture
def program_path(tmp_path) -> str:
    """PATH with an ``mlx-lora`` that is this very checkout."""
    program = tmp_path / "bin" / "mlx-lora"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlx_lora "$@"\n')
    program.chmod(0o755)
    return os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture
def refused(command):
    """Run ``mlx-lora``, check that it refuses in one sentence with status 2, and return the sentence."""

    def run(*arguments, **kwargs) -> str:
        done = command(*arguments, **kwargs)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("mlx-lora: ")
        return lines[0]

    return run


@pytest.fixture(scope="session")
def eisv_data(tmp_path_factory) -> Path:
    """A small dataset directory of synthetic trajectories."""
    from mlx_lora.sources.eisv import make_eisv_dataset

    out = tmp_path_factory.mktemp("eisv") / "data"
    make_eisv_dataset(out, min_per_shape=10)
    return out


@pytest.fixture
def changed_base(tmp_path):
    """Copy the built-in base; each keyword names a JSON file (``config=...``) and the keys to change in it."""

    def change(name: str = "base", remove=(), **files) -> Path:
        directory = tmp_path / name
        shutil.copytree(TINY, directory)
        for stem, changes in files.items():
            file = directory / f"{stem}.json"
            content = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if k not in remove}))
        return directory

    return change


ARCHITECTURES = {
    "llama": {"rope_theta": 500000.0},
    "qwen2": {"rope_theta": 1000000.0},
    "qwen3": {"rope_theta": 1000000.0, "head_dim": 16},
    "qwen3_moe": {
        "rope_theta": 1000000.0,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
}


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """A model directory with a true architecture, two layers and random weights; the tiny base's tokenizer."""

    def make(model_type: str = "llama", **config) -> Path:
        import mlx.core as mx
        from mlx.utils import tree_flatten
        from mlx_lm.utils import _get_classes

        directory = tmp_path_factory.mktemp(model_type)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY / name, directory / name)
        tiny = json.loads((TINY / "config.json").read_text())
        settings = {
            "model_type": model_type,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "vocab_size": tiny["vocab_size"],
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "eos_token_id": tiny["eos_token_id"],
            **ARCHITECTURES.get(model_type, {}),
            **config,
        }
        (directory / "config.json").write_text(json.dumps(settings))
        model_class, args_class = _get_classes(settings)
        mx.random.seed(7)
        model = model_class(args_class.from_dict(settings))
        mx.save_safetensors(str(directory / "model.safetensors"), dict(tree_flatten(model.parameters())))
        return directory

    return make


@pytest.fixture
def anima(tmp_path):
    """Make a Lumen database with the given states, (timestamp, warmth, clarity, stability, presence)."""

    def make(states, expressions=(), name="anima.db") -> Path:
        path = tmp_path / name
        connection = sqlite3.connect(path)
        connection.execute(
            "CREATE TABLE state_history (id INTEGER PRIMARY KEY, timestamp TEXT, warmth REAL, clarity REAL, "
            "stability REAL, presence REAL, sensors TEXT)"
        )
        connection.execute(
            "CREATE TABLE primitive_history (id INTEGER PRIMARY KEY, timestamp TEXT, tokens TEXT, "
            "category_pattern TEXT, warmth REAL, brightness REAL, stability REAL, presence REAL, score REAL, "
            "feedback_signals TEXT, UNIQUE(timestamp, tokens))"
        )
        connection.executemany(
            "INSERT INTO state_history (timestamp, warmth, clarity, stability, presence, sensors) "
            "VALUES (?, ?, ?, ?, ?, '{\"light\": 3}')",
            states,
        )
        connection.executemany(
            "INSERT INTO primitive_history (timestamp, tokens, category_pattern, warmth, brightness, stability, "
            "presence, score, feedback_signals) VALUES (?, ?, ?, 0.5, 0.4, 0.3, 0.2, ?, ?)",
            expressions,
        )
        connection.commit()
        connection.close()
        return path

    return make


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory):
    """The built-in base, exported in float32."""
    pytest.importorskip("gguf", reason="the package gguf is not installed: pip install '.[gguf]'")
    from mlx_lora.engines.llamacpp.run import bindings
    from mlx_lora.export.gguf.export import export_gguf

    if not bindings():
        pytest.skip("no llama.cpp is installed: pip install '.[gguf]'")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    assert export_gguf(BUILT_IN, file, "f32").verdict == "verified"
    return file


@pytest.fixture(scope="session")
def llama_server(gguf_file):
    """llama.cpp's server in a process of its own; its address."""
    pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed: pip install '.[test]'")
    command = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(gguf_file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=python_environment(), cwd=gguf_file.parent, **pipes) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.terminate()


@pytest.fixture
def opened(monkeypatch) -> list:
    """Weak references to the models that a measurement opens; each must be gone before the next one comes."""
    from mlx_lora.evaluation import measurement
    from mlx_lora.evaluation.targets.opening import open_target

    models: list = []

    def open_one(*arguments):
        assert [model() for model in models] == [None] * len(models)
        target = open_target(*arguments)
        models.append(weakref.ref(target.backend))
        return target

    monkeypatch.setattr(measurement, "open_target", open_one)
    return models
