"""Fine-tuning jobs with OpenAI's own package, of which only the address and the key are changed."""

from __future__ import annotations

import json
import shutil

import openai
import pytest
from contract_requests import SMALL, TRAIN, until, upload, wait_for
from job_helpers import BUILT_IN, rows
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from server import running_server

from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.models.resolve import BUILT_IN as BASES


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("server")
    shutil.copytree(BASES[BUILT_IN], place / "bases" / "own")
    with running_server(place) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def file(client):
    return upload(client)


def create(client, file, model=BUILT_IN, config=SMALL, **request):
    return client.fine_tuning.jobs.create(model=model, training_file=file, extra_body={"mlx_lora": config}, **request)


@pytest.fixture(scope="module")
def trained(client, file):
    """A job that has succeeded, and its last state."""
    validation = upload(client, rows(28)[24:], "valid.jsonl")
    job = create(
        client,
        file,
        validation_file=validation,
        suffix="first",
        seed=7,
        metadata={"team": "<script>", "": ""},
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8},
            },
        },
    )
    assert isinstance(job, FineTuningJob)
    assert (job.status, job.fine_tuned_model, job.finished_at) == ("validating_files", None, None)
    return wait_for(client, job.id, "succeeded")


def test_a_job_runs_and_tells_its_result(client, trained, file):
    job = trained
    assert (job.model, job.training_file, job.seed) == (BUILT_IN, file, 7)
    assert job.fine_tuned_model == f"ft:{BUILT_IN}:first:{job.id.removeprefix('ftjob-')}"
    assert job.hyperparameters.model_dump() == {"batch_size": 4, "learning_rate_multiplier": 1.8, "n_epochs": 2}
    assert job.method.type == "supervised"
    assert job.method.supervised.hyperparameters.n_epochs == 2
    assert job.trained_tokens > 100
    assert job.created_at <= job.finished_at
    assert (job.error, job.result_files, job.estimated_finish) == (None, [], None)
    assert job.metadata == {"team": "<script>", "": ""}
    assert job.validation_file.startswith("file-")
    # 24 rows in batches of 4, twice.
    assert job.mlx_lora["step"] == job.mlx_lora["total_steps"] == 12


def test_events_are_listed_the_newest_first_page_by_page(client, trained):
    events = list(client.fine_tuning.jobs.list_events(trained.id, limit=5))
    assert all(isinstance(event, FineTuningJobEvent) for event in events)
    assert len(events) == len({event.id for event in events}) > 15
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    said = [event.message for event in events]
    assert said[0] == "The job has successfully completed"
    assert said[-1] == f"Created fine-tuning job: {trained.id}"
    steps = [event.data for event in events if "train_loss" in event.data]
    assert {event.type for event in events} == {"message", "metrics"}
    assert [data["step"] for data in steps] == list(range(12, 0, -1))
    assert all(data["total_steps"] == 12 and data["train_loss"] > 0 for data in steps)
    assert [event.data["step"] for event in events if "full_valid_loss" in event.data] == [12, 6]

    page = client.fine_tuning.jobs.list_events(trained.id, limit=5)
    assert page.has_more
    assert len(page.data) == 5
    last = client.fine_tuning.jobs.list_events(trained.id, after=said and events[-3].id, limit=5)
    assert not last.has_more
    assert [event.id for event in last.data] == [event.id for event in events[-2:]]


@pytest.mark.slow
def test_checkpoints_are_listed_and_training_continues_from_the_model(client, server, trained, file):
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(trained.id, limit=1))
    assert all(isinstance(one, FineTuningJobCheckpoint) for one in checkpoints)
    steps = [one.step_number for one in checkpoints]
    assert len(steps) >= 2
    assert steps == sorted(steps, reverse=True)
    one = checkpoints[0]
    assert one.fine_tuned_model_checkpoint == f"{trained.fine_tuned_model}:ckpt-step-{one.step_number}"
    assert one.fine_tuning_job_id == trained.id
    assert one.metrics.step == one.step_number
    assert one.metrics.train_loss > 0
    assert one.metrics.valid_loss > 0

    starts = [trained.fine_tuned_model, checkpoints[-1].fine_tuned_model_checkpoint]
    jobs = server.state_dir / "jobs"
    for model in starts:
        # No settings of the adapter's shape: it keeps its own.
        job = create(client, file, model, {"max_seq_length": 256}, hyperparameters={"n_epochs": 1}, suffix="next")
        done = wait_for(client, job.id, "succeeded")
        record = json.loads((jobs / job.id / "run" / "run.json").read_text())
        begin = "run" if model == trained.fine_tuned_model else f"checkpoint-adapters/step-{steps[-1]:08d}"
        assert record["init_adapter"] == str(jobs / trained.id / begin)
        assert record["learned_from"]["lora_rank"] == SMALL["lora_rank"]
        # The name is of the base, however often training is continued.
        assert done.fine_tuned_model == f"ft:{BUILT_IN}:next:{job.id.removeprefix('ftjob-')}"


