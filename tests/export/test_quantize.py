"""Quantizing through the real llama.cpp: whichever is there, and whatever it does."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize

from mlx_lora.engines.llamacpp import run as llamacpp
from mlx_lora.engines.llamacpp.run import LlamaCppFailed, Request, bindings, evaluated, quantize
from mlx_lora.errors import UserError
from mlx_lora.export.gguf import export
from mlx_lora.export.gguf.export import export_gguf
from mlx_lora.export.gguf.quantize import type_numbers
from mlx_lora.export.gguf.reader import open_gguf
from mlx_lora.export.gguf.tokenizer import read_vocabulary
from mlx_lora.export.gguf.writer import plan, write_gguf
from mlx_lora.export.source import read_source
from mlx_lora.models.tokenizer import load_tokenizer

WIDE = {"hidden_size": 256, "intermediate_size": 512}


@pytest.fixture(scope="module")
def float_file(make_model, tmp_path_factory):
    base = make_model("llama", **WIDE)
    source = read_source(str(base))
    planned = plan(source, "f16")
    file = tmp_path_factory.mktemp("float") / "model.gguf"
    write_gguf(planned, read_vocabulary(load_tokenizer(str(base)), planned.rows, "the base"), file)
    return file


@pytest.mark.parametrize("kind", ["q4_k_m", "q6_k"])
def test_a_quantized_run(trained_run, tmp_path, values, kind):
    report = export_gguf(str(trained_run("llama", drawn=True, sharp=False, **WIDE)), tmp_path / "model.gguf", kind)
    assert [check.name for check in report.checks if not check.passed] == []
    assert values(report)["difference of logits from the same weights in MLX (RMS)"] < 0.1
    assert values(report)["bits a weight"] < 7
    assert any("the adapter changed the weights" in note for note in report.notes)
    assert not any("does not divide" in note for note in report.notes)


def test_rows_that_do_not_fit_are_told(trained_run, tmp_path):
    report = export_gguf(
        str(trained_run("qwen3", drawn=True, sharp=False, head_dim=32)),
        tmp_path / "model.gguf",
        "q4_k_m",
    )
    assert report.verdict == "verified"
    assert any("which q4_k_m cannot hold" in note for note in report.notes)


def test_our_q8_0_is_llama_cpps(make_model, float_file, tmp_path):
    quantize(float_file, tmp_path / "theirs.gguf", type_numbers()["q8_0"])
    theirs, full = open_gguf(tmp_path / "theirs.gguf"), open_gguf(float_file)
    tensor, original = theirs.tensors["blk.0.ffn_up.weight"], full.tensors["blk.0.ffn_up.weight"]
    assert tensor.kind == "q8_0"
    expected = dequantize(np.asarray(tensor.data), GGMLQuantizationType.Q8_0)
    ours = np.concatenate(list(tensor.pieces()))
    np.testing.assert_array_equal(ours, expected)
    assert np.abs(ours - np.concatenate(list(original.pieces()))).max() < np.abs(expected).max() / 127


def test_every_installed_provider_is_a_real_one(float_file, tmp_path, monkeypatch):
    written = []
    for name in bindings():
        monkeypatch.setattr(llamacpp, "bindings", lambda name=name: [name])
        assert quantize(float_file, tmp_path / name, type_numbers()["q4_k_m"]) == name
        written.append((tmp_path / name).read_bytes())
        with evaluated(Request(str(tmp_path / name), texts=["hello"], prompts=[[1, 2]], positions=[[0, 1]])) as answer:
            assert answer.logits(0).shape == (2, 1024)
    assert written


def test_a_program_on_the_path_will_do(float_file, tmp_path, monkeypatch):
    """llama-quantize as Homebrew installs it: here a script around the binding that is there."""
    program = tmp_path / "llama-quantize"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n"
        "from mlx_lora.engines.llamacpp.run import quantize\n"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(llamacpp, "bindings", lambda: ["one that fails"])
    assert quantize(float_file, tmp_path / "out.gguf", type_numbers()["q4_k_m"]) == "llama-quantize"
    assert open_gguf(tmp_path / "out.gguf").bits < 7


def test_without_llama_cpp_the_sentence_says_how_to_get_it(make_model, float_file, tmp_path, monkeypatch):
    monkeypatch.setattr(llamacpp, "BINDINGS", {"cyllama": "no_such_module"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'mlx-lora\[gguf\]'"):
        quantize(float_file, tmp_path / "out.gguf", 15)
    with pytest.raises(UserError, match=r"pip install 'mlx-lora\[gguf\]'"):
        export_gguf(str(make_model()), tmp_path / "model.gguf", "f16")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_llama_cpp_refuses_or_dies_on(float_file, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(float_file.read_bytes()[:-5000])
    for question in (
        lambda: quantize(broken, tmp_path / "out.gguf", 15),
        lambda: evaluated(Request(str(broken))).__enter__(),
    ):
        with pytest.raises(LlamaCppFailed, match=r"refused|died"):
            question()
    assert not (tmp_path / "out.gguf").exists()
    with pytest.raises(ValueError, match="length"):
        open_gguf(broken)


def damaged(full, out, kind, true):
    """A defective quantizer: everything is reported as done, and one tensor has been scaled."""
    found = true(full, out, kind)
    tensor = open_gguf(out).tensors["blk.1.ffn_down.weight"]
    start, length = tensor.data.offset, tensor.data.nbytes
    with open(out, "r+b") as file:
        file.seek(start)
        content = file.read(length)
        file.seek(start)
        file.write(content[::-1])
    return found


def test_a_defective_result_is_rejected(trained_run, tmp_path, monkeypatch):
    from mlx_lora.export.gguf import quantize as module

    true = module.quantize
    monkeypatch.setattr(module, "quantize", lambda full, out, kind: damaged(full, out, kind, true))
    report = export_gguf(str(trained_run("llama", drawn=True, sharp=False, **WIDE)), tmp_path / "model.gguf", "q4_k_m")
    failed = [check.name for check in report.checks if not check.passed]
    assert any(name.startswith("error of weights") and "blk.1.ffn_down" in name for name in failed)
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf.rejected"]


def test_a_quantizer_that_fails_leaves_the_float_file_aside(trained_run, tmp_path, monkeypatch):
    def fail(*arguments):
        raise LlamaCppFailed("killed by SIGABRT: out of ideas")

    monkeypatch.setattr(export, "quantized", fail)
    report = export_gguf(str(trained_run("llama", drawn=True, sharp=False, **WIDE)), tmp_path / "model.gguf", "q4_k_m")
    assert report.checks[-1].value == "killed by SIGABRT: out of ideas"
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf.rejected"]


@pytest.mark.parametrize(("kind", "said"), [("q4_x", "use one of f32, f16"), ("iq2_xxs", "importance matrix")])
def test_unknown_types_are_refused(make_model, tmp_path, kind, said):
    with pytest.raises(UserError, match=said):
        export_gguf(str(make_model()), tmp_path / "model.gguf", kind)
