"""JSON bodies and queries that do not fit their models: 400, 415 or 422, the key, and a sentence."""

from __future__ import annotations

import json
import sqlite3
from typing import Annotated, Any, Literal
from urllib.parse import quote

import pytest
from pydantic import Field
from starlette.testclient import TestClient

from mlx_lora.errors import UserError
from mlx_lora.serving.api import Call, Lenient, Route, Services, Strict
from mlx_lora.serving.api_error import ApiError
from mlx_lora.serving.app import make_app
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State


class Inner(Strict):
    epochs: Annotated[int, Field(ge=1)]


class Body(Strict):
    name: str
    count: int | Literal["auto"] = "auto"
    rate: float = 1.0
    inner: Inner | None = None
    rows: list[Inner] = Field(default_factory=list)
    free: dict[str, Any] = Field(default_factory=dict)


class Query(Lenient):
    limit: int = 3
    tags: list[str] = Field(default_factory=list)


def echo(call: Call) -> Body:
    return call.body


def query(call: Call) -> Body:
    return Body(name=",".join(call.query.tags), count=call.query.limit)


def broken(call: Call) -> Body:
    raise {
        "api": ApiError(409, "It cannot be done now."),
        "user": UserError("rows.jsonl, line 3: this is wrong; correct it"),
        "full": OSError(28, "No space left on device"),
        "defect": KeyError("secret"),
        "sqlite": sqlite3.OperationalError("something"),
    }[call.path["kind"]]


ROUTES = [
    Route("POST", "/v1/echo", "Echo", echo, body=Body, answer=Body),
    Route("GET", "/v1/query", "Query", query, query=Query, answer=Body),
    Route("GET", "/v1/broken/{kind}", "Break", broken, answer=Body),
    Route("GET", "/v1/train/{kind}", "Break", broken, answer=Body, contract="train"),
    Route("GET", "/v1/models/{kind:path}", "Path", lambda call: Body(name=call.path["kind"]), answer=Body),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    settings = ServerSettings(tmp_path_factory.mktemp("state"), most_body_bytes=200_000)
    services = Services(settings, State(settings.state), scheduler=None, chat=None)
    return TestClient(make_app(services, ROUTES), base_url="http://localhost", raise_server_exceptions=True)


def post(client, content: str | bytes, kind="application/json"):
    answer = client.post("/v1/echo", content=content, headers={"Content-Type": kind})
    return answer.status_code, answer.json().get("error", answer.json())


def test_what_fits_arrives(client):
    body = {
        "name": "ü\U0001f600\x00",
        "count": 2,
        "rate": 3,
        "inner": {"epochs": 1},
        "rows": [],
        "free": {"a": [None, 1.5]},
    }
    assert post(client, json.dumps(body), "application/json; charset=utf-8") == (200, body)


def test_whole_numbers_may_have_a_point(client):
    status, body = post(
        client, '{"name": "a", "count": 2.0, "rows": [{"epochs": 1.0}, {"epochs": 1e1}], "free": {"a": 1.0}}'
    )
    assert (status, body["count"], body["rows"]) == (200, 2, [{"epochs": 1}, {"epochs": 10}])
    assert type(body["free"]["a"]) is float
    assert post(client, '{"name": "a", "count": 2.5}')[1]["param"] == "count"
    assert post(client, '{"name": "a", "inner": {"epochs": -1.0}}')[1]["message"] == (
        "inner.epochs: input should be greater than or equal to 1."
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *[("", "EOF"), ("{", "EOF"), ("{'name': 1}", "key must be a string"), (b"\xff", "expected value")],
        *[(b'{"name": "\xff"}', "unicode"), ('{"name": "\\ud800"}', "hex escape"), ("[" * 100_000, "recursion limit")],
        *[('{"name":' * 20_000, "recursion limit"), ('{"rate": NaN}', "expected value")],
        *[('{"rate": -Infinity}', "invalid number"), ('{"free": {"a": 1e999}}', "not JSON compliant")],
        *[('{"count": ' + "1" * 5000 + "}", "number out of range"), ("\ufeff{}", "expected value")],
        ('{"name": "a"} {}', "trailing characters"),
    ],
)
def test_what_is_not_json(client, content, said):
    status, error = post(client, content)
    assert (status, error["code"]) == (400, "invalid_json")
    assert error["message"].startswith("The body cannot be read as JSON (")
    assert said in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "name", "name: this key is missing."),
        ({"name": 1}, "name", "name: input should be a valid string."),
        ({"name": None}, "name", "name: input should be a valid string."),
        ({"name": "a", "nam": 1}, "nam", "nam: there is no such key."),
        ({"name": "a", "count": "two"}, "count", "count: input should be a valid integer, or input should be 'auto'."),
        ({"name": "a", "count": "2"}, "count", "count: input should be a valid integer, or input should be 'auto'."),
        ({"name": "a", "count": True}, "count", "count: input should be a valid integer, or input should be 'auto'."),
        ({"name": "a", "inner": {}}, "inner.epochs", "inner.epochs: this key is missing."),
        (
            {"name": "a", "inner": {"epochs": 0}},
            *("inner.epochs", "inner.epochs: input should be greater than or equal to 1."),
        ),
        ({"name": "a", "rows": [{"epochs": 1}, {"epochs": 1, "x": 2}]}, "rows.1.x", "rows.1.x: there is no such key."),
        ([], None, "the body: input should be an object."),
        (None, None, "the body: input should be an object."),
    ],
)
def test_what_does_not_fit_names_its_key(client, body, param, said):
    status, error = post(client, json.dumps(body))
    assert (status, error["message"], error["param"]) == (422, said, param)


