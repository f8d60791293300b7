"""Trial of what is live."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_lora.config import TrainingConfig
from mlx_lora.data.dataset import read_split, write_dataset
from mlx_lora.errors import UserError
from mlx_lora.evaluation.targets.opening import ModelTarget
from mlx_lora.sleep.trial import try_out
from mlx_lora.training.train import train

SUITE = "name: speaks\ngate: {gate}\nthreshold: 0.9\ncases: {{file: c.jsonl}}\ngenerate: {{max_tokens: 16}}\nchecks:\n"


@pytest.fixture(scope="module")
def run(eisv_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    paths = {"model_name": "builtin/tiny-lumen", "data": str(eisv_data), "output_dir": str(out)}
    train(TrainingConfig(**paths, max_steps=1, warmup_steps=0, max_seq_length=256, backend="mlx"), quiet=True)
    return out


@pytest.fixture
def parts(eisv_data, tmp_path):
    rows = read_split(eisv_data, "train")
    for name, first in (("0001", 0), ("0002", 30)):
        write_dataset(tmp_path / name, {"train": rows[60:], "valid": rows[first : first + 30]}, {})
    return {name: tmp_path / name for name in ("0001", "0002")}


def with_values(run, place, change):
    shutil.copytree(run, place)
    arrays = {
        name: change(values).astype(np.float32) for name, values in load_file(run / "adapters.safetensors").items()
    }
    save_file(arrays, place / "adapters.safetensors", metadata={"format": "mlx"})
    return place


@pytest.mark.slow
def test_what_works_passes(run, parts, tmp_path):
    passed, said = try_out(str(run), parts, None, tmp_path / "out")
    assert (passed, "16 answers, none of concern" in said) == (True, True)
    # Without a held-out row a greeting must be answered.
    assert try_out(str(run), {}, None, tmp_path / "out")[0]


def test_what_does_not_load_fails_in_a_sentence(run, parts, tmp_path):
    broken = with_values(run, tmp_path / "broken", lambda values: values)
    (broken / "adapters.safetensors").write_bytes(b"\x00" * 40)
    passed, said = try_out(str(broken), parts, None, tmp_path / "out")
    assert (passed, str(broken) in said) == (False, True)
    assert try_out(str(tmp_path / "absent"), parts, None, tmp_path / "out")[0] is False


@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_losses_that_are_not_finite_fail(run, parts, tmp_path, value):
    broken = with_values(run, tmp_path / "broken", lambda values: np.full_like(values, value))
    passed, said = try_out(str(broken), parts, None, tmp_path / "out")
    assert (passed, "not finite" in said) == (False, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda number: "b" * 80, "16 of 16 answers have collapsed"),
        (lambda number: "", "it gave no answer to 16 prompts"),
        (lambda number: "EISV_TOKENS: ~ripple~\nLUMEN_TOKENS: busy\nPATTERN: SINGLE", "it gives one answer"),
    ],
)
def test_answers_of_concern_fail(run, parts, tmp_path, monkeypatch, answer, said):
    """The answers of a model that has collapsed in each way, in place of the model's own."""
    own = ModelTarget.answer

    def replaced(self, conversations, ids, settings):
        replies = own(self, conversations, ids, settings)
        for number, reply in enumerate(replies):
            reply.text = answer(number)
        return replies

    monkeypatch.setattr(ModelTarget, "answer", replaced)
    passed, sentence = try_out(str(run), parts, None, tmp_path / "out")
    assert (passed, said in sentence) == (False, True), sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "gate", "passes"), [("TOKENS", "ship", True), ("absent", "ship", False), ("absent", "quality", False)]
)
def test_suites_must_pass(run, parts, eisv_data, tmp_path, text, gate, passes):
    lines = (eisv_data / "train.jsonl").read_text().splitlines()[:12]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    (tmp_path / "s.yaml").write_text(SUITE.format(gate=gate) + f"  - contains: {{texts: [{text}]}}\n")
    passed, said = try_out(str(run), parts, str(tmp_path / "s.yaml"), tmp_path / "out")
    assert (passed, "speaks failed" in said) == (passes, not passes)


def test_a_suite_that_cannot_be_read_tries_nothing(run, parts, tmp_path):
    with pytest.raises(UserError, match="no such suite"):
        try_out(str(run), parts, "absent", tmp_path / "out")
