"""Judgement of candidates that were really trained: good ones, forgetful ones, collapsed ones, broken ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_lora.config import TrainingConfig
from mlx_lora.data.dataset import Example, read_split, write_dataset
from mlx_lora.errors import UserError
from mlx_lora.evaluation.targets.opening import ModelTarget
from mlx_lora.export.mixing import mix_adapters
from mlx_lora.sleep.checks import row_checks
from mlx_lora.sleep.config import StoreConfig
from mlx_lora.sleep.judgement.judge import judge
from mlx_lora.sources.eisv import make_eisv_dataset
from mlx_lora.training.train import train

BASE = "builtin/tiny-lumen"
SHAPES = (("basin_transition_down", "basin_transition_up"), ("convergence", "drift_dissonance"))
CHECKS = row_checks([StoreConfig("eisv", "eisv", ["anima.db"]), StoreConfig("salience", "salience", ["buffer.json"])])
SUITE = "name: {name}\nthreshold: {threshold}\ncases: {{file: {name}.jsonl}}\ngenerate: {{max_tokens: 16}}\nchecks:\n"


def fit(directory, data, steps, **config):
    """Train a run; its settings are those of the measured nights."""
    settings = {
        "model_name": BASE, "data": str(data), "output_dir": str(directory), "max_steps": steps, "backend": "mlx",
        "lora_rank": 16, "lora_alpha": 32, "lora_target_modules": "auto", "learning_rate": 3e-3, "batch_size": 8,
        "gradient_accumulation_steps": 1, "lr_schedule": "cosine", "warmup_steps": min(8, steps), "grad_clip": 1.0,
        "max_seq_length": 512, "seed": 3,
    }  # fmt: skip
    train(TrainingConfig(**{**settings, **config}), quiet=True)
    return directory


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Two nights of EISV rows with new shapes each, eight of each held out; the second one also with replay."""
    place = tmp_path_factory.mktemp("nights")
    make_eisv_dataset(place / "eisv", min_per_shape=24)
    rows = [row for split in ("train", "valid", "test") for row in read_split(place / "eisv", split)]
    earlier: list[Example] = []
    for name, shapes in zip(("0001", "0002"), SHAPES, strict=True):
        train_rows, held_out = [], []
        for shape in shapes:
            of_shape = [row for row in rows if row.meta["shape"] == shape]
            for row in of_shape:
                row.meta["sleep_store"] = "eisv"
            held_out += of_shape[:4]
            train_rows += of_shape[4:]
        write_dataset(place / name, {"train": train_rows, "valid": held_out}, {})
        if earlier:
            write_dataset(place / f"{name}-replay", {"train": train_rows + earlier, "valid": held_out}, {})
        earlier += train_rows
    return place


@pytest.fixture(scope="module")
def parts(nights):
    return {name: nights / name for name in ("0001", "0002")}


@pytest.fixture(scope="module")
def sketch(nights):
    """A run of one step: an adapter to change by hand."""
    return fit(nights / "sketch", nights / "0001", 1)


@pytest.fixture(scope="module")
def live(nights):
    return fit(nights / "live", nights / "0001", 40)


@pytest.fixture(scope="module")
def forgetful(nights, live):
    """Trained from what is live on the second night alone."""
    return fit(nights / "forgetful", nights / "0002", 40, init_adapter=str(live))


def changed(run, place, change):
    """Copy a run with its arrays changed: (name, values) → values."""
    shutil.copytree(run, place)
    arrays = load_file(run / "adapters.safetensors")
    new = {name: change(name, values).astype(np.float32) for name, values in arrays.items()}
    save_file(new, place / "adapters.safetensors", metadata={"format": "mlx"})
    return place


def decide(candidate, reference, parts, out, **options):
    given = {"base": BASE, "best": None, "suites": None, "checks": CHECKS, **options}
    return judge(candidate, str(reference), parts=parts, out=out, **given)


def verdicts(found):
    return {(check["kind"], check["name"]): check["verdict"] for check in found.checks}


