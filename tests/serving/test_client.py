"""Our own client: training, waiting, events, and servers that refuse, die or are not there."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
from contract_requests import TRAIN
from job_helpers import HANG
from server import running_server

from mlx_lora.client import Client, ServerError, server_sent_events
from mlx_lora.errors import UserError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.url, server.token) as made:
        yield made


def test_a_job_is_trained_followed_and_waited_for(client):
    job_id = client.train(TRAIN)
    assert client.status(job_id)["status"] == "running"
    events = list(client.events(job_id))
    state = client.wait(job_id, poll=0.05)
    assert state["status"] == "completed"
    assert state["model_id"].startswith("ft:")
    sequences = [event["sequence"] for event in events]
    assert sequences == sorted(set(sequences))
    assert [event["data"]["step"] for event in events if "train_loss" in event["data"]] == [1, 2, 3]
    assert list(client.events(job_id, after=sequences[-3])) == events[-2:]
    assert list(client.events(job_id)) == events


def test_the_address_may_end_in_v1_and_the_token_in_a_newline(server):
    with Client(server.url + "/v1/", server.token + "\n") as client, pytest.raises(ServerError) as refused:
        client.status("ftjob-none")
    assert refused.value.status == 404


def test_what_the_server_refuses_is_its_sentence(client, server):
    with pytest.raises(ServerError, match="training_data") as refused:
        client.train({**TRAIN, "training_data": []})
    assert refused.value.status == 422
    for call in (client.status, client.wait, lambda job_id: list(client.events(job_id))):
        with pytest.raises(ServerError, match="no job") as refused:
            call("ftjob-none")
        assert refused.value.status == 404
        assert isinstance(refused.value, UserError)
        assert "\n" not in str(refused.value)
    with Client(server.url, "another") as stranger, pytest.raises(ServerError, match="oken") as refused:
        stranger.status("ftjob-none")
    assert refused.value.status == 401


def test_waiting_ends_at_its_time_and_the_job_goes_on(client, server):
    job_id = client.train({**TRAIN, "training_config": {"epochs": 10_000}})
    with pytest.raises(TimeoutError, match=r"still runs after 0\.3 s"):
        client.wait(job_id, poll=0.1, timeout=0.3)
    assert client.status(job_id)["status"] == "running"
    with server.client() as http:
        http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    assert client.wait(job_id) == {"status": "failed", "error": "the job was cancelled"}


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running_server(tmp_path, port=port) as first, Client(first.url, first.token) as client:
        job_id = client.train({**TRAIN, "training_config": {**TRAIN["training_config"], "epochs": 20}})
        followed, waited = [], []
        threads = [
            threading.Thread(target=lambda: followed.extend(client.events(job_id))),
            threading.Thread(target=lambda: waited.append(client.wait(job_id, poll=0.1))),
        ]
        for thread in threads:
            thread.start()
        for event in client.events(job_id):
            if event["data"].get("step", 0) >= 3:
                break
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        with running_server(tmp_path, port=port, state=first.state_dir):
            for thread in threads:
                thread.join(HANG)
                assert not thread.is_alive()
    assert waited[0]["status"] == "completed"
    steps = [event["data"]["step"] for event in followed if "train_loss" in event["data"]]
    assert steps == list(range(1, 61))
    assert followed[-1]["message"] == "The job has successfully completed"


def test_a_server_that_stays_away_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        client.patience = 0.2
        for call in (
            lambda: client.train(TRAIN),
            lambda: client.wait("a", poll=0.05),
            lambda: list(client.events("a")),
        ):
            with pytest.raises(ServerError, match="the server does not answer") as refused:
                call()
            assert refused.value.status == 0


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["data: a", ""], [("message", "a")]),
        (["id: 3", "event: metrics", "data: a", "data:b", ""], [("metrics", "a\nb")]),
        ([": comment", "", "event: lost", "", "data: a", ""], [("message", "a")]),
        (["data: a"], []),
        (["data", "", "retry: 5", ""], [("message", "")]),
    ],
)
def test_server_sent_events_are_read_as_the_standard_says(lines, found):
    assert list(server_sent_events(lines)) == found
