"""A GGUF LoRA, in the real llama.cpp beside its base, says what the adapter says in MLX."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_fixtures import SEVEN, make_run, mlx_logits, sharpen

from mlx_lora.errors import UserError
from mlx_lora.export.gguf import lora as writing
from mlx_lora.export.gguf.architectures import unpermute_rows
from mlx_lora.export.gguf.lora import export_gguf_lora, read_gguf_lora, write_gguf_lora
from mlx_lora.export.gguf.tokenizer import read_vocabulary
from mlx_lora.export.gguf.writer import plan, write_gguf
from mlx_lora.export.source import read_source
from mlx_lora.models.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install '.[gguf]'")
PROMPTS = [[5, 17, 300, 42, 7], [900, 3, 3, 250, 811, 64, 12, 99]]
WORD = 459  # "emergence"
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def exported(request, make_model, tmp_path_factory):
    """(run, base GGUF in F32, adapter GGUF) of each architecture."""
    folder = tmp_path_factory.mktemp("lora")
    model = sharpen(make_model(request.param))
    run = make_run(model, folder / "run", lora_target_modules=SEVEN)
    base = base_gguf(model, folder / "base.gguf")
    report = export_gguf_lora(run, folder / "lora.gguf", base)
    assert report.verdict == "verified"
    return run, base, folder / "lora.gguf"


def base_gguf(model: Path, out: Path) -> Path:
    made = plan(read_source(str(model)), "f32")
    write_gguf(made, read_vocabulary(load_tokenizer(str(model)), made.rows, "the base"), out)
    return out


def llama_cpp(base: Path, lora: Path | None, folder: Path) -> np.ndarray:
    """Log-probabilities [prompts, vocabulary] after each prompt."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp, which runs llama.cpp with a LoRA, is not installed: pip install '.[test]'")
    request = folder / "request.json"
    content = {"model": str(base), "lora": lora and str(lora), "prompts": PROMPTS, "vocabulary": 1024, "word": WORD}
    request.write_text(json.dumps(content))
    server = Path(__file__).with_name("lora_server.py")
    done = subprocess.run([sys.executable, server, request], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = json.loads(request.with_suffix(".answer").read_text())
    return np.array([[answer[str(token)] for token in range(1024)] for answer in answers])


def mlx(run: Path) -> np.ndarray:
    logits = np.array([mlx_logits(run, prompt)[-1] for prompt in PROMPTS], dtype=np.float64)
    peak = logits.max(axis=1, keepdims=True)
    return logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))


def test_logits_agree_with_the_adapter_in_mlx(exported, tmp_path):
    run, base, lora = exported
    expected = mlx(run)
    found = llama_cpp(base, lora, tmp_path)
    print("difference", np.abs(found - expected).max())
    assert np.abs(found - expected).max() < TOLERANCE
    # The adapter is what makes them so.
    assert np.abs(llama_cpp(base, None, tmp_path) - expected).max() > 1


@pytest.mark.parametrize("left_out", ["alpha", "permutation", "transposition"])
def test_what_is_left_out_shows(make_model, tmp_path, left_out):
    model = sharpen(make_model("llama"))
    # Square matrices, so that no shape tells of a missing transposition.
    run = make_run(model, tmp_path / "run", lora_rank=64, lora_alpha=16.0, lora_target_modules=["q_proj"])
    export_gguf_lora(run, tmp_path / "right.gguf")
    lora = read_gguf_lora(tmp_path / "right.gguf")
    if left_out == "alpha":
        lora.alpha = 0.0  # what an absent one is read as: strength 1
    for name in [name for name in lora.tensors if name.endswith("lora_b") and left_out == "permutation"]:
        lora.tensors[name] = unpermute_rows(lora.tensors[name], 4)
    if left_out == "transposition":
        lora.tensors = {name: np.ascontiguousarray(values.T) for name, values in lora.tensors.items()}
    write_gguf_lora(tmp_path / "wrong.gguf", lora)
    base = base_gguf(model, tmp_path / "base.gguf")
    expected = mlx(run)
    assert np.abs(llama_cpp(base, tmp_path / "right.gguf", tmp_path) - expected).max() < TOLERANCE
    assert np.abs(llama_cpp(base, tmp_path / "wrong.gguf", tmp_path) - expected).max() > 100 * TOLERANCE