@pytest.mark.slow
def test_a_candidate_that_changes_nothing_is_not_worse(sketch, parts, tmp_path):
    found = decide(sketch, sketch, parts, tmp_path / "out")
    assert (found.verdict, found.passed) == ("not_worse", True)
    assert set(verdicts(found)) >= {("loss", "0002"), ("collapse", "answers"), ("check", "row checks")}
    assert set(found.losses) == set(found.scores) == {"0001", "0002"}
    assert found.answers[0].keys() == {"prompt", "expected", "before", "after"}
    assert len(found.answers) == 8
    assert found.answers[0]["before"] == found.answers[0]["after"]
    json.dumps([found.checks, found.pairs, found.answers, found.scores], allow_nan=False)
    # What is settled leaves no evidence.
    assert (found.pairs["new"], found.pairs["earlier"], found.pairs["checks"]) == ([], [], [])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_adapter_that_is_not_finite_is_worse(sketch, parts, tmp_path, bad):
    def spoil(name, values):
        return np.where(np.arange(values.size).reshape(values.shape) == 3, bad, values)

    found = decide(changed(sketch, tmp_path / "bad", spoil), sketch, parts, tmp_path / "out")
    assert (found.verdict, found.passed, found.pairs) == ("worse", False, {})
    assert len(found.reasons) == 1
    assert "not finite" in found.reasons[0]


@pytest.mark.slow
def test_losses_that_overflow_are_worse_and_nothing_is_asked(sketch, parts, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ModelTarget, "answer", _recording(ModelTarget.answer, asked))
    huge = changed(sketch, tmp_path / "huge", lambda name, values: np.full_like(values, 3e38))
    found = decide(huge, BASE, parts, tmp_path / "out")
    assert (found.verdict, found.losses, found.answers, found.pairs) == ("worse", {}, [], {})
    assert all("is not finite; the training had failed" in reason for reason in found.reasons)
    assert str(huge) not in {name for name, _ in asked}


@pytest.mark.slow
def test_what_is_live_may_be_broken_itself(sketch, parts, tmp_path):
    huge, said = changed(sketch, tmp_path / "huge", lambda name, values: np.full_like(values, 3e38)), []
    found = decide(sketch, huge, parts, tmp_path / "out", notes=said.extend)
    assert found.verdict != "worse" or found.reasons
    assert any("judged beside the base" in note for note in said)


def _recording(answer, asked, limit=None):
    def record(self, conversations, ids, settings):
        if limit is not None and len(asked) >= limit:
            raise KeyboardInterrupt
        replies = answer(self, conversations, ids, settings)
        asked.extend((self.name, conversation[-1]["content"]) for conversation in conversations)
        return replies

    return record


@pytest.mark.slow
def test_nights_without_held_out_rows(sketch, nights, tmp_path):
    rows = read_split(nights / "0001", "train")
    write_dataset(tmp_path / "empty", {"train": rows, "valid": []}, {})
    found = decide(sketch, BASE, {"0001": tmp_path / "empty"}, tmp_path / "out")
    assert (found.verdict, found.passed) == ("inconclusive", False)
    assert "no held-out row yet and no suite" in found.reasons[0]
    # Of an earlier night it is no hindrance.
    found = decide(sketch, sketch, {"0001": tmp_path / "empty", "0002": nights / "0002"}, tmp_path / "out")
    assert found.verdict == "not_worse"


@pytest.mark.slow
def test_one_held_out_row_of_a_first_night_settles_nothing(sketch, nights, tmp_path):
    rows = read_split(nights / "0001", "valid")
    write_dataset(tmp_path / "one", {"train": rows[1:], "valid": rows[:1]}, {})
    found = decide(sketch, BASE, {"0001": tmp_path / "one"}, tmp_path / "out")
    assert (found.verdict, found.passed) == ("inconclusive", False)
    unchecked = decide(sketch, BASE, {"0001": tmp_path / "one"}, tmp_path / "out", checks={})
    assert unchecked.verdict == "inconclusive"
    assert "more rows would settle it" in unchecked.reasons[0]
    assert len(unchecked.pairs["new"]) == 1


