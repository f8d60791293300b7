"""Bodies that are too long, encoded, malformed or cut: the right status and a sentence, and no memory."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest
from raw_http import connect, read_answer, request, send_raw
from server import running_server

MIB = 2**20
LIMIT = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("bodies"), max_upload=LIMIT) as running:
        yield running
    assert running.errors == []


@pytest.fixture
def left(server):
    """Files that a request leaves in the state, recorded ones aside."""
    before = set(os.listdir(server.state_dir / "files"))
    return lambda: set(os.listdir(server.state_dir / "files")) - before


def memory(server) -> int:
    """Peak memory of the server in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def upload_head(server, *headers: str) -> bytes:
    token = f"Authorization: Bearer {server.token}"
    kind = "Content-Type: multipart/form-data; boundary=b"
    return request("POST", "/v1/files", "Host: localhost", token, kind, *headers)


PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory of a process in /proc")
def test_a_gigabyte_is_refused_by_its_length_and_what_comes_all_the_same_takes_no_memory(server, left):
    before = memory(server)
    with connect(server.url) as connection:
        connection.sendall(upload_head(server, f"Content-Length: {2**30}") + PART)
        answer = read_answer(connection)
        assert (answer.status, answer.json["error"]["code"]) == (413, "too_long")
        for _ in range(64):
            connection.sendall(b"x" * MIB)
    assert memory(server) - before < 8 * MIB
    assert left() == set()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory of a process in /proc")
def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_long(server, left):
    before = memory(server)
    with connect(server.url) as connection:
        connection.sendall(upload_head(server, "Transfer-Encoding: chunked"))
        chunk = f"{MIB:x}\r\n".encode() + b"x" * MIB + b"\r\n"
        connection.sendall(f"{len(PART):x}\r\n".encode() + PART + b"\r\n")
        for _ in range(LIMIT + 1):
            connection.sendall(chunk)
        answer = read_answer(connection)
    assert (answer.status, answer.json["error"]["code"]) == (413, "too_long")
    assert memory(server) - before < 8 * MIB
    assert left() == set()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory of a process in /proc")
def test_a_long_upload_goes_to_the_disk_and_not_to_memory(tmp_path):
    with running_server(tmp_path) as server, server.client() as client:
        before = memory(server)
        long = tmp_path / "long.jsonl"
        with open(long, "wb") as file:
            file.truncate(200 * MIB)
        with open(long, "rb") as file:
            answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": file})
        assert answer.json()["bytes"] == 200 * MIB
        assert memory(server) - before < 32 * MIB


def test_an_upload_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(server, left):
    with server.client() as client:
        for size, status in ((LIMIT * MIB, 200), (LIMIT * MIB + 1, 413)):
            answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", b"x" * size)})
            assert answer.status_code == status
    assert len(left()) == 1


def test_encoded_bodies_are_refused_so_that_no_bomb_unpacks(server, left):
    bomb = gzip.compress(gzip.compress(b"\0" * 10_000_000))
    for encoding in ("gzip", "deflate", "br", "gzip, gzip", "GZIP"):
        head = upload_head(server, f"Content-Length: {len(bomb)}", f"Content-Encoding: {encoding}")
        answer = send_raw(server.url, head + bomb)
        assert (answer.status, answer.json["error"]["code"]) == (415, "bad_encoding")
    assert left() == set()


def test_a_bomb_that_is_uploaded_stays_as_small_as_it_came(server):
    bomb = gzip.compress(b"\0" * 100_000_000)
    with server.client() as client:
        answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("bomb.jsonl.gz", bomb)})
        assert answer.json()["bytes"] == len(bomb) < 100_000


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (("Content-Length: 5", "Content-Length: 6"), b"hello"),
        (("Content-Length: 5, 6",), b"hello"),
        (("Content-Length: -1",), b""),
        (("Content-Length: 0x5",), b"hello"),
        (("Content-Length: 99999999999999999999999",), b""),
        (("Transfer-Encoding: chunked",), b"zz\r\n"),
        (("Transfer-Encoding: gzip, chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
        (("No colon",), b""),
        (("X: \x00",), b""),
        (("X: " + "y" * 2**17,), b""),
    ],
)
def test_what_is_not_http_is_refused_in_json(server, headers, body, left):
    answer = send_raw(server.url, upload_head(server, *headers) + body)
    assert answer.status in (400, 413)
    assert answer.json["error"]["message"].endswith(".")
    assert left() == set()


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        (b"", 400, "ends before its last boundary"),
        (b"hello", 400, "multipart/form-data"),
        (PART, 400, "ends before its last boundary"),
        (PART + b"x\r\n--b", 400, "ends before its last boundary"),
        (
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n',
            422,
            "file: this part",
        ),
        (PART + b"x\r\n--b--\r\n", 422, "purpose: files here are for training"),
        (PART + b"x\r\n" + PART + b"y\r\n--b--\r\n", 422, "two of them"),
        (
            PART + b'x\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
            *(422, "purpose: files here are for training"),
        ),
        (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"x" * 5000, 422, "too long"),
        (
            b"".join(b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\nx\r\n' % n for n in range(99)),
            422,
            "more than",
        ),
        (b"--b\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(1000)), 400, "multipart/form-data"),
        (b"--b\r\n" + b"X" * 100_000, 400, "multipart/form-data"),
        (b"--b\r\n\r\nno name\r\n--b--\r\n", 422, "file: this part"),
    ],
)
def test_forms_that_are_wrong(server, form, status, said, left):
    answer = send_raw(server.url, upload_head(server, f"Content-Length: {len(form)}") + form)
    assert answer.status == status
    assert said in answer.json["error"]["message"]
    assert left() == set()


def test_an_upload_needs_a_form(server):
    with server.client() as client:
        for kind in ("application/json", "text/plain", ""):
            answer = client.post("/v1/files", content=b"{}", headers={"Content-Type": kind})
            assert answer.status_code == 415
        answer = client.post("/v1/files", content=b"", headers={"Content-Type": "multipart/form-data"})
        assert (answer.status_code, "boundary" in answer.text) == (400, True)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(server, left):
    with connect(server.url) as connection:
        connection.sendall(upload_head(server, f"Content-Length: {MIB}") + PART + b"x" * 100_000)
        wait_for(lambda: len(left()) == 1)
    wait_for(lambda: left() == set())


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
