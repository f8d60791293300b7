"""docs/openapi.json: generated from the routes, and what the server answers to /openapi.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator
from server import running_server

from mlx_lora.serving.app import ALL
from mlx_lora.serving.openapi import COMMON, openapi

FILE = Path(__file__).parent.parent.parent / "docs" / "openapi.json"
DOCUMENT = openapi(ALL)
OPERATIONS = [
    pytest.param(path, operation, id=f"{method} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def test_the_file_is_what_the_command_prints(command):
    """``mlx-lora serve --openapi >docs/openapi.json`` writes it anew."""
    printed = command("serve", "--openapi").stdout
    assert json.loads(printed) == DOCUMENT
    assert FILE.read_text(encoding="utf-8") == printed


def test_a_server_answers_with_it_without_a_token(tmp_path):
    with running_server(tmp_path) as server:
        assert httpx.get(server.url + "/openapi.json").json() == DOCUMENT


def test_every_route_is_in_it():
    served = {(route.method.lower(), re.sub(r":path\}", "}", route.path)) for route in ALL}
    assert served == {(method, path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert len(ALL) == len(served)


def test_names_are_unique():
    names = [operation["operationId"] for operations in DOCUMENT["paths"].values() for operation in operations.values()]
    assert sorted(names) == sorted(set(names))


def test_every_reference_leads_to_a_schema_and_every_schema_is_one():
    schemas = DOCUMENT["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT))) == {
        f"#/components/schemas/{name}" for name in named
    }
    assert named <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_operation_says_what_it_takes_and_answers(path, operation):
    assert operation["summary"][0].isupper()
    declared = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
    assert declared == re.findall(r"\{(\w+)\}", path)
    assert {str(status) for status in COMMON} <= set(operation["responses"])
    assert [status for status in operation["responses"] if status.startswith("2")]
    train = path.startswith(("/v1/train", "/v1/predict"))
    error = operation["responses"]["401"]["content"]["application/json"]["schema"]["$ref"]
    assert error == f"#/components/schemas/{'TrainError' if train else 'OpenAIError'}"
    # What needs no token holds no data.
    assert ("security" in operation) == (not path.startswith("/v1/"))
