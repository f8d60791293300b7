"""Chat against a real server process: OpenAI's client, our commands, many clients, and a client that is cut off."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from chat_helpers import user
from run_fixtures import SEVEN, make_run, sharpen
from server import running_server

from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.runs.generations import Generations

QUESTION = user("TRAJECTORY: shape: convergence")


@pytest.fixture(scope="module")
def models(make_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base = sharpen(make_model("llama")).rename(root / "base")
    for number, name in enumerate(("one", "two")):
        run = make_run(base, root / "runs" / name, lora_target_modules=SEVEN[: 7 - number])
        Generations(root / "adapters" / "agent").add(run, {"cycle": name})
    return root


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server"), models=models, backend="mlx") as running:
        yield running
    assert "Traceback" not in "".join(running.errors)


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as made:
        yield made


def answer(client, model, question=QUESTION, **options):
    asked = {"model": model, "messages": question, "max_tokens": 12, "temperature": 0, **options}
    return client.chat.completions.create(**asked).choices[0].message.content


@pytest.fixture(scope="module")
def expected(models):
    def of(name):
        (reply,) = load_target(str(models / name), "mlx").answer([QUESTION], [""], Generation(12, 0.0, 0))
        return reply.text

    found = {name: of(name) for name in ("base", "runs/one", "runs/two")}
    assert len(set(found.values())) == 3
    return found


def test_the_live_generation_follows_a_promotion(client, models, expected):
    generations = Generations(models / "adapters" / "agent")
    assert answer(client, "agent@live") == expected["base"]
    for number, name in ((1, "runs/one"), (2, "runs/two")):
        generations.promote(number, "better")
        assert answer(client, "agent@live") == expected[name]
        assert client.models.retrieve("agent@live").id == "agent@live"
    assert "adapters/agent@live" in [model.id for model in client.models.list()]


def test_many_clients_of_several_models(client, server, expected):
    """Short answers come while another model's long one grows, and other requests are answered meanwhile."""
    names = [*expected] * 13
    with ThreadPoolExecutor(40) as pool, server.client() as http:
        asked = {"model": "runs/two", "messages": QUESTION, "max_tokens": 400, "seed": 1, "stop": ["\x00"]}
        long = client.chat.completions.create(**asked, stream=True)
        next(long)
        answers = [pool.submit(answer, client, name) for name in names]
        lookups = [pool.submit(http.get, "/v1/models") for _ in names]
        assert [one.result() for one in answers] == [expected[name] for name in names]
        assert {one.result().status_code for one in lookups} == {200}
        assert len(list(long)) > 1


def test_a_stream_without_a_token_is_refused_before_it_begins(server):
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        answer(stranger, "base", stream=True)


def test_keys_that_mean_nothing_here_are_refused_in_a_sentence(client):
    for options in ({"n": 2}, {"logit_bias": {"5": 1}}, {"presence_penalty": 1}, {"response_format": {"type": "json"}}):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            answer(client, "base", **options)
        assert next(iter(options)) in refused.value.message
    assert answer(client, "base", n=1, logit_bias={}, presence_penalty=0, user="me", store=False)


def test_the_command_evaluates_the_served_run_as_the_run(server, models, command, tmp_path):
    suite = {
        "name": "small",
        "cases": {"file": "cases.jsonl"},
        "gate": "ship",
        "threshold": 0.5,
        "generate": {"max_tokens": 8, "temperature": 0.0},
        "checks": [{"contains_all": {}}],
    }
    cases = [json.dumps({"id": str(n), "prompt": f"warmth 0.{n}", "expect": ["a"]}) for n in range(4)]
    (tmp_path / "cases.jsonl").write_text("\n".join(cases))
    (tmp_path / "small.yaml").write_text(json.dumps(suite))
    texts = []
    for target in (models / "runs" / "one", f"{server.url}/v1#runs/one"):
        out = tmp_path / f"{len(texts)}.json"
        words = ["eval", "--suite", tmp_path / "small.yaml", "--target", target, "--out", out]
        done = command(*words, env={**os.environ, "OPENAI_API_KEY": server.token})
        assert done.returncode in (0, 1), done.stderr
        texts.append([result["answer"] for result in json.loads(out.read_text())["results"]])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 4


