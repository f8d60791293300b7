"""Exports and imports compared with what PEFT itself computes, in an environment that has it."""

from __future__ import annotations

import json
import shutil
import time

import mlx.core as mx
import pytest
from quantized_fixtures import quantized
from run_fixtures import make_run, sharpen

from mlx_lora.export.peft import comparison
from mlx_lora.export.peft.adapter_import import import_peft
from mlx_lora.export.peft.comparison import NAME, compare_with_peft
from mlx_lora.export.peft.export import export_peft
from mlx_lora.export.peft.process import PeftFailed, ask, has_peft
from mlx_lora.export.reference import reference_of
from mlx_lora.export.source import read_source

needs_peft = pytest.mark.skipif(not has_peft(), reason="PEFT is not installed here: pip install '.[torch]'")


@pytest.fixture(scope="module")
def llama(make_model):
    return sharpen(make_model("llama"))


def test_without_peft_it_is_said(command, llama, tmp_path):
    run = make_run(llama, tmp_path / "run")
    done = command("export", "peft", "--run", run, "--out", tmp_path / "peft")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert ("PEFT itself was not asked, since it is not installed here" in said) is not has_peft()
    assert ("difference of PEFT's logits" in said) is has_peft()


def test_no_answer_in_time_is_no_rejection():
    began = time.monotonic()
    with pytest.raises(PeftFailed, match="no answer in 0 seconds"):
        ask({"action": "logits"}, seconds=0.01)
    assert time.monotonic() - began < 10


def test_a_process_that_fails_says_why():
    with pytest.raises(PeftFailed, match="KeyError: 'nothing'"):
        ask({"action": "nothing"})


def test_what_lies_in_the_current_directory_does_not_run(tmp_path, monkeypatch):
    for name in ("torch", "numpy", "json", "transformers", "peft"):
        (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path('it-ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PeftFailed):
        ask({"action": "nothing"})
    with pytest.raises(PeftFailed):
        ask({"action": "modules", "base": str(tmp_path)})
    assert not (tmp_path / "it-ran").exists()


@needs_peft
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_export_and_the_import_are_what_peft_computes(llama, tmp_path, kind):
    report = export_peft(make_run(llama, tmp_path / "run", fine_tune_type=kind), tmp_path / "peft")
    again = import_peft(tmp_path / "peft", tmp_path / "again")
    for found in (report, again):
        assert found.verdict == "verified"
        assert found.notes == []
        (check,) = [check for check in found.checks if check.name == NAME]
        assert check.value < 1e-5 < check.limit


@needs_peft
@pytest.mark.slow
def test_another_adapter_in_peft_is_rejected(llama, tmp_path):
    run = make_run(llama, tmp_path / "run")
    export_peft(run, tmp_path / "peft")
    source = read_source(str(run), needs_adapter=True)
    reference = reference_of(source)

    def failed(folder: str, change) -> list[str]:
        other = tmp_path / folder
        shutil.copytree(tmp_path / "peft", other)
        change(other)
        checks, notes = compare_with_peft(source, reference, other)
        assert notes == []
        return [check.name for check in checks if not check.passed]

    def alpha(directory) -> None:
        file = directory / "adapter_config.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "lora_alpha": content["lora_alpha"] * 1.01}))

    def names(directory) -> None:
        file = directory / "adapter_model.safetensors"
        stored = mx.load(str(file)).items()
        mx.save_safetensors(str(file), {name.replace("q_proj", "o_proj_too"): value for name, value in stored})

    assert failed("alpha", alpha) == [NAME]
    assert failed("names", names) == ["runs in PEFT"]


@needs_peft
@pytest.mark.slow
def test_bases_that_transformers_cannot_load(llama, tmp_path):
    report = export_peft(make_run(quantized(llama, tmp_path / "small"), tmp_path / "run"), tmp_path / "peft")
    assert report.verdict == "verified"
    assert "since transformers cannot load a base that MLX quantized" in report.notes[-1]
    # Named as mlx-lm names it: transformers would draw what it does not find at random.
    base = tmp_path / "base"
    shutil.copytree(llama, base)
    run = make_run(base, tmp_path / "other")
    stored = mx.load(str(base / "model.safetensors"))
    less = {name: value for name, value in stored.items() if not name.endswith("1.mlp.up_proj.weight")}
    mx.save_safetensors(str(base / "model.safetensors"), less, metadata={"format": "pt"})
    # As of a run that names no fingerprint of its base: another base is refused by it.
    for name in ("run.json", "adapter_config.json"):
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({k: v for k, v in content.items() if k != "base_fingerprint"}))
    source = read_source(str(run), needs_adapter=True)
    reference = reference_of(read_source(str(make_run(llama, tmp_path / "whole")), needs_adapter=True))
    checks, notes = compare_with_peft(source, reference, tmp_path / "peft")
    assert checks == []
    assert "its files do not hold model.layers.1.mlp.up_proj.weight, which LlamaForCausalLM needs" in notes[0]


def test_a_base_that_is_too_large_is_not_loaded_twice(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "has_peft", lambda: True)
    source = read_source(str(make_run(llama, tmp_path / "run")), needs_adapter=True)
    reference = reference_of(source)
    monkeypatch.setattr(comparison, "fits_float32", lambda source: False)
    checks, notes = compare_with_peft(source, reference, tmp_path)
    assert checks == []
    assert notes == ["PEFT itself was not asked, since the base in float32 takes more than half of the memory"]
