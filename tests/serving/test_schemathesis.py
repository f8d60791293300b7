"""Requests made from the OpenAPI document against a real server: no 500, and no answer that it does not describe."""

from __future__ import annotations

import os
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from server import running_server

from mlx_lora.serving.app import ALL
from mlx_lora.serving.openapi import openapi

SAMPLE, MANY = 100, 2000
# The same cases each time, so that a change is judged by what it changes; RANDOM_CASES=1 draws others.
SAME = not os.environ.get("RANDOM_CASES")
# Every request has the token, and a key of a query that nobody reads is no error.
GENERATION = {"with-security-parameters": False, "allow-extra-parameters": False}
CONFIG = schemathesis.Config.from_dict({"generation": GENERATION})
SCHEMA = schemathesis.openapi.from_dict(openapi(ALL), config=CONFIG)
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
CASES = [(label, mode) for label in OPERATIONS for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]
# Operations that refuse, by 400 or 422, what a schema cannot say.
STRICTER = {"POST /v1/train", "POST /v1/fine_tuning/jobs", "GET /v1/fine_tuning/jobs", "GET /v1/files"}

MODEL = "builtin/tiny-lumen"
# What is there, in place of generated names, so that more than "not found" is answered; and answers are short.
KNOWN = {
    "POST /v1/chat/completions": {"model": MODEL, "max_tokens": 2, "max_completion_tokens": 2},
    "POST /v1/completions": {"model": MODEL, "max_tokens": 2},
    "GET /v1/models/{model}": {"model": MODEL},
    "GET /v1/files/{file_id}": {"file_id": "FILE"},
    "GET /v1/files/{file_id}/content": {"file_id": "FILE"},
    **{
        label: {"job_id": "JOB", "fine_tuning_job_id": "JOB", "id": "JOB"}
        for label in OPERATIONS
        if label.startswith(
            ("GET /v1/fine_tuning/jobs/", "POST /v1/fine_tuning/jobs/", "GET /v1/train/", "GET /v1/jobs/")
        )
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("cases"), max_upload=1) as running:
        yield running
    assert running.errors == []


@pytest.fixture(scope="module")
def known(server):
    """A file that is no dataset, and the job that failed on it."""
    with server.client() as client:
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", b"no JSON\n")}}
        names = {"FILE": client.post("/v1/files", **form).json()["id"]}
        if "POST /v1/fine_tuning/jobs" in OPERATIONS:
            job = client.post("/v1/fine_tuning/jobs", json={"model": MODEL, "training_file": names["FILE"]}).json()
            names["JOB"] = job["id"]
            end = time.monotonic() + 120
            while client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["status"] != "failed":
                assert time.monotonic() < end
                time.sleep(0.05)
    return names


def check(label: str, mode: GenerationMode, cases: int, derandomize: bool, send) -> None:
    @settings(
        max_examples=max(1, cases),
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[label].as_strategy(mode))
    def each(case) -> None:
        send(case)

    try:
        each()
    except Unsatisfiable:
        pytest.skip("no request to it is wrong by its schema")


def sender(server, label: str):
    beyond = [positive_data_acceptance] if label in STRICTER else []
    return lambda case: case.call_and_validate(
        base_url=server.url, headers=server.headers, excluded_checks=beyond, timeout=60
    )


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_a_sample_of_requests(server, label, mode):
    check(label, mode, SAMPLE // len(CASES), True, sender(server, label))


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), CASES)
def test_many_requests(server, label, mode):
    check(label, mode, MANY // len(CASES), SAME, sender(server, label))


def with_known(server, known, label: str):
    """Send requests for what is there; that the server may refuse the rest of them is not judged."""

    def send(case) -> None:
        for key, value in KNOWN[label].items():
            for place in (case.path_parameters, case.body):
                if isinstance(place, dict) and (key in place or key == "max_tokens"):
                    place[key] = known.get(value, value)
        case.call_and_validate(
            base_url=server.url, headers=server.headers, excluded_checks=[positive_data_acceptance], timeout=60
        )

    return send


@pytest.mark.slow
@pytest.mark.parametrize("label", [label for label in KNOWN if label in OPERATIONS])
def test_a_sample_of_requests_for_what_is_there(server, known, label):
    check(label, GenerationMode.POSITIVE, 5, True, with_known(server, known, label))


@pytest.mark.slow
@pytest.mark.parametrize("label", [label for label in KNOWN if label in OPERATIONS])
def test_many_requests_for_what_is_there(server, known, label):
    check(label, GenerationMode.POSITIVE, 60, SAME, with_known(server, known, label))
