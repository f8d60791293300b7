"""The chat service: answers of switched adapters, running batches, turns, the queue, and cancellation."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from chat_helpers import chat_service, greedy, pieces_of, text_of, user
from run_fixtures import SEVEN, make_run, sharpen

from mlx_lora.backends.answering import Sampling
from mlx_lora.evaluation.cases import with_system
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.runs.generations import Generations
from mlx_lora.serving.api_error import ApiError
from mlx_lora.serving.chat import engine as engine_module
from mlx_lora.serving.chat import service as chat_module
from mlx_lora.serving.chat.answering import Options

QUESTIONS = ["TRAJECTORY: shape: convergence", "Who are you?", "warmth 0.4, clarity 0.9", "1 2 3 4 5 6 7 8"]


@pytest.fixture(scope="module")
def models(make_model, tmp_path_factory):
    """A directory with two bases, and two runs on the first."""
    root = tmp_path_factory.mktemp("models")
    base = sharpen(make_model("llama")).rename(root / "base")
    sharpen(make_model("qwen3")).rename(root / "other")
    make_run(base, root / "runs" / "one", system_prompt="Be brief.", lora_target_modules=SEVEN)
    make_run(base, root / "runs" / "two", lora_rank=2, num_layers=1, seed=4)
    return root


@pytest.fixture(scope="module")
def expected(models):
    """What a freshly loaded target answers to each question, one by one."""

    def answers(name):
        target = load_target(str(models / name), "mlx")
        settings = Generation(12, 0.0, 0)
        conversations = [with_system(user(text), target.system_prompt) for text in QUESTIONS]
        return [target.answer([one], [""], settings)[0].text for one in conversations]

    found = {name: answers(name) for name in ("base", "other", "runs/one", "runs/two")}
    assert len({text for texts in found.values() for text in texts}) == 4 * len(QUESTIONS)
    return found


@pytest.fixture
def chat(models, tmp_path):
    with chat_service(tmp_path, models) as service:
        yield service


@pytest.fixture
def loads(monkeypatch):
    """Names of the bases that are loaded."""
    import mlx_lora.backends as backends

    found, real = [], backends.load_backend

    def loading(model, *arguments, **options):
        found.append(model.path.name)
        return real(model, *arguments, **options)

    monkeypatch.setattr(backends, "load_backend", loading)
    return found


def test_each_model_answers_as_a_fresh_target_and_a_base_is_loaded_once(chat, expected, loads):
    for name in ("runs/one", "base", "runs/two", "runs/one"):
        assert [text_of(chat.ask(name, user(text), greedy())) for text in QUESTIONS] == expected[name]
    assert loads == ["base"]


def test_requests_of_many_clients_to_several_models_have_the_answers_of_one_by_one(chat, expected, monkeypatch):
    # Turns of one step: every model's answers are cut into many.
    monkeypatch.setattr(chat_module, "TURN", 0.0)
    work = [(name, number) for _ in range(3) for number in range(len(QUESTIONS)) for name in expected]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda one: text_of(chat.ask(one[0], user(QUESTIONS[one[1]]), greedy())), work)
        assert list(answers) == [expected[name][number] for name, number in work]


def test_the_live_generation_changes_between_two_requests(chat, models, expected, loads, tmp_path):
    generations = Generations(models / "adapters" / "agent")
    for number, name in enumerate(("one", "two"), 1):
        assert generations.add(models / "runs" / name, {"cycle": name}) == number
    asked = user(QUESTIONS[0])
    for name in ("agent@live", "adapters/agent@live", "adapters/agent"):
        # The base is live.
        assert text_of(chat.ask(name, asked, greedy())) == expected["base"][0]
    generations.promote(1, "better")
    assert text_of(chat.ask("agent@live", asked, greedy())) == expected["runs/one"][0]
    generations.promote(2, "better still")
    assert text_of(chat.ask("agent@live", asked, greedy())) == expected["runs/two"][0]
    generations.rollback("worse")
    assert text_of(chat.ask("agent@live", asked, greedy())) == expected["runs/one"][0]
    assert text_of(chat.ask("agent@2", asked, greedy())) == expected["runs/two"][0]
    assert loads == ["base"]


def test_the_least_recently_used_base_makes_place(models, tmp_path, expected, loads):
    with chat_service(tmp_path, models, most_bases=1) as chat:
        for name in ("base", "other", "other", "runs/one"):
            assert text_of(chat.ask(name, user(QUESTIONS[1]), greedy())) == expected[name][1]
    assert loads == ["base", "other", "base"]


def test_a_base_whose_answers_grow_is_not_driven_out(models, tmp_path, expected, loads, monkeypatch):
    monkeypatch.setattr(chat_module, "TURN", 0.0)
    with chat_service(tmp_path, models, start=False, most_bases=1) as chat:
        names = ["base", "other", "runs/two"]
        asked = [chat.ask(name, user(QUESTIONS[2]), greedy()) for name in names]
        chat.start()
        assert [text_of(one) for one in asked] == [expected[name][2] for name in names]
    # The third request does not go before the second, for which it would keep the base busy.
    assert loads == ["base", "other", "base"]


def test_a_full_queue_is_refused(models, tmp_path):
    with chat_service(tmp_path, models, start=False, most_requests_waiting=2) as chat:
        first, _ = (chat.ask("base", user("a"), greedy(2)) for _ in range(2))
        with pytest.raises(ApiError, match="2 requests wait already") as refused:
            chat.ask("base", user("a"), greedy(2))
        assert refused.value.status == 429
        # One that nobody waits for makes place.
        first.cancel()
        third = chat.ask("base", user("a"), greedy(2))
        chat.start()
        assert text_of(third)


def test_an_answer_that_nobody_waits_for_frees_its_row(chat, monkeypatch):
    seen, real = [], engine_module.Engine.use

    def using(self, model):
        backend, batch = real(self, model)
        seen.append(batch)
        return backend, batch

    monkeypatch.setattr(engine_module.Engine, "use", using)
    answering = chat.ask("base", user("a"), Options(Sampling(4000, temperature=1.0, seed=1)))
    pieces = pieces_of(answering)
    next(pieces)
    assert len(seen[0]) == 1
    pieces.close()
    # Answered by the same thread, after the row is gone.
    text_of(chat.ask("base", user("b"), greedy(1)))
    assert len(seen[0]) == 0
    assert answering.completion_tokens < 1000


def test_a_seed_draws_the_same_answer_whatever_else_is_asked(chat):
    drawn = Options(Sampling(12, temperature=0.8, top_p=0.95, seed=7))
    alone = text_of(chat.ask("base", user("a"), drawn))
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(lambda: text_of(chat.ask("base", user("b"), greedy(30)))) for _ in range(5)]
        assert text_of(chat.ask("base", user("a"), drawn)) == alone
        assert len({other.result() for other in others}) == 1
    assert text_of(chat.ask("base", user("a"), Options(Sampling(12, temperature=0.8, seed=8)))) != alone


def test_a_stop_text_ends_an_answer_before_it(chat, expected):
    whole = expected["base"][0]
    for stop in (whole[4:6], whole[1:], whole[-1]):
        answering = chat.ask("base", user(QUESTIONS[0]), greedy(stop=("never in it", stop)))
        assert text_of(answering) == whole[: whole.index(stop)]
        assert answering.finish_reason == "stop"


def test_what_is_refused_in_a_sentence(chat, models):
    def refused(model, prompt, options=None):
        with pytest.raises(ApiError) as error:
            text_of(chat.ask(model, prompt, options or greedy()))
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)
        return error.value.status, str(error.value)

    for name in ("none", "../models/base", "/etc", str(models / "base"), "base/../base", "runs", "", "ft:x:y:z", "~"):
        assert refused(name, user("a"))[0] == 404, name
    status, said = refused("base", user("word " * 3000))
    assert (status, "has a context of 2,048" in said) == (400, True)
    assert refused("base", [{"role": "poet", "content": "a"}])[1].startswith("messages: the role 'poet' is unknown")
    assert refused("base", [{"role": "user", "content": [{"type": "image_url"}]}])[0] == 400
    assert "is not a token" in refused("base", [10**6])[1]
    (models / "broken").mkdir(exist_ok=True)
    (models / "broken" / "config.json").write_text("{")
    (models / "broken" / "model.safetensors").write_text("")
    assert refused("broken", user("a"))[0] == 404


def test_an_adapter_that_does_not_fit_disturbs_no_other(chat, models, expected, tmp_path):
    import json
    import shutil

    bad = models / "runs" / "bad"
    shutil.copytree(models / "runs" / "two", bad)
    description = json.loads((bad / "adapter_config.json").read_text())
    description["lora_parameters"]["rank"] = 3
    (bad / "adapter_config.json").write_text(json.dumps(description))
    try:
        with pytest.raises(ApiError, match="does not fit its base model") as refused:
            text_of(chat.ask("runs/bad", user("a"), greedy()))
        assert refused.value.status == 400
    finally:
        shutil.rmtree(bad)
    assert text_of(chat.ask("runs/two", user(QUESTIONS[3]), greedy())) == expected["runs/two"][3]


def test_a_defect_is_answered_and_the_next_request_works(chat, expected, monkeypatch, caplog):
    from mlx_lora.backends.mlx.answer_batch import MLXAnswerBatch

    def failing(self):
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(MLXAnswerBatch, "step", failing)
        with pytest.raises(ApiError, match="ZeroDivisionError") as failed:
            text_of(chat.ask("base", user("a"), greedy()))
    assert failed.value.status == 500
    assert "a defect" in caplog.text
    assert text_of(chat.ask("base", user(QUESTIONS[0]), greedy())) == expected["base"][0]


def test_requests_end_with_the_service(models, tmp_path):
    with chat_service(tmp_path, models) as chat:
        answering = chat.ask("base", user("a"), Options(Sampling(4000, temperature=1.0)))
        next(pieces_of(answering))
        waiting = chat.ask("other", user("a"), Options(Sampling(4000, temperature=1.0)))
    with pytest.raises(ApiError, match="stopping"):
        text_of(waiting)
    with pytest.raises(ApiError, match="stopping"):
        chat.ask("base", user("a"), greedy())
    assert threading.active_count() < 50