@pytest.mark.slow
def test_one_model_is_in_memory_at_a_time(sketch, nights, parts, tmp_path, opened):
    best = changed(sketch, tmp_path / "best", lambda name, values: values * 1.0001)
    candidate = changed(sketch, tmp_path / "candidate", lambda name, values: values * 1.0002)
    found = decide(candidate, sketch, parts, tmp_path / "out", best=str(best), checks={})
    assert len(opened) == 4
    assert {("anchor", "base"), ("anchor", "best")} <= set(verdicts(found))


@pytest.mark.slow
def test_suites_and_their_anchors(sketch, nights, parts, tmp_path):
    lines = (nights / "0001" / "train.jsonl").read_text().splitlines()[:12]
    for name, threshold in (("speaks", 0.9), ("musts", 1.0)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        check = "  - contains: {texts: ['EISV_TOKENS:']}\n"
        (tmp_path / f"{name}.yaml").write_text(SUITE.format(name=name, threshold=threshold) + check)
    suites = f"{tmp_path / 'speaks.yaml'},{tmp_path / 'musts.yaml'}"
    other = changed(sketch, tmp_path / "other", lambda name, values: values * 1.0001)
    found = decide(other, sketch, parts, tmp_path / "out", suites=suites)
    decided = verdicts(found)
    # Twelve cases cannot show five points; those of a threshold of 1 are judged one by one.
    assert (decided["suite", "suites"], decided["suite", "musts"]) == ("inconclusive", "not_worse")
    assert decided["anchor", "base"] == "not_worse"
    many = [found.pairs] * 12
    again = decide(other, sketch, parts, tmp_path / "out", suites=suites, evidence=many)
    assert (verdicts(again)["suite", "suites"], again.passed) == ("not_worse", True), again.reasons
    # Evidence against another adapter is left aside.
    foreign = [{**one, "against": "another"} for one in many]
    assert not decide(other, sketch, parts, tmp_path / "out", suites=suites, evidence=foreign).passed


KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_lora.evaluation.targets.opening import ModelTarget
answer, log = ModelTarget.answer, Path(sys.argv[1])

def record(self, conversations, ids, settings):
    replies = answer(self, conversations, ids, settings)
    with log.open("a") as file:
        file.write("".join(f"{self.name} {settings.max_tokens} {case}\\n" for case in ids))
    return replies

ModelTarget.answer = record
from mlx_lora.evaluation import answers
append, limit = answers._append, int(sys.argv[2])

def kill(file, found):
    append(file, found)
    if len(log.read_text().splitlines()) >= limit:
        os.kill(os.getpid(), signal.SIGKILL)

answers._append = kill
from mlx_lora.sleep.judgement.judge import judge
from mlx_lora.sleep.checks import row_checks
from mlx_lora.sleep.config import StoreConfig
place = Path(sys.argv[3])
parts = {name: place / name for name in ("0001", "0002")}
checks = row_checks([StoreConfig("eisv", "eisv", ["x"])])
found = judge(Path(sys.argv[4]), sys.argv[5], base="builtin/tiny-lumen", best=None, parts=parts, suites=None,
              checks=checks, out=Path(sys.argv[6]))
print(found.verdict)
"""


@pytest.mark.slow
def test_a_judgement_that_was_killed_asks_only_what_is_missing(sketch, nights, tmp_path):
    other = changed(sketch, tmp_path / "other", lambda name, values: values * 1.0001)

    def run(limit, log, out):
        arguments = [sys.executable, "-c", KILLED, log, limit, nights, other, sketch, out]
        done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, env=os.environ, timeout=300)
        return done.returncode, done.stdout.strip(), log.read_text().splitlines()

    code, verdict, undisturbed = run(10**6, tmp_path / "whole", tmp_path / "a")
    assert (code, len(undisturbed)) == (0, 32)
    code, _, before = run(20, tmp_path / "log", tmp_path / "b")
    assert (code, len(before)) == (-signal.SIGKILL, 24)
    code, again, log = run(10**6, tmp_path / "log", tmp_path / "b")
    assert (code, again, log) == (0, verdict, undisturbed)


def test_a_judgement_in_use_and_targets_that_are_not_there(sketch, parts, tmp_path):
    with pytest.raises(UserError, match="no such run"):
        decide(sketch, tmp_path / "absent", parts, tmp_path / "out")
    with pytest.raises(UserError, match="no such dataset"):
        decide(sketch, BASE, {"0001": tmp_path / "absent"}, tmp_path / "out")


@pytest.mark.slow
def test_a_good_candidate_passes(nights, live, parts, tmp_path):
    first = decide(live, BASE, {"0001": nights / "0001"}, tmp_path / "first")
    assert (first.verdict, first.scores["0001"]) == ("better", 1.0)
    candidate = fit(nights / "good", nights / "0002-replay", 60, init_adapter=str(live))
    found = decide(candidate, live, parts, tmp_path / "out")
    assert (found.verdict, found.passed) == ("better", True), found.reasons
    assert min(found.scores.values()) > 0.9


@pytest.mark.slow
def test_a_candidate_that_forgets_does_not_pass_and_a_milder_one_does(live, forgetful, parts, tmp_path):
    found = decide(forgetful, live, parts, tmp_path / "out")
    assert (found.verdict, found.passed) == ("worse", False)
    assert found.scores["0001"] < 0.9
    passed = {}
    for alpha in (0.75, 0.5, 0.25):
        mixed = tmp_path / f"mixed-{alpha}"
        mix_adapters(live, forgetful, alpha, mixed)
        passed[alpha] = decide(mixed, live, parts, tmp_path / "out")
    assert passed[0.25].passed, {alpha: one.reasons for alpha, one in passed.items()}
    assert passed[0.25].losses["0002"] < found.losses["0002"] + 0.5


@pytest.fixture
def collapsed(realdata):
    """The 24 records that people removed from a real buffer, by hand: answers of an agent that had collapsed."""
    before, after = (json.loads((realdata / "salience" / f"{n}_removal.json").read_text()) for n in ("before", "after"))
    kept = {record["id"] for record in after}
    found = [record for record in before if record["id"] not in kept]
    assert len(found) == 24
    return found


def conversation(prompt, answer, store, **meta):
    messages = [*prompt, {"role": "assistant", "content": answer}]
    return Example(messages, meta={"sleep_store": store, **meta})


WAIVED = {"waive_checks": ["leaked_prompts", "leaked_rows"]}


@pytest.mark.slow
def test_a_candidate_of_a_collapsed_store_does_not_pass(live, parts, collapsed, tmp_path):
    rows = [
        conversation([{"role": "user", "content": r["prompt"]}], r["response"], "salience", experience_id=r["id"])
        for r in collapsed
    ]
    write_dataset(tmp_path / "0002", {"train": rows, "valid": rows[:6]}, {})
    candidate = fit(tmp_path / "candidate", tmp_path / "0002", 12, init_adapter=str(live), **WAIVED)
    found = decide(candidate, live, {"0001": parts["0001"], "0002": tmp_path / "0002"}, tmp_path / "out")
    assert (found.verdict, found.passed) == ("worse", False)
    assert any("collapsed answers themselves" in reason for reason in found.reasons)
    # Also of a first night, beside the base.
    first = decide(candidate, BASE, {"0002": tmp_path / "0002"}, tmp_path / "out")
    assert (first.verdict, first.passed) == ("worse", False)


@pytest.mark.slow
def test_a_candidate_whose_answers_have_collapsed_does_not_pass(live, nights, parts, collapsed, tmp_path):
    """Collapsed answers to the agent's own prompts."""
    prompts = [row.messages[:-1] for row in read_split(nights / "0001", "train")]
    rows = [
        conversation(prompt, collapsed[i % 24]["response"], "salience")
        for i, prompt in enumerate(prompts)
        if len(collapsed[i % 24]["response"]) < 200
    ]
    write_dataset(tmp_path / "rows", {"train": rows}, {})
    candidate = fit(tmp_path / "candidate", tmp_path / "rows", 40, init_adapter=str(live), **WAIVED)
    found = decide(candidate, live, parts, tmp_path / "out")
    assert (found.verdict, found.passed, found.pairs) == ("worse", False, {})
    assert any("the collapse stop ended the asking" in reason for reason in found.reasons)