def test_a_key_of_any_length_makes_a_short_sentence(client):
    status, error = post(client, json.dumps({"name": "a", "x" * 100_000: 1}))
    assert status == 422
    assert len(error["message"]) < 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_only_json_is_json(client, kind):
    assert post(client, '{"name": "a"}', kind)[0] == 415


def test_a_body_that_is_too_long_is_not_parsed(client):
    assert post(client, json.dumps({"name": "x" * 200_000}))[0] == 413
    parts = (b"x" * 1000 for _ in range(300))
    answer = client.post("/v1/echo", content=parts, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_long")


def test_queries(client):
    assert client.get("/v1/query?limit=7&tags=a&tags=b&other=1").json()["name"] == "a,b"
    answer = client.get("/v1/query?limit=x")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "limit")


@pytest.mark.parametrize(
    ("kind", "status", "said", "logged"),
    [
        ("api", 409, "It cannot be done now.", 0),
        ("user", 400, "rows.jsonl, line 3: this is wrong; correct it", 0),
        ("full", 507, "The server's disk is full; free some space, and send the request again.", 0),
        ("defect", 500, "The server failed on this request (KeyError); its log says more.", 1),
        ("sqlite", 500, "The server failed on this request (OperationalError); its log says more.", 1),
    ],
)
def test_exceptions_are_answers_in_the_shape_of_their_contract(client, caplog, kind, status, said, logged):
    answer = client.get(f"/v1/broken/{kind}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, said)
    assert answer.json()["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    answer = client.get(f"/v1/train/{kind}")
    assert (answer.status_code, answer.json()) == (status, {"error": said})
    assert len(caplog.records) == 2 * logged


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *[("builtin/tiny-lumen", 200), ("adapters/Lumen two@live", 200), ("ft:builtin/tiny-lumen:x:1", 200)],
        *[
            ("../secret", 404),
            ("a/%2e%2e/b", 404),
            ("a/%2e/b", 404),
            ("a//b", 404),
            ("/etc/passwd", 404),
            ("a/%00", 404),
        ],
        *[("a%5cb", 404), ("%2e%2e/secret", 404), ("a/%2e%2e%2fsecret", 404), ("a/", 404), ("a/...", 404)],
    ],
)
def test_names_of_models_have_folders_and_stay_below_them(client, path, status):
    answer = client.get(f"/v1/models/{path if '%' in path else quote(path, safe='/:@')}")
    assert answer.status_code == status
