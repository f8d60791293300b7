"""Uploaded files by OpenAI's own client, and ids and names that would leave the directory."""

from __future__ import annotations

import os
import re

import openai
import pytest
from raw_http import request, send_raw
from server import running_server

from mlx_lora.serving.records import Job
from mlx_lora.serving.state import State


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("files")) as running:
        yield running
    assert running.errors == []


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=server.token, max_retries=0) as client:
        yield client
        for file in client.files.list():
            client.files.delete(file.id)


def upload(client, name="rows.jsonl", content=b'{"a": 1}\n'):
    return client.files.create(file=(name, content), purpose="fine-tune")


def test_a_file_comes_back_as_it_was_sent(client, server):
    content = os.urandom(100_000) + b"\r\n--boundary\r\n\r\n"
    file = upload(client, "Zeilen für Montag.jsonl", content)
    assert (file.object, file.bytes, file.filename, file.purpose, file.status) == (
        *("file", len(content), "Zeilen für Montag.jsonl", "fine-tune", "processed"),
    )
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    assert (server.state_dir / "files" / file.id).read_bytes() == content
    assert client.files.delete(file.id).deleted
    assert not (server.state_dir / "files" / file.id).exists()
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match=f"There is no file {file.id}"):
            ask(file.id)


def test_an_empty_file_is_a_file(client):
    assert client.files.content(upload(client, content=b"").id).content == b""


def test_lists_come_in_pages_of_either_order(client):
    made = [upload(client, f"{number}.jsonl").id for number in range(5)]
    assert [file.id for file in client.files.list()] == made[::-1]
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    page = client.files.list(limit=2, order="asc")
    assert ([file.id for file in page.data], page.has_more) == (made[:2], True)
    page = client.files.list(limit=2, order="asc", after=made[2])
    assert ([file.id for file in page.data], page.has_more) == (made[3:], False)
    assert client.files.list(purpose="batch").data == []
    with pytest.raises(openai.BadRequestError, match="after: the list has no item 'file-none'"):
        client.files.list(after="file-none")
    with pytest.raises(openai.UnprocessableEntityError, match="limit: input should be less than or equal to 10000"):
        client.files.list(limit=10_001)


def test_a_file_that_a_job_needs_is_not_deleted(client, server):
    file = upload(client)
    state = State(server.state_dir)
    state.add_job(Job("ftjob-1", "fine_tuning", "m", {}, {}, "file-x", "paused", validation_file=file.id))
    with pytest.raises(openai.ConflictError, match="The job ftjob-1 needs this file"):
        client.files.delete(file.id)
    assert client.files.content(file.id).content == b'{"a": 1}\n'
    state.update_job("ftjob-1", status="cancelled")
    assert client.files.delete(file.id).deleted
    state.close()


def test_bytes_that_are_gone_are_said_to_be(client, server):
    file = upload(client)
    (server.state_dir / "files" / file.id).unlink()
    with pytest.raises(openai.NotFoundError, match="are gone from the server's disk"):
        client.files.content(file.id)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *[
            ("../../../../tmp/x.jsonl", "x.jsonl"),
            ("/etc/passwd", "passwd"),
            ("C:\\a\\b.jsonl", "b.jsonl"),
            ("..", ".."),
        ],
        *[("a" * 1000 + ".jsonl", "a" * 255), ("\x1b[31mred", "[31mred"), ("<script>alert(1)</script>", "script>")],
        *[("../", "file"), ("state.db", "state.db"), (".upload-1.tmp", ".upload-1.tmp")],
    ],
)
def test_a_file_name_is_shown_and_is_no_path(client, server, name, shown):
    file = upload(client, name)
    assert file.filename == shown
    assert [
        name for name in os.listdir(server.state_dir / "files") if not re.fullmatch(r"file-[0-9a-f]{24}", name)
    ] == []
    assert sorted(os.listdir(server.state_dir)) == [
        *(".lock", "files", "jobs", "state.db", "state.db-shm", "state.db-wal", "token"),
    ]


@pytest.mark.parametrize(
    "identity",
    [
        *["../token", "..%2ftoken", "%2e%2e%2ftoken", "..%5ctoken", "%2e%2e", "..", ".", "....//token", "%00", "a%00b"],
        *[
            "%2fetc%2fpasswd",
            "file-1%0d%0aX:y",
            "file-1%20",
            "%ff",
            "%ed%a0%80",
            "x" * 201,
            "x" * 20_000,
            "%",
            "file-%3F",
        ],
        *["..;/token", "%252e%252e%252ftoken", "file-1'--", "*", "file_%"],
    ],
)
@pytest.mark.parametrize("form", ["/v1/files/{}", "/v1/files/{}/content"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_ids_lead_nowhere(server, identity, form, method):
    token = f"Authorization: Bearer {server.token}"
    answer = send_raw(server.url, request(method, form.format(identity), "Host: localhost", token))
    assert answer.status in (404, 405)
    assert answer.json["error"]["message"].endswith(".")
    assert server.token.encode() not in answer.body
    assert (server.state_dir / "token").exists()


def test_methods_and_paths_that_do_not_exist(server):
    with server.client() as client:
        answer = client.put("/v1/files")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
        assert answer.json()["error"]["message"] == "This path has no method PUT."
        for path in ("/v1/files/", "//v1/files", "/v1", "/V1/files", "/v1/files/a/b"):
            assert (client.get(path).status_code, client.get(path).json()["error"]["code"]) == (404, "not_found")
        head = client.head("/v1/files")
        assert (head.status_code, head.content) == (200, b"")
