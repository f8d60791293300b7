"""Names of models: what is listed is found, generations follow their refs, and no name leads elsewhere."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from chat_helpers import chat_service
from run_fixtures import make_run
from safetensors.numpy import load_file, save_file

from mlx_lora.files import write_json
from mlx_lora.runs.generations import Generations
from mlx_lora.serving.api_error import ApiError
from mlx_lora.serving.chat.catalogue import Catalogue
from mlx_lora.serving.jobs.files import job_directory
from mlx_lora.serving.records import Job, new_id
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State

BUILT_IN = "builtin/tiny-lumen"


@pytest.fixture
def models(tmp_path, changed_base):
    """A directory of models: a base, a run, generations of it, and what is none."""
    root = tmp_path / "models"
    root.mkdir()
    changed_base().rename(root / "base")
    make_run(BUILT_IN, root / "runs" / "lumen", system_prompt="Be brief.")
    generations = Generations(root / "adapters" / "agent")
    generations.add(root / "runs" / "lumen", {"cycle": "one"})
    generations.promote(1, "better")
    (root / ".hidden").mkdir()
    shutil.copytree(root / "base", root / ".hidden" / "base")
    (root / "empty").mkdir()
    return root


@pytest.fixture
def catalogue(models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    hub = tmp_path / "hub"
    snapshot = hub / "models--someone--small" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(models / "base", snapshot)
    (hub / "models--someone--small" / "refs").mkdir()
    (hub / "models--someone--small" / "refs" / "main").write_text("a" * 40)
    (hub / "models--someone--broken").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    with chat_service(tmp_path / "state", models, start=False) as chat:
        yield chat.catalogue


def test_all_that_is_listed_is_found(catalogue, models):
    listed = {entry.id: entry.owner for entry in catalogue.list()}
    assert listed == {
        BUILT_IN: "built-in",
        "base": "local",
        "runs/lumen": "local",
        "adapters/agent@live": "local",
        "adapters/agent@1": "local",
        "someone/small": "hub",
    }
    found = {name: catalogue.find(name) for name in listed}
    assert found["runs/lumen"].adapter == models / "runs" / "lumen"
    assert found["runs/lumen"].system_prompt == "Be brief."
    assert found["adapters/agent@live"].adapter == models / "adapters" / "agent" / "generations" / "0001"
    # One base in memory for all of them.
    assert len({found[name].base_key for name in (BUILT_IN, "runs/lumen", "adapters/agent@1")}) == 1
    assert found["someone/small"].base.name == "someone/small"
    assert all(entry.created > 10**9 for entry in catalogue.list())


def test_a_run_that_is_trained_again_has_another_key(catalogue, models):
    before = catalogue.find("runs/lumen")
    assert catalogue.find("runs/lumen") == before
    file = models / "runs" / "lumen" / "adapters.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    os.utime(file, (1, 1))
    after = catalogue.find("runs/lumen")
    assert after.adapter_key != before.adapter_key
    assert after.base_key == before.base_key


def test_refs_are_looked_up_each_time(catalogue, models):
    generations = Generations(models / "adapters" / "agent")
    assert catalogue.find("agent@live").adapter == generations.path(1)
    with pytest.raises(ApiError, match="there is no best generation"):
        catalogue.find("agent@best")
    generations.mark_best(1, "")
    assert catalogue.find("agent@best").adapter == generations.path(1)
    generations.rollback("worse")
    assert catalogue.find("agent@live").adapter is None
    assert catalogue.find("agent@live").base.name == BUILT_IN
    with pytest.raises(ApiError, match="there is no generation 7"):
        catalogue.find("agent@7")


def test_an_adapter_of_other_weights_is_refused(catalogue, models):
    file = models / "runs" / "lumen" / "run.json"
    write_json(file, {**json.loads(file.read_text()), "base_fingerprint": "weights-1:" + "0" * 64})
    with pytest.raises(ApiError, match="was trained on other weights") as refused:
        catalogue.find("runs/lumen")
    assert refused.value.status == 409


def test_models_of_jobs_and_their_checkpoints(tmp_path):
    settings = ServerSettings(tmp_path / "state", tmp_path)
    state = State(settings.state)
    jobs = [
        Job(new_id("ftjob"), "fine_tuning", BUILT_IN, {}, {}, "file-1", status=status, suffix=suffix)
        for status, suffix in (("succeeded", "mine"), ("running", None))
    ]
    names = []
    for job in jobs:
        state.add_job(job)
        directory = job_directory(settings, job.id)
        run = make_run(BUILT_IN, directory.run)
        shutil.copy(run / "adapter_config.json", directory.description)
        checkpoint = run / "checkpoints" / "step-00000003"
        checkpoint.mkdir(parents=True)
        weights = load_file(run / "adapters.safetensors")
        kept = {f"model.{name}": value * 2 for name, value in weights.items()}
        save_file({**kept, "optimizer.m": weights[min(weights)]}, checkpoint / "state.safetensors")
        write_json(checkpoint / "state.json", {"format": 1, "step": 3, "loss": 1.0})
        names.append(f"ft:{BUILT_IN}:{job.suffix or ''}:{job.id.removeprefix('ftjob-')}")
    (job_directory(settings, jobs[1].id).run / "adapters.safetensors").unlink()
    catalogue = Catalogue(settings, state)
    listed = [entry.id for entry in catalogue.list() if entry.owner == "job"]
    assert listed == [names[0], f"{names[0]}:ckpt-step-3", f"{names[1]}:ckpt-step-3"]
    adapters = [catalogue.find(name).adapter for name in listed]
    assert adapters[0] == job_directory(settings, jobs[0].id).run
    first, second = (load_file(adapter / "adapters.safetensors") for adapter in adapters[:2])
    assert all((second[name] == 2 * first[name]).all() for name in first)
    other = f"ft:{BUILT_IN}:other:{jobs[0].id.removeprefix('ftjob-')}"
    for name in (names[1], f"{names[0]}:ckpt-step-4", f"{names[0]}:ckpt-step-", other):
        with pytest.raises(ApiError) as refused:
            catalogue.find(name)
        assert refused.value.status == 404
    state.close()


NOT_FOUND = [
    *("", ".", "..", "/", "~", "runs", "empty", "nobody/nothing", ".hidden/../base", "runs/../base", "runs//lumen"),
    *(
        "base/",
        "./base",
        "runs\\lumen",
        "base\n",
        "base\x00",
        "a" * 501,
        "é" * 300,
        "lumen@live",
        "@live",
        "base@1",
        "ft:",
    ),
    *("ft:a::" + "0" * 24, "http://127.0.0.1:1/v1#model", "ollama:llama", "answers:a.jsonl", "a.gguf"),
]


def test_other_names_are_not_found(catalogue, models):
    for name in [*NOT_FOUND, str(models / "base"), "../models/base"]:
        with pytest.raises(ApiError) as refused:
            catalogue.find(name)
        assert refused.value.status == 404, name
        assert "\n" not in str(refused.value)
        assert str(refused.value).endswith(".")
