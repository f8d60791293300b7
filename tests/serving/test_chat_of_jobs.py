"""The whole way with OpenAI's client: a file, a job, and chat with what it trained and with its checkpoints."""

from __future__ import annotations

import openai
import pytest
from chat_helpers import user
from contract_requests import SMALL, upload, wait_for
from server import running_server

from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import load_target

BASE = "builtin/tiny-lumen"
QUESTION = user("TRAJECTORY: shape: convergence")


@pytest.mark.slow
def test_a_job_is_trained_and_answers(tmp_path):
    with (
        running_server(tmp_path, backend="mlx") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as client,
    ):
        config = {**SMALL, "learning_rate": 0.02}
        job = client.fine_tuning.jobs.create(
            model=BASE, training_file=upload(client), suffix="mine", extra_body={"mlx_lora": config}
        )
        name = wait_for(client, job.id, "succeeded").fine_tuned_model
        asked = {"messages": QUESTION, "max_tokens": 20, "temperature": 0}

        def answer(model):
            return client.chat.completions.create(model=model, **asked).choices[0].message.content

        run = server.state_dir / "jobs" / job.id / "run"
        (reply,) = load_target(str(run), "mlx").answer([QUESTION], [""], Generation(20, 0.0, 0))
        assert answer(name) == reply.text != answer(BASE)
        parts = client.chat.completions.create(model=name, stream=True, **asked)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == reply.text
        checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
        last = max(checkpoints, key=lambda each: each.step_number)
        assert answer(last.fine_tuned_model_checkpoint) == reply.text
        names = [model.id for model in client.models.list()]
        assert {name, *(each.fine_tuned_model_checkpoint for each in checkpoints)} <= {*names}
        assert client.models.retrieve(name).owned_by == "job"
