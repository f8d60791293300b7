"""One suite over targets of every kind: the same cases and prompts, equal answers where the weights are equal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from completions_server import completions_server
from ollama_server import Answer, Model, ollama_server

from mlx_lora.errors import UserError
from mlx_lora.evaluation.runner import prepare, run_suite
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import open_target
from mlx_lora.runs.resolve import resolve

BASE = "builtin/tiny-lumen"
MEASURED = {"load_s", "first_token_s", "tokens_per_s", "peak_memory_bytes"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, eisv_data):
    """A trained run: some steps of a large rate, so that its answers differ from the base's."""
    from mlx_lora.config import TrainingConfig
    from mlx_lora.training.train import train

    out = tmp_path_factory.mktemp("run") / "run"
    steps = {"learning_rate": 2e-2, "warmup_steps": 0, "max_steps": 6, "gradient_accumulation_steps": 1}
    config = TrainingConfig(BASE, data=str(eisv_data), output_dir=str(out), lora_rank=4, keep_best=False, **steps)
    train(config, quiet=True)
    return out


@pytest.fixture(scope="module")
def questions(eisv_data):
    rows = [json.loads(line) for line in (eisv_data / "test.jsonl").read_text().splitlines()[:4]]
    return [{"id": f"q{i}", "messages": row["messages"][:-1], "expect": "EISV_TOKENS"} for i, row in enumerate(rows)]


@pytest.fixture
def evaluation(suite_of, questions):
    return prepare(suite_of(*questions, generate={"max_tokens": 24}))


@pytest.fixture
def report_of(evaluation):
    """Run the suite on a target by its name."""

    def run_on(name, **options):
        target = open_target(str(name), **options)
        try:
            return run_suite(evaluation, target)
        finally:
            getattr(target, "close", lambda: None)()

    return run_on


def answers(report):
    return [result["answer"] for result in report["results"]]


def check_performance(report, *known):
    measured = report["performance"]
    assert set(measured) == MEASURED
    assert {key for key in MEASURED if (measured[key] or 0) > 0} >= set(known), measured


def test_targets_with_the_same_weights_answer_alike(report_of, gguf_file, llama_server, tmp_path):
    base = report_of(BASE)
    check_performance(base, *MEASURED)
    assert (base["passed"], base["not_answered"], base["distinct_answers"]) == (4, 0, len(set(answers(base))))
    assert all(len(text) > 20 for text in answers(base))
    gguf = report_of(gguf_file)
    check_performance(gguf, *MEASURED)
    server = report_of(f"{llama_server}/v1#tiny")
    check_performance(server, "first_token_s", "tokens_per_s")
    written = tmp_path / "answers.jsonl"
    rows = [{"id": f"q{number}", "answer": text} for number, text in enumerate(answers(base))]
    written.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    file = report_of(f"answers:{written}")
    check_performance(file)
    for other in (gguf, server, file):
        assert answers(other) == answers(base)
        same = (
            "passed",
            "pass_rate",
            "verdict",
            "interval",
            "balanced",
            "best_constant",
            "distinct_answers",
            "criteria",
        )
        assert {key: other[key] for key in same} == {key: base[key] for key in same}
    assert len({report["target_identity"] for report in (base, gguf, server, file)}) == 4


@pytest.mark.slow
def test_a_run_and_its_fused_weights(report_of, run, tmp_path):
    from mlx_lora.export.fuse import fuse

    assert fuse(str(run), tmp_path / "fused").verdict == "verified"
    adapter, fused = report_of(run), report_of(tmp_path / "fused")
    assert answers(adapter) == answers(fused) != answers(report_of(BASE))
    check_performance(adapter, *MEASURED)
    check_performance(fused, *MEASURED)


def test_torch(report_of):
    pytest.importorskip("torch", reason="needs the extra torch")
    assert answers(report_of(BASE, requested="torch")) == answers(report_of(BASE, requested="mlx"))


def test_ollama(report_of, questions, tmp_path, monkeypatch):
    pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")

    def said(model, prompt, options):
        return Answer(f"EISV_TOKENS {prompt[-5:]} {options['seed']}", prompt_tokens=9, tokens=4)

    with ollama_server(tmp_path / "blobs", said) as state:
        monkeypatch.setenv("OLLAMA_HOST", state.url)
        state.models["lumen:latest"] = Model(tmp_path, None, None, {})
        report = report_of("ollama:lumen")
        # Each case has the seed of its place.
        ends = [question["messages"][-1]["content"][-5:] for question in questions]
        assert answers(report) == [f"EISV_TOKENS {end} {seed}" for seed, end in enumerate(ends)]
        check_performance(report, "load_s", "first_token_s", "tokens_per_s")
        asked = [body["messages"] for _, path, body in state.requests if path == "/api/chat"]
        assert sorted(map(json.dumps, asked)) == sorted(json.dumps(question["messages"]) for question in questions)
        with pytest.raises(UserError, match="Ollama has no model other:latest"):
            open_target("ollama:other")


