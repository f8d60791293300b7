"""Input without end: each command that reads files bounds it in time and memory, and says so in a sentence."""

from __future__ import annotations

import json
import os
import resource
import shutil

import pytest
from fuzz.inputs import TINY

from mlx_lora.config import load_config
from mlx_lora.config.settings_file import parse_yaml
from mlx_lora.errors import UserError
from mlx_lora.sources.instructions.plan import load_plan

SECONDS = 30
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30))


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("text", [BOMB, MERGED, "a: &a [*a]\n", "a: &a {<<: *a}\n", "lora_rank: " + "&a [" * 2000])
def test_yaml_that_expands(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    for load in (load_config, load_plan):
        with pytest.raises(UserError) as error:
            load(file)
        assert len(str(error.value)) < 300 + len(str(file))
    with pytest.raises(UserError):
        load_config(None, [f"data=[{text}]"])


def test_anchors_may_be_used():
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}\n") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}
    assert parse_yaml("") is None


@pytest.mark.parametrize("value", ["[" + "1, " * 5000 + "]", "x" * 5000, "1" * 4000, "{a: " + "x" * 5000 + "}"])
@pytest.mark.parametrize("key", ["lora_rank", "until", "data", "backend", "learning_rate", "lora_target_modules"])
def test_a_long_value_is_quoted_in_part(value, key):
    said = ""
    try:
        load_config(None, [f"{key}={value}"])
    except UserError as error:
        said = str(error)
    assert len(said) < 400


WORDS = {
    "config": ["train", "--config", "{}"],
    "plan": ["data", "check", "{rows}", "--plan", "{}"],
    "results": ["gate", "{}"],
    "cases": ["baseline", "--cases", "{}"],
    "rows": ["data", "check", "{}"],
    "buffer": ["experience", "stats", "--buffer", "{}"],
    "system prompt": ["data", "salience", "--buffer", "{buffer}", "--out", "{out}", "--system-prompt", "{}"],
    "template": ["data", "check", "{rows}", "--base", "builtin/tiny-lumen", "--chat-template", "{}"],
    "claims": ["data", "claims", "--claims", "{}", "--corpus", "{rows}", "--out", "{out}"],
    "sources": ["data", "traces", "--store", "{tmp}", "--out", "{out}", "--sources", "{}"],
    "results of runs": ["data", "traces", "--store", "{tmp}", "--out", "{out}", "--results", "{}"],
    "database": ["data", "eisv", "--out", "{out}", "--anima-db", "{}"],
    "gguf": ["export", "ollama", "--run", "x", "--name", "x", "--modelfile-only", "--gguf", "{}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORDS)
def test_pipes_and_devices(refused, pipe, tmp_path, kind):
    rows, buffer = tmp_path / "rows.jsonl", tmp_path / "buffer.json"
    rows.write_text(json.dumps({"messages": [{"role": r, "content": "a"} for r in ("user", "assistant")]}))
    buffer.write_text("[]")
    for place in (pipe, "/dev/zero"):
        known = {"rows": rows, "buffer": buffer, "out": tmp_path / "out", "tmp": tmp_path}
        words = [word.format(place, **known) for word in WORDS[kind]]
        refused(*words, timeout=SECONDS, preexec_fn=bounded)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["generate", "--target", "x", "--prompt", "-"], ["experience", "add", "-"]])
def test_standard_input_without_end(refused, tmp_path, words):
    with open("/dev/zero") as zero:
        more = ["--buffer", tmp_path / "b.json"] if words[0] == "experience" else []
        assert "standard input" in refused(*words, *more, stdin=zero, timeout=SECONDS, preexec_fn=bounded)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "chat_template.jinja"]
)
def test_a_base_with_a_pipe(refused, tmp_path, name):
    base, rows = tmp_path / "base", tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": [{"role": r, "content": "a"} for r in ("user", "assistant")]}))
    shutil.copytree(TINY, base)
    (base / name).unlink(missing_ok=True)
    os.mkfifo(base / name)
    assert name in refused("generate", "--target", base, "--prompt", "a", timeout=SECONDS)
    assert name in refused("data", "show", rows, "--base", base, timeout=SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "adapter_config.json", "adapters.safetensors"])
def test_a_run_with_a_pipe(refused, tmp_path, name):
    run = tmp_path / "run"
    run.mkdir()
    content = {"model": "builtin/tiny-lumen", "num_layers": 2, "lora_parameters": {"scale": 1.0, "rank": 2}}
    for other in {"run.json", "adapter_config.json", "adapters.safetensors"} - {name}:
        (run / other).write_text(json.dumps(content))
    os.mkfifo(run / name)
    refused("generate", "--target", run, "--prompt", "a", timeout=SECONDS)
    refused("export", "peft", "--run", run, "--out", tmp_path / "out", timeout=SECONDS)
