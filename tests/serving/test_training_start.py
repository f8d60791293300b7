"""The model that a job starts from: what a client may name, and what of an adapter is kept."""

from __future__ import annotations

import shutil

import pytest
from job_helpers import BUILT_IN
from run_fixtures import make_run

from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN as BASES
from mlx_lora.serving.api_error import ApiError
from mlx_lora.serving.records import Job
from mlx_lora.serving.routes.job_config import with_kept
from mlx_lora.serving.routes.training_start import TrainingStart, find_start
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State


@pytest.fixture
def find(tmp_path):
    state = State(tmp_path / "state")
    settings = ServerSettings(state=tmp_path / "state", models=tmp_path / "models")
    settings.models.mkdir()
    find = lambda name: find_start(name, settings, state)  # noqa: E731
    find.state, find.settings = state, settings
    yield find
    state.close()


def test_bases_are_found_by_name_and_below_the_models(find):
    assert find(BUILT_IN) == TrainingStart(BUILT_IN)
    # Looked for when the job starts.
    assert find("owner/model-1B.v2") == TrainingStart("owner/model-1B.v2")
    place = find.settings.models / "owner" / "model"
    shutil.copytree(BASES[BUILT_IN], place)
    assert find("owner/model") == TrainingStart(str(place))


def test_a_run_below_the_models_is_continued_in_its_shape(find):
    run = make_run(BUILT_IN, find.settings.models / "runs" / "one", lora_target_modules=["q_proj"])
    start = find("runs/one")
    assert (start.model_name, start.init_adapter) == (BUILT_IN, str(run))
    assert start.kept["lora_rank"] == 4
    assert start.kept["lora_target_modules"] == ["q_proj"]
    assert with_kept({"num_epochs": 2, "lora_rank": 4}, start.kept, "runs/one") == {"num_epochs": 2, **start.kept}
    with pytest.raises(ApiError, match=r"which has lora_alpha 6\.0, and the request asks for 8\.0"):
        with_kept({"lora_alpha": 8.0}, start.kept, "runs/one")


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../models",
        "models/../../x/y",
        "/etc",
        "//",
        "a//b",
        "./a",
        "~/x/y",
        "a\\..\\b",
        "x\x00/y",
        "name",
        "ft:x",
        "",
    ],
)
def test_no_name_leads_out_of_the_models(find, name):
    (find.settings.models.parent / "x" / "y").mkdir(parents=True)
    with pytest.raises(UserError, match="there is no"):
        find(name)


def test_a_directory_that_is_no_model_is_named(find):
    (find.settings.models / "empty").mkdir()
    with pytest.raises(UserError, match="empty: this model cannot be trained"):
        find("empty")


def test_only_a_job_that_succeeded_or_its_checkpoint_is_continued(find):
    job = Job("ftjob-" + 24 * "a", "fine_tuning", BUILT_IN, {}, {}, "file-1", suffix="s")
    find.state.add_job(job)
    name = f"ft:{BUILT_IN}:s:{24 * 'a'}"
    for model in (name, name + ":ckpt-step-", name + ":ckpt-step-x", name.replace(":s:", "::"), name + ":more"):
        with pytest.raises(UserError, match="there is no fine-tuned model"):
            find(model)
    with pytest.raises(UserError, match="there is no checkpoint of step 3"):
        find(name + ":ckpt-step-3")
    make_run(BUILT_IN, find.settings.jobs / job.id / "run")
    find.state.update_job(job.id, status="succeeded", fine_tuned_model=name)
    assert find(name).init_adapter == str(find.settings.jobs / job.id / "run")
