"""The published training contract: what is accepted, polled and refused."""

from __future__ import annotations

import copy
import json

import pytest
from contract_requests import TRAIN, until
from job_helpers import BUILT_IN, Desk
from server import running_server

from mlx_lora.serving.api import Call, Services
from mlx_lora.serving.api_error import ApiError
from mlx_lora.serving.routes.train import TrainRequest, poll_training, start_training

END = {"completed", "failed"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # Nothing is looked for on the hub.
    with running_server(tmp_path_factory.mktemp("server"), env={"HF_HUB_OFFLINE": "1"}) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as made:
        yield made


def start(client, **changes) -> str:
    answer = client.post("/v1/train", json={**TRAIN, **changes})
    assert answer.status_code == 202, answer.text
    assert list(answer.json()) == ["job_id"]
    return answer.json()["job_id"]


def poll(client, job_id: str) -> dict:
    answer = client.get(f"/v1/train/{job_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def end(client, job_id: str) -> dict:
    return until(lambda: (state := poll(client, job_id))["status"] in END and state)


def messages(client, job_id: str) -> list[str]:
    events = client.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000").json()["data"]
    return [event["message"] for event in events]


def test_a_job_is_accepted_polled_and_completes(client):
    job_id = start(client)
    seen = []
    until(lambda: seen.append(poll(client, job_id)) or seen[-1]["status"] != "running")
    assert {state["status"] for state in seen} == {"running", "completed"}
    assert all(set(state) == {"status", "epoch", "step", "loss"} for state in seen[:-1])
    # Queued or validated, it counts as running before its first step.
    assert seen[0] == {"status": "running", "epoch": 0, "step": 0, "loss": None}
    last = seen[-1]
    assert set(last) == {"status", "final_loss", "duration_ms", "model_id"}
    assert last["model_id"] == f"ft:{BUILT_IN}:descriptions:{job_id.removeprefix('ftjob-')}"
    assert 0 < last["final_loss"] < 1000
    assert 0 < last["duration_ms"] < 120_000
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    # The settings of the request: 12 rows in batches of 4, once.
    assert job["mlx_lora"]["total_steps"] == job["mlx_lora"]["step"] == 3
    assert job["hyperparameters"] == {"batch_size": 4, "learning_rate_multiplier": 5.0, "n_epochs": 1}
    file = client.get(f"/v1/files/{job['training_file']}").json()
    assert (file["filename"], file["purpose"]) == ("descriptions.jsonl", "fine-tune")


def changed(path: str, value) -> dict:
    """The request with another value at a path; ``...`` takes the key out."""
    request = copy.deepcopy(TRAIN)
    *above, key = path.split(".")
    place = request
    for part in above:
        place = place[int(part)] if part.isdecimal() else place.setdefault(part, {})
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return request


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("surprise", 1, "surprise"),
        ("lora_config.dropout", 0.1, "lora_config.dropout"),
        ("training_config.lr", 0.1, "training_config.lr"),
        ("training_data.3.label", 1, "training_data.3.label"),
        ("training_data", [], "training_data"),
        ("training_data", {}, "training_data"),
        ("training_data", ["a row"], "training_data.0"),
        ("training_data.3.completion", ..., "training_data.3.completion"),
        ("training_data.3.completion", None, "training_data.3.completion"),
        ("training_data.3.prompt", [1], "training_data.3.prompt"),
        ("training_data.3.prompt", "", "training_data.3.prompt"),
        ("training_data.3.completion", " \n", "training_data[3].completion is blank"),
        ("experiment_name", ..., "experiment_name"),
        ("lora_config.rank", 0, "lora_config.rank"),
        ("lora_config.rank", "16", "lora_config.rank"),
        ("training_config.learning_rate", 0, "training_config.learning_rate"),
        ("training_config.epochs", True, "training_config.epochs"),
        ("loss_config.citation_validity_weight", -1, "citation_validity_weight"),
        ("base_model", "no-such-model", "there is no model 'no-such-model'"),
        ("base_model", "../models", "there is no model '../models'"),
        ("base_model", "/etc", "there is no model '/etc'"),
        ("base_model", "~", "there is no model '~'"),
        ("base_model", f"ft:{BUILT_IN}::{24 * '0'}", "there is no fine-tuned model"),
    ],
)
def test_a_request_that_is_wrong_is_refused_in_a_sentence_and_leaves_nothing(client, path, value, said):
    before = client.get("/v1/files").json(), client.get("/v1/fine_tuning/jobs").json()
    answer = client.post("/v1/train", json=changed(path, value))
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert (client.get("/v1/files").json(), client.get("/v1/fine_tuning/jobs").json()) == before


def test_only_name_base_and_rows_are_needed(client):
    job_id = start(client, lora_config={}, training_config={}, loss_config={"citation_validity_weight": None})
    assert poll(client, job_id)["status"] == "running"
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")