def test_the_trained_model_and_its_checkpoint_answer_as_their_adapters_do(client, server, trained):
    question = [{"role": "user", "content": rows(1)[0]["messages"][0]["content"]}]
    checkpoint = client.fine_tuning.jobs.checkpoints.list(trained.id).data[-1].fine_tuned_model_checkpoint
    run = server.state_dir / "jobs" / trained.id / "run"
    listed = {model.id for model in client.models.list()}
    for model in (trained.fine_tuned_model, checkpoint):
        assert model in listed
        asked = {"model": model, "messages": question, "max_tokens": 16, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        pieces = [part.choices[0].delta.content or "" for part in client.chat.completions.create(**asked, stream=True)]
        assert "".join(pieces) == whole.choices[0].message.content
        if model == trained.fine_tuned_model:
            (reply,) = load_target(str(run), "mlx").answer([question], [""], Generation(16, 0.0, 0))
            assert whole.choices[0].message.content == reply.text


def test_another_shape_than_that_of_the_adapter_is_refused(client, trained, file):
    with pytest.raises(openai.BadRequestError, match="which has lora_rank 4, and the request asks for 8") as refused:
        create(client, file, trained.fine_tuned_model, {"lora_rank": 8})
    assert refused.value.param == "model"


@pytest.mark.slow
def test_a_base_below_the_servers_models_is_trained(client, file):
    job = create(client, file, "bases/own", hyperparameters={"n_epochs": 1})
    done = wait_for(client, job.id, "succeeded")
    assert done.fine_tuned_model == f"ft:bases/own::{job.id.removeprefix('ftjob-')}"


def test_a_running_job_is_paused_and_resumed(client, file):
    job = create(client, file, hyperparameters={"n_epochs": 40, "batch_size": 2})
    running = until(lambda: (now := client.fine_tuning.jobs.retrieve(job.id)).mlx_lora["step"] >= 5 and now)
    assert running.status == "running"
    assert running.estimated_finish >= running.created_at
    with pytest.raises(openai.ConflictError, match="the job is running"):
        client.fine_tuning.jobs.resume(job.id)
    assert client.fine_tuning.jobs.pause(job.id).id == job.id
    paused = wait_for(client, job.id, "paused")
    assert (paused.estimated_finish, paused.finished_at) == (None, None)
    with pytest.raises(openai.ConflictError, match="the job is paused"):
        client.fine_tuning.jobs.pause(job.id)
    step = paused.mlx_lora["step"]
    assert 5 <= step < 480
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    wait_for(client, job.id, "running")
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).mlx_lora["step"] > step)
    # It went on where it was: no step was trained twice.
    steps = [e.data["step"] for e in client.fine_tuning.jobs.list_events(job.id, limit=1000) if "train_loss" in e.data]
    assert steps == sorted(set(steps), reverse=True)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.retrieve(job.id).finished_at


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_a_job_that_has_ended_refuses_in_a_sentence(client, trained, action):
    with pytest.raises(openai.ConflictError, match="the job is succeeded") as refused:
        getattr(client.fine_tuning.jobs, action)(trained.id)
    assert "\n" not in refused.value.body["message"]
    with pytest.raises(openai.NotFoundError, match="there is no job"):
        getattr(client.fine_tuning.jobs, action)("ftjob-" + 24 * "0")


def test_jobs_are_listed_the_newest_first_and_chosen_by_metadata(client, trained, file):
    made = []
    for number in range(3):
        made.append(create(client, file, metadata={"number": str(number), "kind": "listed"}).id)
    jobs = list(client.fine_tuning.jobs.list(limit=2))
    assert [job.id for job in jobs[:3]] == made[::-1]
    assert jobs[-1].id == trained.id or trained.id in [job.id for job in jobs]
    assert client.fine_tuning.jobs.list(limit=2).has_more
    listed = client.fine_tuning.jobs.list(metadata={"kind": "listed", "number": "1"})
    assert [job.id for job in listed] == [made[1]]
    without = client.fine_tuning.jobs.list(extra_query={"metadata": "null"}, limit=100)
    assert not {*made, trained.id} & {job.id for job in without}
    for job_id in made:
        client.fine_tuning.jobs.cancel(job_id)


