"""The Python examples of docs/serving.md that need a server, as they stand there but for its address."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest
from contract_requests import SMALL, upload, wait_for
from job_helpers import BUILT_IN
from server import running_server

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_examples(tmp_path, monkeypatch, capsys):
    ours, chat = re.findall(r"^```py\n(.*?)^```", TEXT, re.S | re.M)
    monkeypatch.chdir(tmp_path)
    with running_server(tmp_path, state=tmp_path / "mlx-lora-state") as server:

        def run(example: str, names: dict) -> dict:
            exec(compile(example.replace("http://127.0.0.1:8080", server.url), "docs", "exec"), names)
            return names

        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as client:
            job = client.fine_tuning.jobs.create(
                model=BUILT_IN, training_file=upload(client), extra_body={"mlx_lora": SMALL}
            )
            wait_for(client, job.id, "succeeded")
            run(chat, {"client": client, "job": job})
        assert capsys.readouterr().out
        run(ours, {})
        assert "'status': 'completed'" in capsys.readouterr().out