def test_what_is_in_the_file(exported):
    _, _, file = exported
    lora = read_gguf_lora(file)
    reader = gguf.GGUFReader(file)
    said = {key: reader.get_field(key).contents() for key in ("general.type", "adapter.type", "adapter.lora.alpha")}
    assert said == {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 6.0}
    assert lora.tensors["blk.1.ffn_down.weight.lora_a"].shape == (4, 128)
    assert lora.tensors["blk.1.ffn_down.weight.lora_b"].shape == (64, 4)
    assert {values.dtype for values in lora.tensors.values()} == {np.dtype(np.float32)}
    assert len(lora.tensors) == 2 * 2 * len(SEVEN)


def test_a_base_of_another_kind_is_refused_before_anything_is_written(exported, make_model, tmp_path):
    run, base, _ = exported
    kind = json.loads((run / "run.json").read_text())["model"]
    other = "qwen2" if "llama" in Path(kind).name else "llama"
    made = base_gguf(make_model(other), tmp_path / "other.gguf")
    with pytest.raises(UserError, match="together they would crash"):
        export_gguf_lora(run, tmp_path / "lora.gguf", made)
    config = json.loads((Path(kind) / "config.json").read_text())
    wide = make_model(**{**config, "intermediate_size": 256})
    with pytest.raises(UserError, match="another model than the run's base"):
        export_gguf_lora(run, tmp_path / "lora.gguf", base_gguf(wide, tmp_path / "wide.gguf"))
    (tmp_path / "text.gguf").write_text("no GGUF at all")
    with pytest.raises(UserError, match="this is no GGUF file"):
        export_gguf_lora(run, tmp_path / "lora.gguf", tmp_path / "text.gguf")
    assert not (tmp_path / "lora.gguf").exists()
    with pytest.raises(UserError, match="is no LoRA adapter"):
        read_gguf_lora(base)


def test_a_file_that_came_out_wrong_is_put_aside(exported, tmp_path, monkeypatch):
    run, _, _ = exported

    def wrong(*arguments):
        lora = right(*arguments)
        lora.tensors = {name: np.roll(values, 1, axis=0) for name, values in lora.tensors.items()}
        return lora

    right = writing.to_gguf
    monkeypatch.setattr(writing, "to_gguf", wrong)
    report = export_gguf_lora(run, tmp_path / "lora.gguf")
    assert report.verdict == "rejected"
    assert [p.name for p in tmp_path.iterdir()] == ["lora.gguf.rejected"]


def test_adapters_that_it_cannot_hold(make_model, tmp_path):
    dora = make_run(make_model("llama"), tmp_path / "dora", fine_tune_type="dora")
    with pytest.raises(UserError, match="DoRA's magnitudes cannot be held"):
        export_gguf_lora(dora, tmp_path / "out.gguf")
    full = make_run(make_model("llama"), tmp_path / "full", fine_tune_type="full")
    with pytest.raises(UserError, match="trained whole layers"):
        export_gguf_lora(full, tmp_path / "out.gguf")
    gemma = make_run(make_model("gemma2", head_dim=16, query_pre_attn_scalar=16), tmp_path / "gemma")
    with pytest.raises(UserError, match="gemma2 cannot be written as GGUF yet"):
        export_gguf_lora(gemma, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.slow
def test_the_command(command, refused, exported, tmp_path):
    run, base, _ = exported
    asked = ("export", "gguf-lora", "--run", run, "--out", tmp_path / "l.gguf", "--base", base)
    report = json.loads(command(*asked, "--json").stdout)
    assert (report["verdict"], report["file"]) == ("verified", str(tmp_path / "l.gguf"))
    assert {"architecture", "tensors", "matrices that differ", "parameters"} <= {c["name"] for c in report["checks"]}
    assert "this exists already" in refused(*asked)
