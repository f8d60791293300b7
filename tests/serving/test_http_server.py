"""The server's process: its token and lock, its start and its end, and disks that are full."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from raw_http import connect, read_answer, request
from server import PROGRAM, running_server
from test_http_bodies import PART, upload_head, wait_for

from mlx_lora.processes import python_environment


def refusal(*words, cwd: Path) -> str:
    """Start a server that refuses to, and return its sentence."""
    command = [*PROGRAM, "serve", "--port", "0", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=python_environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


def upload(client, content=b"x"):
    return client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", content)})


def test_a_second_server_on_the_same_state_is_refused(tmp_path):
    with running_server(tmp_path) as server:
        said = refusal("--state", server.state_dir, cwd=tmp_path)
        assert said == (
            f"mlx-lora: {server.state_dir}: another server has this state; stop that one, or choose another --state"
        )
        with server.client() as client:
            assert upload(client).status_code == 200
    with running_server(tmp_path) as server, server.client() as client:
        assert len(client.get("/v1/files").json()["data"]) == 1


def test_a_directory_of_models_that_is_not_there_is_refused(tmp_path):
    done = subprocess.run(
        [*PROGRAM, "serve", "--port", "0", "--models", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "'--models': Directory 'nowhere' does not exist." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_starts_without_the_libraries_of_models(tmp_path):
    heavy = ("mlx", "mlx_lm", "torch", "transformers", "huggingface_hub")
    code = f"import sys, mlx_lora.serving.server, mlx_lora.serving.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=python_environment(), capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_an_address_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refusal("--port", port, cwd=tmp_path)
    assert said == (
        f"mlx-lora: 127.0.0.1:{port}: the server cannot listen there (another program uses it); choose another --port"
    )
    assert "this is not an address of this machine" in refusal("--host", "no.such.host.invalid", cwd=tmp_path)


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path):
    with running_server(tmp_path) as server:
        file = server.state_dir / "token"
        assert file.stat().st_mode & 0o777 == 0o600
        assert server.state_dir.stat().st_mode & 0o777 == 0o700
        assert len(server.token) == 43
    with running_server(tmp_path) as again:
        assert again.token == server.token
    file.chmod(0o644)
    assert "others can read this token; chmod 600 it" in refusal("--state", server.state_dir, cwd=tmp_path)


@pytest.mark.parametrize("content", [b"", b"short", b"two words in one file", b"\xff" * 40, b"x" * 5000])
def test_a_file_that_holds_no_token(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    said = refusal("--token-file", file, cwd=tmp_path)
    assert said.startswith(f"mlx-lora: {file}: ")


def test_other_machines_need_a_token(tmp_path):
    said = refusal("--host", "0.0.0.0", "--no-token", cwd=tmp_path)
    assert said == "mlx-lora: --no-token: 0.0.0.0 can be reached from other machines; ask for a token there"
    assert "choose one of" in refusal_of_usage("--no-token", "--token-file", "x", cwd=tmp_path)


def refusal_of_usage(*words, cwd: Path) -> str:
    command = [*PROGRAM, "serve", *words]
    done = subprocess.run(command, cwd=cwd, env=python_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_even_with_a_request_in_the_middle(tmp_path, number):
    with running_server(tmp_path) as server, connect(server.url) as connection:
        connection.sendall(upload_head(server, "Content-Length: 1000000") + PART)
        wait_for(lambda: list((server.state_dir / "files").iterdir()))
        server.process.send_signal(number)
        assert server.process.wait(60) == 0
        assert list((server.state_dir / "files").iterdir()) == []
    assert server.errors == []


def test_what_a_killed_server_leaves_of_an_upload_is_gone_with_the_next(tmp_path):
    with running_server(tmp_path) as server, server.client() as client, connect(server.url) as connection:
        kept = upload(client, b"kept").json()["id"]
        connection.sendall(upload_head(server, "Content-Length: 1000000") + PART)
        wait_for(lambda: len(list((server.state_dir / "files").iterdir())) == 2)
        server.process.kill()
        server.process.wait()
    with running_server(tmp_path) as server, server.client() as client:
        assert os.listdir(server.state_dir / "files") == [kept]
        assert client.get(f"/v1/files/{kept}/content").content == b"kept"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="changes the limits of another process")
def test_a_disk_that_cannot_take_a_file_says_so_and_goes_on(tmp_path):
    with running_server(tmp_path) as server, server.client() as client:
        hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (300_000, hard))
        answer = upload(client, b"x" * 1_000_000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        # The database is full next.
        taken, answer = [], upload(client)
        while answer.status_code == 200 and len(taken) < 200:
            taken.append(answer.json()["id"])
            answer = upload(client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        assert sorted(os.listdir(server.state_dir / "files")) == sorted(taken)
        assert {file["id"] for file in client.get("/v1/files").json()["data"]} == set(taken)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        taken.append(upload(client).json()["id"])
        assert client.delete(f"/v1/files/{taken.pop(0)}").status_code == 200
        assert {file["id"] for file in client.get("/v1/files").json()["data"]} == set(taken)
    assert server.errors == []


@contextmanager
def small_disk(place: Path):
    """A file system of 1 MiB, which only root may make."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no small file system can be made here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes file systems")
def test_a_full_disk_loses_nothing(tmp_path):
    with (
        small_disk(tmp_path / "disk") as disk,
        running_server(tmp_path, state=disk / "state") as server,
        server.client() as client,
    ):
        taken, answer = [], upload(client, b"x" * 30_000)
        while answer.status_code == 200 and len(taken) < 200:
            taken.append(answer.json()["id"])
            answer = upload(client, b"x" * 30_000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        while (answer := upload(client, b"x")).status_code == 200:
            taken.append(answer.json()["id"])
        assert answer.status_code == 507
        assert {file["id"] for file in client.get("/v1/files").json()["data"]} == set(taken)
        assert sorted(os.listdir(server.state_dir / "files")) == sorted(taken)
        (server.state_dir / "files" / taken[0]).unlink()
        assert upload(client, b"x").status_code == 200
    assert server.errors == []


def test_a_connection_outlasts_a_pause_between_two_requests(tmp_path):
    with running_server(tmp_path) as server, connect(server.url) as connection:
        asked = request("GET", "/v1/files", "Host: localhost", f"Authorization: Bearer {server.token}")
        for _ in range(2):
            connection.sendall(asked)
            assert read_answer(connection).status == 200


def test_answers_that_take_long_do_not_keep_short_ones_waiting(tmp_path):
    command = [sys.executable, "-P", str(Path(__file__).with_name("blocking_server.py")), str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=python_environment()) as process,
        ThreadPoolExecutor(100) as clients,
    ):
        url = process.stdout.readline().strip()
        answers = [clients.submit(httpx.get, url + "/wait", timeout=60) for _ in range(100)]
        wait_for(lambda: httpx.get(url + "/status", timeout=60).json()["waiting"] == 100)
        httpx.post(url + "/release")
        assert [answer.result().status_code for answer in answers] == [200] * 100
        process.terminate()
