"""Requests made from the OpenAPI document against a real server: no 500, and no answer that it does not describe."""

from __future__ import annotations

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
# Every request has the token, and a key of a query that nobody reads is no error.
GENERATION = {"with-security-parameters": False, "allow-extra-parameters": False}
CONFIG = schemathesis.Config.from_dict({"generation": GENERATION})
SCHEMA = schemathesis.openapi.from_dict(openapi(ALL), config=CONFIG)
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
CASES = [(label, mode) for label in OPERATIONS for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]
# Operations that refuse, by 400 or 422, what a schema cannot say.
STRICTER = {"POST /v1/train", "POST /v1/fine_tuning/jobs", "GET /v1/fine_tuning/jobs"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("cases"), max_upload=1) as running:
        yield running
    assert running.errors == []


def check(server, label: str, mode: GenerationMode, cases: int, derandomize: bool) -> None:
    @settings(
        max_examples=max(1, cases // len(CASES)),
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[label].as_strategy(mode))
    def each(case) -> None:
        beyond = [positive_data_acceptance] if label in STRICTER else []
        case.call_and_validate(base_url=server.url, headers=server.headers, excluded_checks=beyond)

    try:
        each()
    except Unsatisfiable:
        pytest.skip("no request to it is wrong by its schema")


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_a_sample_of_requests(server, label, mode):
    check(server, label, mode, SAMPLE, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), CASES)
def test_many_requests(server, label, mode):
    check(server, label, mode, MANY, derandomize=False)