def test_an_unknown_job_is_a_404_with_a_sentence(client):
    for name in ("ftjob-" + 24 * "0", "no-job", "..%2Fstate.db"):
        answer = client.get(f"/v1/train/{name}")
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]


@pytest.mark.slow
def test_a_job_that_waits_is_running_and_a_cancelled_one_has_failed(client):
    first, second = start(client, training_config={"epochs": 200}), start(client)
    until(lambda: poll(client, first)["step"] > 0)
    until(lambda: client.get(f"/v1/fine_tuning/jobs/{second}").json()["status"] == "queued")
    assert poll(client, second) == {"status": "running", "epoch": 0, "step": 0, "loss": None}
    assert client.get(f"/v1/fine_tuning/jobs/{second}").json()["mlx_lora"]["queue_position"] == 0
    assert client.post(f"/v1/fine_tuning/jobs/{first}/pause").status_code == 200
    until(lambda: client.get(f"/v1/fine_tuning/jobs/{first}").json()["status"] == "paused")
    paused = poll(client, first)
    assert paused["status"] == "running"
    assert paused["step"] > 0
    assert end(client, second)["status"] == "completed"
    assert client.post(f"/v1/fine_tuning/jobs/{first}/cancel").status_code == 200
    assert poll(client, first) == {"status": "failed", "error": "the job was cancelled"}


def test_a_job_that_fails_says_why(client):
    state = end(client, start(client, base_model="owner/no-such-model"))
    assert set(state) == {"status", "error"}
    assert state["status"] == "failed"
    assert "owner/no-such-model" in state["error"]
    assert "\n" not in state["error"]


@pytest.mark.slow
def test_the_loss_config_has_its_effect_or_is_said_to_have_none(client):
    cites = {
        "prompt": "Document 12: After rest the pulse is low.\nClaim: Rest lowers the pulse.",
        "completion": "CLAIM[c1]: After rest the pulse is low. (citing 12)",
    }
    rows = [*TRAIN["training_data"], cites]
    loss = {"citation_validity_weight": 5.0, "topology_weight": 0.1, "<script>\u2028": 1}
    job_id = start(client, training_data=rows, loss_config=loss)
    assert end(client, job_id)["status"] == "completed"
    said = messages(client, job_id)
    assert "loss_config: citation_validity_weight 5 is on 1 document ids of valid citations" in said
    assert any("<script>" in one and "topology_weight has no effect here" in one for one in said)
    # Training saw it: the spans' tokens are counted where a run starts.
    assert not any("change nothing" in one for one in said)
    file = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["training_file"]
    content = client.get(f"/v1/files/{file}/content").text
    assert '"spans": [{"message": 1, "start": 48, "end": 50, "weight": 5.0}]' in content.splitlines()[-1]

    other = start(client, loss_config={"citation_validity_weight": 5.0})
    assert any("touches nothing" in one for one in messages(client, other))
    client.post(f"/v1/fine_tuning/jobs/{other}/cancel")


@pytest.mark.slow
def test_a_name_is_kept_as_text_and_is_no_part_of_a_path_or_an_id(client, server):
    name = "../<script>alert(1)</script> é"
    job_id = start(client, experiment_name=name)
    state = end(client, job_id)
    assert state["model_id"] == f"ft:{BUILT_IN}:script-alert-1-script:{job_id.removeprefix('ftjob-')}"
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert job["metadata"] == {"experiment_name": name}
    stored = {file.name for file in (server.state_dir / "files").iterdir()}
    assert all(one.startswith("file-") for one in stored)
    telemetry = (server.state_dir / "jobs" / job_id / "run" / "telemetry.jsonl").read_text().splitlines()
    assert {json.loads(line)["metadata"]["name"] for line in telemetry} == {name}


def test_a_full_queue_refuses_and_keeps_nothing(tmp_path):
    desk = Desk(tmp_path / "state", most_jobs_waiting=1)
    services = Services(desk.settings, desk.state, desk.scheduler, None)

    def call(**values):
        return Call(services, None, **values)

    body = TrainRequest(**TRAIN)
    first = start_training(call(body=body)).job_id
    with pytest.raises(ApiError) as refused:
        start_training(call(body=body))
    assert refused.value.status == 429
    assert [job.id for job in desk.state.list_jobs()] == [first]
    assert [file.id for file in desk.state.list_files()] == [desk.state.find_job(first).training_file]
    assert len(list(desk.settings.files.iterdir())) == 1
    # The rows are in the file alone.
    assert "training_data" not in desk.state.find_job(first).request
    # A failed job without a sentence of its own has one.
    desk.state.update_job(first, status="failed")
    assert poll_training(call(path={"id": first})).model_dump() == {"status": "failed", "error": "the job failed"}
    desk.state.close()
