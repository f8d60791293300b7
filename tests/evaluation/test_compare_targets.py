"""Comparison of targets: real models one at a time, files of answers, the collapse stop, resumption, held-out loss."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_lora.config import TrainingConfig
from mlx_lora.data.dataset import read_split
from mlx_lora.data.tokenize import encode_examples
from mlx_lora.errors import UserError
from mlx_lora.evaluation import measurement
from mlx_lora.evaluation.compare_targets import compare_targets
from mlx_lora.evaluation.targets.opening import ModelTarget, open_target
from mlx_lora.files import file_lock
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.training.train import train
from mlx_lora.training.trainer import validation_loss

pytestmark = pytest.mark.slow

BASE = "builtin/tiny-lumen"
SUITE = """name: {name}
gate: {gate}
threshold: 0.9
cases: {{file: {cases}}}
generate: {{max_tokens: 16, temperature: {temperature}, seed: 5}}
checks:
  - {check}: {{texts: [{text}]}}
"""
ROWS = 60


@contextmanager
def no_progress(description, total):
    yield lambda done: None


def run(*names, **options):
    return compare_targets(names, progress=no_progress, notes=lambda notes: None, **options)


@pytest.fixture(scope="module")
def broken_run(eisv_data, tmp_path_factory):
    """A run whose adapter is noise: the model writes no word that it was taught."""
    out = tmp_path_factory.mktemp("runs") / "broken"
    paths = {"model_name": BASE, "data": str(eisv_data), "output_dir": str(out)}
    train(TrainingConfig(**paths, max_steps=1, warmup_steps=0, max_seq_length=256, backend="mlx"), quiet=True)
    file, draw = out / "adapters.safetensors", np.random.default_rng(0)
    noise = {key: draw.normal(size=value.shape).astype(np.float32) for key, value in load_file(file).items()}
    save_file(noise, file, metadata={"format": "mlx"})
    return str(out)


@pytest.fixture
def suite(tmp_path, eisv_data):
    """Write a suite over dataset rows, and return its file's name; the base passes every case by default."""

    def write(name="speaks", gate="ship", check="contains", text="'EISV_TOKENS:'", temperature=0.0, rows=ROWS) -> str:
        lines = (eisv_data / "train.jsonl").read_text().splitlines()[:rows]
        assert len(lines) == rows
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        values = {"name": name, "gate": gate, "check": check, "text": text, "temperature": temperature}
        (tmp_path / f"{name}.yaml").write_text(SUITE.format(cases=f"{name}.jsonl", **values))
        return str(tmp_path / f"{name}.yaml")

    return write


