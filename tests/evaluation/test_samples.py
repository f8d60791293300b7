"""``samples_SUITE.jsonl`` against what lm-evaluation-harness writes for a task of its own."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lm_eval", reason="the package lm-eval is not installed: pip install '.[lm-eval]'")

SUITE = """
name: colours
description: names a colour
gate: quality
threshold: 0.5
cases: {file: cases.jsonl}
checks:
  - contains_all: {texts: [blue]}
"""
TASK = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{input}}}}"
doc_to_target: "{{{{target}}}}"
metric_list: [{{metric: exact_match}}]
"""
CASES = [
    {"id": "sky", "input": "The sky?", "target": "blue"},
    {"id": "sea", "input": "The sea?", "target": "green"},
]


@pytest.fixture
def theirs(tmp_path):
    """Samples as lm-eval itself writes them, of a model that always says blue."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    data, task = tmp_path / "data.jsonl", tmp_path / "task.yaml"
    data.write_text("".join(json.dumps(case) + "\n" for case in CASES))
    task.write_text(TASK.format(data=data))

    class Blue(LM):
        loglikelihood = loglikelihood_rolling = None

        def generate_until(self, requests):
            return ["blue"] * len(requests)

    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(Blue(), tasks=[str(task)], task_manager=manager, evaluation_tracker=tracker)
    tracker.save_results_aggregated(found, samples=found["samples"])
    tracker.save_results_samples("colours", found["samples"]["colours"])
    (file,) = (tmp_path / "theirs").rglob("samples_colours_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def ours_file(command, tmp_path):
    """Samples of a suite: an answer, and a case without one."""
    (tmp_path / "colours.yaml").write_text(SUITE)
    objects = [*CASES, {"id": "ink", "input": "Ink?", "expect": {"any": ["blue", "black"]}}]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in objects))
    (tmp_path / "answers.jsonl").write_text('{"id": "sky", "answer": "blue"}\n{"id": "ink", "answer": "red"}\n')
    done = command(
        *("eval", "--suite", "colours.yaml", "--target", "answers:answers.jsonl", "--out", "out"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "out" / "samples_colours.jsonl"


def kinds(value):
    """The shape of a value: its type, and for containers those of what it holds."""
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return type(value).__name__


def test_the_keys_and_types_are_lm_evals(theirs, ours_file):
    from lm_eval.utils import hash_string

    ours = [json.loads(line) for line in ours_file.read_text().splitlines()]
    assert [row["doc_id"] for row in ours] == [0, 1, 2]
    for row in ours:
        fixed = set(theirs[0]) - {"exact_match"}
        assert set(row) - fixed == {"reason", *row["metrics"]}
        assert {key: kinds(row[key]) for key in fixed} == {key: kinds(theirs[0][key]) for key in fixed}
        assert all(isinstance(row[metric], float) for metric in row["metrics"])
        given = row["arguments"]["gen_args_0"]
        assert list(given) == list(theirs[0]["arguments"]["gen_args_0"])
        assert row["doc_hash"] == hash_string(json.dumps(row["doc"], indent=2, ensure_ascii=False))
        assert row["prompt_hash"] == hash_string(given["arg_0"])
        assert row["target_hash"] == hash_string(row["target"])
    assert [row["target_hash"] for row in ours[:2]] == [row["target_hash"] for row in theirs]
    assert [row["passed"] for row in ours] == [1.0, 0.0, 0.0]
    assert ours[1]["resps"] == [[""]]
    assert ours[1]["reason"]
    assert json.loads(ours[2]["target"]) == {"any": ["blue", "black"]}


def test_the_datasets_library_reads_them(ours_file, tmp_path):
    from datasets import load_dataset

    found = load_dataset("json", data_files=str(ours_file), cache_dir=str(tmp_path / "cache"))["train"]
    assert found["passed"] == [1.0, 0.0, 0.0]