def test_requests_to_a_server_are_bounded_and_have_the_seed_of_their_case(report_of, questions):
    with completions_server() as state:
        report = report_of(f"{state.url}/v1#tiny")
        assert (report["not_answered"], state.most_at_once) == (0, min(4, state.most_at_once))
        seeds = {json.dumps(body["messages"]): body["seed"] for body in state.requests}
        assert seeds == {json.dumps(question["messages"]): seed for seed, question in enumerate(questions)}
        check_performance(report, "first_token_s", "tokens_per_s")


def test_seeds_are_those_that_every_program_takes(report_of, evaluation):
    with completions_server() as state:
        target = open_target(f"{state.url}/v1#tiny")
        run_suite(evaluation, target, generation=Generation(8, 1.0, 2**63 - 1))
        assert all(0 <= body["seed"] < 2**31 for body in state.requests)
        assert len({body["seed"] for body in state.requests}) == 4


def test_greedy_answers_of_a_group_do_not_depend_on_an_interruption(evaluation, tmp_path):
    """A group is answered as a whole: its seed and its company stay, whatever is in the file."""
    target = open_target(BASE)
    target.group = 2
    settings = Generation(12, 1.0, 5)
    whole = run_suite(evaluation, target, generation=settings, out=tmp_path)
    file = tmp_path / "answers_mine.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(set(answers(whole))) > 1
    file.write_text("".join(lines[:4]))
    asked = []
    generate = target.backend.generate
    target.backend.generate = lambda prompts, *rest: asked.append(len(prompts)) or generate(prompts, *rest)
    again = run_suite(evaluation, target, generation=settings, out=tmp_path)
    assert answers(again) == answers(whole)
    assert 2 in asked
    assert sum(asked) <= 4


def identity(name, **options):
    return open_target(str(name), **options).identity


def test_the_identity_changes_with_whatever_decides_the_answers(changed_base, run, gguf_file, tmp_path):
    first = identity(BASE)
    assert identity(changed_base("same")) == first
    assert identity(changed_base("template", tokenizer_config={"chat_template": "{{ messages[0].content }}"})) != first
    adapter = identity(run)
    assert adapter != first
    scaled = tmp_path / "scaled"
    scaled.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (scaled / file.name).write_bytes(file.read_bytes())
    assert identity(scaled) == adapter
    config = json.loads((scaled / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] *= 2
    (scaled / "adapter_config.json").write_text(json.dumps(config))
    assert identity(scaled) != adapter
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(gguf_file.read_bytes())
    same = open_target(str(copy))
    assert same.identity == identity(gguf_file)
    same.close()
    copy.write_bytes(copy.read_bytes()[:-1] + b"\1")
    other = open_target(str(copy))
    assert other.identity != same.identity
    other.close()


def test_a_model_that_ollama_made_again_is_another_one(tmp_path, monkeypatch):
    pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")
    with ollama_server(tmp_path, lambda *_: Answer("a", 1, 1)) as state:
        monkeypatch.setenv("OLLAMA_HOST", state.url)
        state.models["lumen:latest"] = Model(tmp_path, None, None, {})
        first = identity("ollama:lumen")
        assert identity("ollama:lumen:latest") == first
        state.models["lumen:latest"] = Model(tmp_path, None, None, {"temperature": 1})
        assert identity("ollama:lumen") != first


def test_answers_that_eval_wrote_are_a_target(evaluation, tmp_path):
    with completions_server() as state:
        state.answers = lambda messages: f"EISV_TOKENS {messages[-1]['content'][-4:]}"
        asked = run_suite(evaluation, open_target(f"{state.url}/v1#tiny"), out=tmp_path)
    for name in ("answers_mine.jsonl", "samples_mine.jsonl"):
        assert answers(run_suite(evaluation, open_target(f"answers:{tmp_path / name}"))) == answers(asked)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("answers:absent.jsonl", "there is no such file"),
        ("answers:", "nothing is named after the colon"),
        ("ollama:", "nothing is named after the colon"),
        ("absent.gguf", "there is no such file"),
        ("http://127.0.0.1:1/v1", "with the model after the #"),
        ("http:///v1#m", "a server is named as"),
        ("http://127.0.0.1:x/v1#m", "a server is named as"),
        ("http://me:secret@host/v1#m", "the server's address holds a password"),
        ("absent", "there is no run directory absent here"),
    ],
)
def test_names_of_nothing(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as error:
        resolve(name)
    assert said in str(error.value)
    assert "secret" not in str(error.value)


def test_kinds(run, gguf_file, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    kinds = {
        BASE: "base",
        str(run): "run",
        str(gguf_file): "gguf",
        "ollama:a:b": "ollama",
        "https://host/v1#org/model": "server",
        f"answers:{tmp_path / 'a.jsonl'}": "answers",
    }
    assert {name: resolve(name).kind for name in kinds} == kinds
    assert resolve("ollama:a:b").remote_model == "a:b"
    assert replace(resolve("https://host/v1#org/model")).remote_model == "org/model"