@pytest.fixture
def questions(tmp_path):
    """Write a suite of N questions whose answer is yes, and return its file's name."""

    def write(count, name="agrees", gate="ship") -> str:
        rows = [json.dumps({"id": f"q{i}", "prompt": f"Question {i}?"}) + "\n" for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        values = {"name": name, "gate": gate, "check": "contains", "text": "'yes'", "temperature": 0}
        (tmp_path / f"{name}.yaml").write_text(SUITE.format(cases=f"{name}.jsonl", **values))
        return str(tmp_path / f"{name}.yaml")

    return write


@pytest.fixture
def answers(tmp_path):
    """Write a file of answers, one letter a question (y: right, n: wrong, -: none), and return the target's name."""

    def write(name, letters) -> str:
        texts = {"y": "yes", "n": "no"}
        rows = [{"id": f"q{i}", "answer": texts[letter]} for i, letter in enumerate(letters) if letter != "-"]
        (tmp_path / f"{name}.answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"answers:{tmp_path / name}.answers.jsonl"

    return write


@pytest.fixture
def asked(monkeypatch):
    """(target, seed, case) of everything that models were asked, in order; ``limit`` calls, then Ctrl-C."""
    log, limit = [], []
    answer = ModelTarget.answer

    def record(self, conversations, ids, settings):
        if limit and len(log) >= limit[0]:
            raise KeyboardInterrupt
        replies = answer(self, conversations, ids, settings)
        log.extend((self.name, settings.seed, case) for case in ids)
        return replies

    monkeypatch.setattr(ModelTarget, "answer", record)
    return log, limit


def test_a_model_against_itself_is_not_blocked(suite, eisv_data, asked):
    found = run(BASE, BASE, suites=suite(), data=[eisv_data])
    assert (found.comparison.verdict, found.comparison.exit_status) == ("not_worse", 0)
    assert (found.comparison.pooled.n, found.comparison.pooled.difference, found.comparison.unstable) == (ROWS, 0.0, [])
    assert found.comparison.pooled.passed_candidate == ROWS
    (part,) = found.comparison.heldout_loss["parts"]
    assert part["difference"] == 0.0
    log, _ = asked
    assert len(log) == 3 * ROWS
    first, rerun, candidate = (log[i * ROWS : (i + 1) * ROWS] for i in range(3))
    # The candidate has the reference's seeds and batches, the rerun neither.
    assert first == candidate
    assert [case for *_, case in rerun] != [case for *_, case in first]
    assert not {seed for _, seed, _ in rerun} & {seed for _, seed, _ in first}


def test_a_collapsed_candidate_is_stopped_early_and_worse(suite, broken_run, eisv_data, asked, tmp_path):
    out = tmp_path / "out"
    both = ",".join([suite(), suite("again")])
    found = run(BASE, broken_run, suites=both, data=[eisv_data], reruns=0, out=out)
    assert (found.comparison.verdict, found.comparison.exit_status) == ("worse", 1)
    assert found.comparison.stopped_after == 7
    log, _ = asked
    assert sum(name == broken_run for name, *_ in log) == measurement.GROUP
    (compared,) = found.summary["suites"]
    assert (compared["suite"], compared["n"], compared["losses"]) == ("speaks", 16, 16)
    assert found.comparison.heldout_loss["verdict"] == "worse"
    assert any("collapse stop" in reason for reason in found.comparison.reasons)
    assert json.loads((out / "compare.json").read_text()) == {"format": 1, **found.summary}
    again = run(BASE, broken_run, suites=both, data=[eisv_data], reruns=0, out=out)
    assert again.comparison == found.comparison
    assert len(log) == 2 * ROWS + measurement.GROUP


def test_one_model_is_in_memory_at_a_time(suite, broken_run, opened):
    run(BASE, broken_run, BASE, suites=suite(rows=4), anchors=[broken_run])
    assert len(opened) == 3


def test_a_gguf_file_beside_its_base(suite, tmp_path, monkeypatch):
    pytest.importorskip("gguf", reason="needs the extra gguf")
    from mlx_lora.engines.llamacpp.session import GGUFModel
    from mlx_lora.export.gguf.export import export_gguf

    file, started, start = tmp_path / "base.gguf", [], GGUFModel._start
    export_gguf(BASE, file, kind="f32")

    def record(self):
        assert all(model._process is None for model in started)
        started.append(self)
        return start(self)

    monkeypatch.setattr(GGUFModel, "_start", record)
    found = run(str(file), BASE, str(file), suites=suite())
    assert (found.comparison.verdict, found.comparison.pooled.n, found.comparison.unstable) == ("not_worse", ROWS, [])
    assert [model._process for model in started] == [None, None]


@pytest.mark.parametrize("after", [16, 48, 80])
def test_an_interrupted_comparison_asks_nothing_twice(suite, asked, tmp_path, broken_run, after):
    log, limit = asked
    names, options = (broken_run, BASE), {"suites": suite(temperature=0.8, rows=24), "reruns": 2}
    undisturbed = run(*names, **options)
    expected = sorted(log)
    assert len(expected) == 4 * 24
    log.clear()
    limit.append(after)
    with pytest.raises(KeyboardInterrupt):
        run(*names, **options, out=tmp_path / "out")
    assert 0 < len(log) < len(expected)
    limit.clear()
    resumed = run(*names, **options, out=tmp_path / "out")
    assert sorted(log) == expected
    assert resumed.comparison == undisturbed.comparison


def test_heldout_loss_is_the_trainers_validation_loss(broken_run, eisv_data, tmp_path):
    found = run(BASE, broken_run, data=[eisv_data], out=tmp_path / "out")
    rows = read_split(eisv_data, "valid")
    for name, column in ((BASE, 0), (broken_run, 1)):
        backend = open_target(name).backend
        encoded = encode_examples(backend.tokenizer, rows, 256, "valid")
        (part,) = found.summary["targets"][column]["heldout_loss"]
        assert part["loss"] == pytest.approx(validation_loss(backend, encoded, 4), rel=1e-5)
        assert (part["rows"], part["tokens"]) == (len(rows), sum(int(row.supervised.sum()) for row in encoded))
    (compared,) = found.summary["heldout_loss"]["parts"]
    shapes = {row.meta["shape"] for row in rows}
    assert (compared["n"], compared["clusters"], found.comparison.verdict) == (len(rows), len(shapes), "worse")
    # Saved losses are read, and those of another adapter are not.
    (saved,) = (tmp_path / "out").glob("*-broken-*/heldout_*.json")
    content = json.loads(saved.read_text())
    content["losses"] = [0.0] * len(rows)
    saved.write_text(json.dumps(content))
    changed = run(BASE, broken_run, data=[eisv_data], out=tmp_path / "out")
    assert changed.summary["targets"][1]["heldout_loss"][0]["loss"] == 0.0
    saved.write_text(json.dumps(content | {"target": "another"}))
    assert (
        run(BASE, broken_run, data=[eisv_data], out=tmp_path / "out").summary["heldout_loss"]
        == (found.summary["heldout_loss"])
    )


def test_unstable_cases_are_found_by_reruns_and_left_out(suite):
    names = (BASE, BASE)
    found = run(*names, suites=suite(temperature=1.5, text="'~curiosity~'"))
    unstable = {case["id"] for case in found.comparison.unstable}
    assert found.summary["reruns"] == 2
    assert 0 < len(unstable) < ROWS
    assert found.comparison.pooled.n == ROWS - len(unstable)
    assert run(*names, suites=suite(temperature=1.5, text="'~curiosity~'"), reruns=0).comparison.unstable == []


def test_verdicts_on_files_of_answers(questions, answers):
    suites = questions(100)
    live, better, worse = (
        answers("live", "y" * 80 + "n" * 20),
        answers("b", "y" * 95 + "n" * 5),
        answers("w", "n" * 100),
    )
    assert run(live, better, suites=suites).comparison.verdict == "better"
    assert run(live, live, suites=suites).comparison.verdict == "not_worse"
    stopped = run(live, worse, suites=suites).comparison
    assert (stopped.verdict, stopped.stopped_after, stopped.pooled.n) == ("worse", 7, 16)
    slightly = answers("s", "n" * 2 + "y" * 78 + "n" * 20)
    assert run(live, slightly, suites=suites).comparison.verdict == "inconclusive"


def test_the_last_two_of_several_targets_are_compared(questions, answers):
    suites = questions(60)
    base, live, candidate = answers("base", "n" * 60), answers("live", "y" * 60), answers("c", "y" * 60)
    found = run(base, live, candidate, suites=suites)
    assert found.comparison.verdict == "not_worse"
    assert [(t["target"], t["role"]) for t in found.summary["targets"]] == [
        (base, "shown"), (live, "reference"), (candidate, "candidate"),
    ]  # fmt: skip
    assert [t["suites"][0]["passed"] for t in found.summary["targets"]] == [0, 60, 60]
    assert (found.summary["reference"], found.summary["candidate"]) == (live, candidate)


def test_an_anchor_blocks_what_the_reference_has_lost_too(questions, answers):
    suites = questions(100)
    best, live = answers("best", "y" * 100), answers("live", "y" * 80 + "n" * 20)
    assert run(live, live, suites=suites).comparison.verdict == "not_worse"
    found = run(live, live, suites=suites, anchors=[best])
    assert (found.comparison.verdict, found.summary["anchors"][0]["losses"]) == ("worse", 20)
    assert [t["role"] for t in found.summary["targets"]] == ["reference", "candidate", "anchor"]
    shown = run(best, live, live, suites=suites, anchors=[best])
    assert (shown.comparison.verdict, len(shown.summary["targets"])) == ("worse", 3)


def test_ship_suites_alone_are_pooled(questions, answers):
    both = ",".join([questions(60), questions(60, "nice", "quality")])
    live = answers("live", "y" * 60)
    found = run(live, live, suites=both).comparison
    assert (found.pooled.n, [suite.n for suite in found.suites]) == (60, [60, 60])
    assert run(live, live, suites=questions(60, "nice", "quality")).comparison.pooled.n == 60


def test_cases_that_were_not_answered(questions, answers):
    suites = questions(60)
    full, half = answers("full", "y" * 60), answers("half", "y" * 55 + "-" * 5)
    lost = run(full, half, suites=suites)
    assert (lost.comparison.pooled.n, lost.comparison.pooled.losses) == (60, 5)
    assert any("cases were not answered, and count as failed" in warning for warning in lost.summary["warnings"])
    left_out = run(half, full, suites=suites)
    assert (left_out.comparison.pooled.n, left_out.comparison.pooled.wins) == (55, 0)
    assert any("5 cases that the reference did not answer are left out" in w for w in left_out.summary["warnings"])


def test_user_errors(questions, answers, eisv_data, tmp_path):
    suites, live = questions(60), answers("live", "y" * 60)
    both, other, held = f"{suites},{questions(60, 'more')}", tmp_path / "other.jsonl", tmp_path / "held"
    held.mkdir()
    other.write_text('{"id": "another case", "answer": "yes"}\n')
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "train.jsonl").write_text((eisv_data / "train.jsonl").read_text())
    for names, options, said in (
        ((live,), {"suites": suites}, "needs two targets"),
        ((live, live), {}, "nothing to compare"),
        ((live, f"answers:{other}"), {"suites": suites}, "none of the cases of agrees was answered"),
        ((f"answers:{other}", live), {"suites": suites}, "none of the cases of agrees was answered"),
        ((BASE, live), {"data": [eisv_data]}, "needs a run or a base model"),
        ((BASE, BASE), {"data": [eisv_data, eisv_data]}, "given twice"),
        ((BASE, BASE), {"data": [empty]}, "neither validation nor test rows"),
        ((BASE, BASE), {"data": [eisv_data], "anchors": [BASE]}, "an anchor is compared by its answers"),
        ((BASE, BASE), {"data": [eisv_data], "cases": other}, "name it with --suites"),
        ((live, live), {"suites": both, "cases": other}, "each of these suites has cases of its own"),
        ((live, live), {"suites": suites, "out": held}, "another comparison is writing there"),
        ((live, live), {"suites": suites, "out": other}, "is there and is not a directory"),
        ((live, "answers:absent"), {"suites": suites}, "no such file"),
    ):
        with file_lock(held / ".lock", "held"), pytest.raises(UserError, match=said):
            run(*names, **options)


def test_losses_over_other_tokens_are_not_compared(changed_base, eisv_data):
    template = json.loads((BUILT_IN[BASE] / "tokenizer_config.json").read_text())["chat_template"]
    other = changed_base(tokenizer_config={"chat_template": template.replace("\n\n", "\n")})
    with pytest.raises(UserError, match="read these rows as other tokens"):
        run(BASE, str(other), data=[eisv_data])
    shown = run(str(other), BASE, BASE, data=[eisv_data]).summary["targets"]
    assert [target["heldout_loss"][0]["comparable"] for target in shown] == [False, True, True]
