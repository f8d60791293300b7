"""Events of a job as server-sent events: replay, resume, the end, and what keeps a connection alive."""

from __future__ import annotations

import json

import pytest
from contract_requests import TRAIN, until
from server import running_server

from mlx_lora.client import server_sent_events


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with server.client() as made:
        yield made


def start(client, **changes) -> str:
    return client.post("/v1/train", json={**TRAIN, **changes}).json()["job_id"]


@pytest.fixture(scope="module")
def ended(client):
    """A job that has ended, one of whose events has characters that some take for the end of a line."""
    job_id = start(client, loss_config={"a\u2028b\x85c": 1})
    until(lambda: client.get(f"/v1/train/{job_id}").json()["status"] == "completed")
    return job_id


def read(client, job_id: str, last: str | None = None) -> list[dict[str, str]]:
    """Return the fields of each event of a whole stream, read by the byte and not by our own client."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        content = b"".join(response.iter_bytes())
    blocks = [block for block in content.decode().split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")) for block in blocks]


def test_an_ended_job_is_replayed_and_the_stream_ends(client, ended):
    *events, end = read(client, ended)
    assert end == {"event": "end", "data": '{"status": "succeeded"}'}
    ids = [int(event["id"]) for event in events]
    assert ids == sorted(set(ids))
    contents = [json.loads(event["data"]) for event in events]
    assert [content["sequence"] for content in contents] == ids
    assert [content["type"] for content in contents] == [event["event"] for event in events]
    listed = client.get(f"/v1/fine_tuning/jobs/{ended}/events?limit=1000").json()["data"]
    assert [{k: v for k, v in content.items() if k != "sequence"} for content in contents][::-1] == listed
    steps = [content["data"]["step"] for content in contents if "train_loss" in content["data"]]
    assert steps == [1, 2, 3]
    assert contents[-1]["message"] == "The job has successfully completed"
    assert any("a\u2028b\x85c has no effect" in content["message"] for content in contents)


def test_a_stream_resumes_after_the_last_event_that_was_seen(client, ended):
    whole = read(client, ended)
    middle = len(whole) // 2
    assert read(client, ended, whole[middle]["id"]) == whole[middle + 1 :]
    # All were seen: the end alone.
    assert read(client, ended, whole[-2]["id"]) == whole[-1:]
    assert read(client, ended, str(10**17)) == whole[-1:]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "٣", 20 * "9"])
def test_another_last_event_id_is_refused(client, ended, last):
    answer = client.get(f"/v1/jobs/{ended}/events", headers={"Last-Event-ID": last.encode()})
    assert answer.status_code == 400
    assert "Last-Event-ID" in answer.json()["error"]["message"]


def test_an_unknown_job_is_not_found(client):
    answer = client.get(f"/v1/jobs/ftjob-{24 * '0'}/events")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.slow
def test_events_come_while_the_job_runs_and_a_cancelled_one_ends_the_stream(client, server):
    job_id = start(client, training_config={"epochs": 100})
    seen, asked = [], None
    with server.client() as other, client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        for kind, data in server_sent_events(response.iter_lines()):
            seen.append((kind, json.loads(data)))
            if kind == "metrics" and asked is None:
                # It came long before the job's end.
                asked = other.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    assert asked.status_code == 200
    assert seen[-1] == ("end", {"status": "cancelled"})
    assert "Job cancelled" in [content["message"] for kind, content in seen if kind == "message"]


def test_a_server_that_ends_closes_its_streams(tmp_path):
    with running_server(tmp_path) as server, server.client() as client:
        job_id = start(client)
        client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            lines = response.iter_lines()
            assert next(lines).startswith(("id:", "event:", "data:"))
            server.process.terminate()
            # A hang would fail by the read timeout of the client.
            kinds = [kind for kind, _ in server_sent_events(lines)]
    assert "end" not in kinds
    assert server.process.returncode == 0


@pytest.mark.slow
def test_a_silent_stream_is_kept_alive_by_comments(client):
    job_id = start(client, training_config={"epochs": 1000})
    client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    until(lambda: client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["status"] == "paused")
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        assert any(line.startswith(":") for line in response.iter_lines())
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
