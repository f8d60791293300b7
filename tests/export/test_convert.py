"""Runs → GGUF → llama.cpp: it says what the adapter says in MLX, and what is left out is noticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from mlx_lora.export.gguf import export
from mlx_lora.export.gguf import tokenizer as vocabulary
from mlx_lora.export.gguf import writer as convert
from mlx_lora.export.gguf.architectures import Architecture
from mlx_lora.export.gguf.export import export_gguf
from mlx_lora.export.gguf.header import read_gguf_header

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# The largest difference of a logit, about three times what is met: with float32 weights, and with float16.
MODELS = {
    "llama": ("llama", {"rope_scaling": LLAMA3, "vocab_size": 1100}, 3e-4, 0.1),
    "llama-heads": ("llama", {"head_dim": 32, "tie_word_embeddings": False, "attention_bias": True}, 3e-4, 0.1),
    "mistral": ("mistral", {"rope_scaling": {"type": "linear", "factor": 2.0}}, 3e-4, 0.1),
    "qwen2": ("qwen2", {"vocab_size": 1100}, 6e-4, 0.4),
    "qwen2-yarn": ("qwen2", {"rope_scaling": YARN, "tie_word_embeddings": False}, 6e-4, 0.4),
    "qwen3": ("qwen3", {"head_dim": 32}, 1e-4, 0.03),
}
LARGEST = "largest difference of a logit"


def failed(report) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


TRAINED = ("llama", "qwen2", "qwen3")


@pytest.fixture
def run_of(trained_run):
    """Trained for one model of each architecture, drawn for the others."""
    return lambda name: trained_run(MODELS[name][0], drawn=name not in TRAINED, **MODELS[name][1])


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_says_the_same_in_llama_cpp(run_of, tmp_path, values, name):
    _, _, exact, half = MODELS[name]
    run = run_of(name)
    for number, limit in (("f32", exact), ("f16", half)):
        report = export_gguf(str(run), tmp_path / f"{number}.gguf", number)
        assert failed(report) == []
        assert values(report)[LARGEST] < limit
        assert (tmp_path / f"{number}.gguf").exists()
        assert not any("held-out" in note for note in report.notes)


@pytest.mark.parametrize("kind", [pytest.param("bf16", marks=pytest.mark.slow), "q8_0"])
@pytest.mark.parametrize("name", TRAINED)
def test_coarser_types(run_of, tmp_path, name, kind):
    report = export_gguf(str(run_of(name)), tmp_path / "model.gguf", kind)
    assert failed(report) == []


def without(monkeypatch, left_out):
    """Leave tensors out of what is planned, so that only llama.cpp can tell."""
    whole = convert.plan

    def plan(source, kind):
        made = whole(source, kind)
        made.tensors = [entry for entry in made.tensors if left_out not in entry[0]]
        return made

    monkeypatch.setattr(export, "plan", plan)


def no_permutation(monkeypatch):
    monkeypatch.setattr(convert, "heads_of", lambda *arguments: None)


def no_bias_permutation(monkeypatch):
    true = convert.heads_of
    monkeypatch.setattr(convert, "heads_of", lambda a, c, name: None if name.endswith("bias") else true(a, c, name))


def no_bias(monkeypatch):
    without(monkeypatch, ".bias")


def no_rope_freqs(monkeypatch):
    without(monkeypatch, "rope_freqs")


def no_scaling(monkeypatch):
    monkeypatch.setattr(convert, "add_rope", lambda writer, config, where: writer.add_rope_freq_base(1e6))


def no_padding(monkeypatch):
    true = vocabulary.Vocabulary.padded
    monkeypatch.setattr(
        vocabulary.Vocabulary, "padded", lambda self: tuple(part[: len(self.tokens)] for part in true(self))
    )


def other_pre_tokenizer(monkeypatch):
    true = export.read_vocabulary
    monkeypatch.setattr(export, "read_vocabulary", lambda *arguments: replace(true(*arguments), pre="gpt-2"))


def no_adapter(monkeypatch):
    true = convert.read_weights
    monkeypatch.setattr(convert, "read_weights", lambda source: true(replace(source, adapter=None)))


def other_template(monkeypatch):
    true = export.read_vocabulary
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    monkeypatch.setattr(export, "read_vocabulary", lambda *arguments: replace(true(*arguments), chat_template=template))


LEFT_OUT = [
    ("llama", no_permutation, "difference of logits (RMS, in their spread)"),
    ("llama-heads", no_bias_permutation, "difference of logits (RMS, in their spread)"),
    ("llama", no_rope_freqs, "difference of logits (RMS, in their spread)"),
    ("llama", no_padding, "runs in llama.cpp"),
    ("llama", other_pre_tokenizer, "probe texts with the tokenizer's own ids"),
    ("llama", no_adapter, "difference of logits (RMS, in their spread)"),
    ("llama", other_template, "conversations with training's own ids"),
    ("qwen2", no_bias, "difference of logits (RMS, in their spread)"),
    ("qwen2-yarn", no_scaling, "difference of logits (RMS, in their spread)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "leave_out", "noticed"), LEFT_OUT)
def test_what_is_left_out_is_noticed(run_of, tmp_path, monkeypatch, name, leave_out, noticed):
    run = run_of(name)
    leave_out(monkeypatch)
    report = export_gguf(str(run), tmp_path / "model.gguf", "f16")
    assert report.verdict == "rejected"
    assert noticed in failed(report)
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf.rejected"]
    assert report.file == str(tmp_path / "model.gguf.rejected")


def test_a_base_without_a_run(make_model, tmp_path):
    report = export_gguf(str(make_model("qwen3")), tmp_path / "model.gguf", "f32")
    assert report.verdict == "verified"
    assert "held-out" in report.notes[0]


def test_a_new_architecture_is_its_facts_alone():
    facts = Architecture("llama", ("invented",), {})
    assert facts.refuses({}) is None


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["qwen2.5", "llama3", "qwen2-from-gguf"])
def test_a_run_with_a_real_tokenizer(realdata, trained_run, tmp_path, values, folder):
    kind, rows = ("llama", 128256) if folder == "llama3" else ("qwen2", 151936)
    run = trained_run(kind, realdata / "tokenizers" / folder, vocab_size=rows, hidden_size=32, num_hidden_layers=1)
    report = export_gguf(str(run), tmp_path / "model.gguf", "f16")
    assert failed(report) == []
    assert values(report)["vocabulary in llama.cpp"] == rows


def test_held_out_answers_of_any_length(make_model, tmp_path):
    from run_fixtures import make_run

    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "valid", "test"):
        rows = [{"role": "user", "content": "tell"}, {"role": "assistant", "content": "so it goes, and on " * 300}]
        (data / f"{split}.jsonl").write_text(json.dumps({"messages": rows}) + "\n")
    run = make_run(make_model("llama"), tmp_path / "run", data=str(data))
    report = export_gguf(str(run), tmp_path / "model.gguf", "f16")
    assert failed(report) == []
    assert not any("held-out" in note for note in report.notes)


def test_the_configs_bos_is_written_where_the_tokenizer_has_none(make_model, tmp_path):
    """Qwen's tokenizers have none; llama.cpp would take token 11, a comma."""
    base = shutil.copytree(make_model("qwen2", bos_token_id=3), tmp_path / "base")
    file = base / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in settings.items() if key != "bos_token"}))
    assert export_gguf(str(base), tmp_path / "model.gguf", "f16").verdict == "verified"
    facts, _ = read_gguf_header(tmp_path / "model.gguf")
    assert facts["tokenizer.ggml.bos_token_id"] == 3
    assert not facts["tokenizer.ggml.add_bos_token"]


def test_a_tokenizer_without_the_letter_that_is_tried_adds_no_special_tokens(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    digits = Tokenizer(models.BPE({str(number): number for number in range(10)}, []))
    assert digits.encode("a").ids == []
    found = vocabulary.tokens_of(PreTrainedTokenizerFast(tokenizer_object=digits, bos_token="0"), 10, None)
    assert (found.add_bos, found.add_eos, found.ids["bos"]) == (False, False, 0)