@pytest.mark.parametrize(
    ("request_", "status", "param", "said"),
    [
        ({"training_file": "file-none"}, 400, "training_file", "there is no file 'file-none'"),
        ({"validation_file": "../state.db"}, 400, "validation_file", "there is no file '../state.db'"),
        ({"model": "gpt-4o-mini"}, 400, "model", "there is no model 'gpt-4o-mini' to train; name builtin/tiny-lumen"),
        ({"model": "bases/../../secret"}, 400, "model", "there is no model"),
        ({"model": "bases"}, 400, "model", "this model cannot be trained"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}}},
            400,
            "method.type",
            "not available yet",
        ),
        ({"method": {"type": "magic"}}, 400, "method.type", "not a method"),
        ({"suffix": 65 * "s"}, 422, "suffix", "64"),
        ({"metadata": {str(number): "" for number in range(17)}}, 422, "metadata", "16"),
        ({"metadata": {65 * "k": ""}}, 422, None, "64"),
        ({"metadata": {"key": 513 * "v"}}, 422, "metadata.key", "512"),
        ({"seed": -1}, 422, "seed", "0"),
        ({"hyperparameters": {"n_epochs": 0}}, 422, "hyperparameters.n_epochs", "1"),
        ({"hyperparameters": {"n_epochs": "many"}}, 422, "hyperparameters.n_epochs", "auto"),
        (
            {
                "hyperparameters": {"n_epochs": 1},
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            },
            400,
            "hyperparameters.n_epochs",
            "give it once",
        ),
        ({"extra_body": {"mlx_lora": {"lora_rnk": 4}}}, 400, "mlx_lora", "the nearest is 'lora_rank'"),
        ({"extra_body": {"mlx_lora": {"lora_rank": 0}}}, 400, "mlx_lora", "lora_rank must be at least 1"),
        ({"extra_body": {"mlx_lora": {"output_dir": "/tmp/x"}}}, 400, "mlx_lora", "output_dir cannot be set"),
        ({"extra_body": {"mlx_lora": {"chat_template": "/etc/passwd"}}}, 400, "mlx_lora", "cannot be set"),
        ({"extra_body": {"sufix": "typo"}}, 422, "sufix", "sufix"),
    ],
)
def test_a_request_that_is_wrong_is_refused_in_a_sentence(client, file, request_, status, param, said):
    with pytest.raises(openai.APIStatusError) as refused:
        client.fine_tuning.jobs.create(**{"model": BUILT_IN, "training_file": file, **request_})
    assert refused.value.status_code == status
    assert said in refused.value.body["message"]
    assert "\n" not in refused.value.body["message"]
    if param is not None:
        assert refused.value.param == param


def test_auto_and_null_leave_the_choice_to_the_server(client, file):
    request = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    job = create(client, file, config=None, hyperparameters=request, suffix=None, metadata=None, integrations=[])
    assert job.hyperparameters.model_dump() == request
    client.fine_tuning.jobs.cancel(job.id)


def test_integrations_are_said_to_have_no_effect(client, file):
    job = create(client, file, integrations=[{"type": "wandb", "wandb": {"project": "p"}}])
    events = client.fine_tuning.jobs.list_events(job.id)
    assert [event.level for event in events if "integrations are not used here" in event.message] == ["warn"]
    client.fine_tuning.jobs.cancel(job.id)


def test_lists_refuse_what_they_do_not_have(client, trained):
    for listing in (
        lambda **query: client.fine_tuning.jobs.list(**query),
        lambda **query: client.fine_tuning.jobs.list_events(trained.id, **query),
        lambda **query: client.fine_tuning.jobs.checkpoints.list(trained.id, **query),
    ):
        with pytest.raises(openai.BadRequestError, match="after: the"):
            listing(after="nothing")
        with pytest.raises(openai.UnprocessableEntityError, match="limit"):
            listing(limit=0)
    for missing in (
        lambda job_id: client.fine_tuning.jobs.retrieve(job_id),
        lambda job_id: client.fine_tuning.jobs.list_events(job_id),
        lambda job_id: client.fine_tuning.jobs.checkpoints.list(job_id),
    ):
        with pytest.raises(openai.NotFoundError):
            missing("ftjob-" + 24 * "0")


@pytest.mark.slow
def test_a_job_of_the_other_contract_is_one_of_these_too(client, server):
    with server.client() as http:
        job_id = http.post("/v1/train", json=TRAIN).json()["job_id"]
    job = client.fine_tuning.jobs.retrieve(job_id)
    assert job.hyperparameters.n_epochs == 1
    assert job.metadata == {"experiment_name": "descriptions"}
    assert wait_for(client, job_id, "succeeded").fine_tuned_model