def test_a_server_that_ends_cuts_no_client_silently(models, tmp_path):
    with running_server(tmp_path, models=models, backend="mlx") as server:
        body = {"model": "base", "messages": QUESTION, "stream": True, "seed": 3, "max_tokens": 1900}
        with (
            server.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            os.kill(server.process.pid, signal.SIGTERM)
            rest = []
            try:
                rest.extend(lines)
            except httpx.HTTPError:
                rest.append("cut")
        assert server.process.wait(60) == 0
        # It is whole or has no end: none is shortened as if it were whole.
        whole = '"finish_reason": "stop"' in "".join(rest) or '"finish_reason": "length"' in "".join(rest)
        assert ("data: [DONE]" in rest) == whole
        assert "Traceback" not in "".join(server.errors)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_any_request_to_a_model_that_is_there_is_answered_or_refused_in_a_sentence(server, path):
    """The document's requests name models that are not there; here is one, with messages of every kind."""
    from hypothesis import HealthCheck, given, settings, strategies

    odd = strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.integers(-9, 99999) | strategies.text(max_size=8),
        lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=5), inner),
        max_leaves=6,
    )
    roles = strategies.sampled_from(["system", "user", "assistant", "tool", "developer", "poet"]) | odd
    parts = strategies.lists(strategies.fixed_dictionaries({"type": strategies.just("text"), "text": odd}), max_size=2)
    keys = {"content": odd | parts, "tool_calls": odd, "name": odd, "refusal": odd, "tool_call_id": odd}
    texts = strategies.text(max_size=12)
    plain = strategies.fixed_dictionaries({"role": strategies.sampled_from(["user", "assistant"]), "content": texts})
    messages = strategies.lists(plain, min_size=1, max_size=3)
    messages |= strategies.lists(plain | strategies.fixed_dictionaries({"role": roles}, optional=keys), max_size=3)
    prompts = strategies.text(max_size=20) | strategies.lists(strategies.text(max_size=9), max_size=3)
    prompts |= strategies.lists(strategies.integers(-500, 1500), max_size=5) | odd
    logprobs = strategies.booleans() if "chat" in path else strategies.integers(-1, 25)
    options = {
        "stream": strategies.booleans(),
        "stop": strategies.text(max_size=3) | strategies.lists(strategies.text(max_size=3), max_size=5),
        "temperature": strategies.floats(0, 2),
        "top_p": strategies.floats(0, 1),
        "seed": strategies.integers(-(2**63), 2**63 - 1),
        "logprobs": logprobs,
        "top_logprobs": strategies.integers(0, 20),
        "echo": strategies.booleans(),
        "n": strategies.sampled_from([1, None, 2]),
    }
    asked = strategies.fixed_dictionaries(
        {
            "model": strategies.just("base"),
            "max_tokens": strategies.integers(1, 3) | strategies.integers(-1, 3),
            **({"messages": messages} if "chat" in path else {"prompt": prompts}),
        },
        optional=options,
    )
    if "chat" in path:
        asked |= asked.flatmap(lambda body: odd.map(lambda tools: {**body, "tools": tools}))
    seen = set()

    @settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck])
    @given(body=asked)
    def each(body):
        response = client.post(path, json=body)
        seen.add(response.status_code)
        assert response.status_code in (200, 400, 422), response.text
        if response.status_code == 200:
            whole = "stream" not in body or not body["stream"]
            assert response.json()["choices"] if whole else response.text.endswith("data: [DONE]\n\n")
        else:
            said = response.json()["error"]["message"]
            assert said.endswith((".", "…"))
            assert "\n" not in said

    with server.client() as client:
        each()
    assert seen == {200, 400, 422}
