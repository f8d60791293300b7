"""Tasks of lm-evaluation-harness: the same scores by its own model, by our backends, in llama.cpp and over HTTP."""

from __future__ import annotations

import json

import pytest

from mlx_lora.errors import UserError

pytest.importorskip("lm_eval", reason="the package lm-eval is not installed: pip install '.[lm-eval]'")
from mlx_lora.evaluation import lm_eval as ours
from mlx_lora.evaluation.targets.raw_texts import rolling_windows

pytestmark = pytest.mark.slow

TINY = "builtin/tiny-lumen"
ASKED = (
    r"<|start_header_id|>user<|end_header_id|>\n\n{{text}}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
# White space at the end of a context, none at all, and examples before the question.
TASKS = {
    "choices": (
        'output_type: multiple_choice\ndoc_to_text: "shape: {{text}} "\ndoc_to_choice: "{{choices}}"\n'
        "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
    ),
    "few_shot": (
        'output_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
        "num_fewshot: 2\nfewshot_split: test\nmetric_list: [{metric: acc}]\n"
    ),
    "no_context": (
        'output_type: multiple_choice\ndoc_to_text: ""\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
        'target_delimiter: ""\nmetric_list: [{metric: acc}]\n'
    ),
    "rolling": (
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list: [{metric: bits_per_byte}]\n"
    ),
    "answers": (
        f'output_type: generate_until\ndoc_to_text: "{ASKED}"\ndoc_to_target: "~warmth~"\n'
        'generation_kwargs: {until: ["\\n\\n", "NGL"], max_gen_toks: 12}\nmetric_list: [{metric: exact_match}]\n'
    ),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """YAML files of five tasks on one local file; their names, separated by commas.

    The base is trained on so little that llama.cpp's server rounds the probability of most other tokens to 0.
    """
    folder = tmp_path_factory.mktemp("tasks")
    choices = ["~warmth~", "~stillness~", "~warmth~ ~stillness~"]
    rows = [
        {"text": text, "choices": choices, "answer": number % 3}
        for number, text in enumerate(("settled_presence", "convergence", "rising_entropy", "warm"))
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'data.jsonl'}}}}}\ntest_split: test\n"
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{head}{text}")
    return ",".join(str(folder / f"{name}.yaml") for name in TASKS)


@pytest.fixture(scope="module")
def by_mlx(tasks, tmp_path_factory):
    """(results, responses by task) of the built-in base on MLX."""
    return run(tasks, TINY, tmp_path_factory.mktemp("mlx"), backend="mlx")


def run(tasks, target, out, **options):
    summary = ours.run_tasks(tasks, target, out=out, **options)
    assert json.loads((out / "lm_eval_results.json").read_text()) == summary
    samples = {name: (out / f"samples_{name}.jsonl").read_text().splitlines() for name in TASKS}
    return summary["results"], {name: [json.loads(line)["resps"] for line in lines] for name, lines in samples.items()}


def check_same(found, expected):
    """Both have the same scores, answers and greedy flags, and log-probabilities but for rounding."""
    (results, responses), (known_results, known) = found, expected
    for name, metrics in known_results.items():
        numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
        assert numbers
        assert {key: results[name][key] for key in numbers} == pytest.approx(numbers, rel=1e-5)
    assert responses["answers"] == known["answers"]
    for name in TASKS.keys() - {"answers"}:
        for one, other in zip(flat(responses[name]), flat(known[name]), strict=True):
            if one in ("True", "False"):
                assert one == other
            else:
                assert float(one) == pytest.approx(float(other), rel=1e-4, abs=1e-3)


def flat(value):
    return [text for inner in value for text in flat(inner)] if isinstance(value, list) else [value]


def test_the_base_says_something(by_mlx):
    _, responses = by_mlx
    assert any(flat(responses["answers"]))
    assert "NGL" not in "".join(flat(responses["answers"]))
    assert all(float(value) > -1000 for value in flat(responses["rolling"]))


def test_lm_evals_own_model(tasks, by_mlx):
    pytest.importorskip("torch", reason="needs the extra torch; `make test-torch` has it")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from mlx_lora.models.resolve import resolve_model

    model = HFLM(pretrained=str(resolve_model(TINY).path), device="cpu", dtype="float32", batch_size=4)
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(model, tasks=tasks.split(","), task_manager=manager)
    lines = {name: [json.loads(ours._line(sample)) for sample in found["samples"][name]] for name in TASKS}
    theirs = found["results"], {name: [row["resps"] for row in rows] for name, rows in lines.items()}
    check_same(by_mlx, theirs)


def test_through_torch(tasks, by_mlx, tmp_path):
    pytest.importorskip("torch", reason="needs the extra torch; `make test-torch` has it")
    check_same(run(tasks, TINY, tmp_path, backend="torch"), by_mlx)


def test_through_a_gguf_file(tasks, by_mlx, gguf_file, tmp_path):
    check_same(run(tasks, str(gguf_file), tmp_path), by_mlx)


def test_through_http(tasks, by_mlx, llama_server, tmp_path):
    pytest.importorskip("httpx")
    check_same(run(tasks, f"{llama_server}/v1#tiny", tmp_path), by_mlx)


def test_the_command(command, tasks, tmp_path):
    """One JSON object on standard output; without --json, a table."""
    asking = ("eval", "--lm-eval", tasks.split(",")[0], "--target", TINY, "--limit", "2")
    done = command(*asking, "--json", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["target"], found["limit"], found["n-samples"]["choices"]["effective"]) == (TINY, 2, 2)
    assert 0 <= found["results"]["choices"]["acc,none"] <= 1
    assert len((tmp_path / "samples_choices.jsonl").read_text().splitlines()) == 2
    assert "acc_norm" in command(*asking).stdout


def test_options_that_a_task_has_no_use_for(command, tasks, tmp_path):
    one = tasks.split(",")[0]
    for said, options in (
        ("--cases is not for --lm-eval", ("--lm-eval", one, "--target", TINY, "--cases", tmp_path)),
        ("Missing option '--target'", ("--lm-eval", one)),
        ("--limit is for --lm-eval", ("--suite", "eisv_gate1", "--target", TINY, "--limit", "3")),
    ):
        done = command("eval", *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_what_cannot_run_is_refused(refused, tasks, tmp_path, monkeypatch):
    answers = tmp_path / "a.jsonl"
    answers.write_text('{"id": "1", "answer": "x"}\n')
    one = tasks.split(",")[0]
    asking = ("eval", "--lm-eval", one, "--target")
    assert "gives no log-probabilities of given texts" in refused(*asking, f"answers:{answers}")
    assert "lm-eval has no task absent_task, and there is no such file" in refused(
        "eval", "--lm-eval", "absent_task", "--target", TINY
    )
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: broken\ndataset_path: json\noutput_type: generate_until\n")
    with pytest.raises(UserError, match=r"broken\.yaml: lm-eval cannot run this"):
        ours.run_tasks(str(broken), TINY)
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mlx-lora\[lm-eval\]'"):
        ours.run_tasks(one, TINY)


class Digits:
    """A tokenizer with one token a digit."""

    bos_token, bos_token_id, eos_token_id = None, None, 99

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [int(digit) for digit in text]}


def test_rolling_windows_are_lm_evals():
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for length in (1, 4, 9, 23):
        text = "".join(str(number % 9 + 1) for number in range(length))
        tokenizer = Digits()
        for context in (1, 2, 3, 8, 100):
            theirs = get_rolling_token_windows([int(digit) for digit in text], 99, context, 1)
            assert rolling_windows(tokenizer, text, context) == [make_disjoint_window(window) for window in theirs]
