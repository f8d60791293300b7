"""The page's data: runs, adapters and datasets from what lies on disk, and what a name may reach."""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from types import SimpleNamespace

import pytest
from page_workspace import (
    BASE,
    HOSTILE,
    finished_run,
    progress,
    write_adapter,
    write_dataset,
    write_events,
    write_report,
    write_run,
    write_workspace,
)

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.config import TrainingConfig
from mlx_lora.data.chat_template import encode_prompt
from mlx_lora.data.dataset import read_split
from mlx_lora.errors import UserError
from mlx_lora.files import file_lock
from mlx_lora.models.resolve import resolve_model
from mlx_lora.reporting.charts import MOST_POINTS
from mlx_lora.runs.generations import Generations
from mlx_lora.serving.api import Call, Services
from mlx_lora.serving.api_error import ApiError
from mlx_lora.serving.page import data as page_data
from mlx_lora.serving.page import files as page_files
from mlx_lora.serving.records import Job
from mlx_lora.serving.routes import page as page_routes
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State
from mlx_lora.training.samples import SAMPLE_TOKENS
from mlx_lora.training.train import train

ROUTES = {(route.method, route.path): route for route in page_routes.ROUTES}


class Served:
    """The page's routes over a models directory, called as the app calls them."""

    def __init__(self, tmp_path):
        self.models = tmp_path / "models"
        self.models.mkdir(exist_ok=True)
        self.settings = ServerSettings(state=tmp_path / "state", models=self.models)
        self.state = State(self.settings.state)
        self.queue: list[str] = []
        scheduler = SimpleNamespace(position=self.queue.index)
        self.services = Services(self.settings, self.state, scheduler, None)

    def ask(self, method, path, **values):
        route = ROUTES[method, path]
        call = Call(self.services, None)
        if route.query:
            call.query = route.query.model_validate(values)
        if route.body:
            call.body = route.body.model_validate(values)
        answer = route.handler(call)
        # As the app does: what cannot be JSON fails here.
        text = answer.model_dump_json()
        assert "NaN" not in text
        return json.loads(text)

    def get(self, path, **values):
        return self.ask("GET", f"/v1/ui/{path}", **values)

    def post(self, path, **values):
        return self.ask("POST", f"/v1/ui/{path}", **values)

    def job(self, **changes):
        number = self.state.count_jobs(("running", "queued", "paused", "succeeded"))
        job = Job(f"ftjob-{number:024x}", "fine_tuning", BASE, {}, {}, "file-1", **{"status": "running", **changes})
        self.state.add_job(job)
        return job


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path)
    yield made
    made.state.close()


def by_name(answer, key="runs"):
    return {row["name"]: row for row in answer[key]}


def test_runs_are_listed_with_their_last_figures(served):
    write_workspace(served.models)
    finished_run(served.models / "adapters/agent/cycles/0005/run", 5)
    rows = by_name(served.get("runs"))
    assert {name: (row["kind"], row["status"], row["step"], row["total_steps"]) for name, row in rows.items()} == {
        "adapters/lumen": ("run", "finished", 400, 400),
        "adapters/half": ("run", "unfinished", 150, 400),
        "experiments/rank-32/seed-1": ("run", "finished", 200, 200),
        # The generations of the adapter are copies, and no runs.
        "adapters/agent/cycles/0005/run": ("night", "unfinished", 0, None),
    }
    assert rows["adapters/lumen"]["loss"] == 0.41
    assert rows["adapters/half"]["loss"] == progress(150).loss
    assert rows["adapters/half"]["validation_loss"] == pytest.approx(1.0627, abs=1e-3)
    assert rows["adapters/half"]["model"] == BASE


def test_a_run_is_running_while_its_lock_is_held(served):
    run = write_run(served.models / "run", done=50)
    (run / ".lock").touch()
    assert by_name(served.get("runs"))["run"]["status"] == "unfinished"
    with file_lock(run / ".lock", "held"):
        assert by_name(served.get("runs"))["run"]["status"] == "running"
    assert served.get("run", name="run")["run"]["status"] == "unfinished"


def test_a_row_follows_its_file(served):
    run = write_run(served.models / "run", done=50)
    assert served.get("run", name="run")["run"]["step"] == 50
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"event": "progress", **vars(progress(55, loss=0.125)), "time": 1.0}) + "\n")
    row = served.get("run", name="run")["run"]
    assert (row["step"], row["loss"]) == (55, 0.125)


def test_the_figures_of_a_long_run_are_read_from_its_ends(served):
    run = write_run(served.models / "run", steps=8_000, done=5_000, every=1)
    assert (run / "metrics.jsonl").stat().st_size > 5 * (page_data.HEAD + page_data.TAIL)
    row = by_name(served.get("runs"))["run"]
    assert (row["step"], row["total_steps"], row["loss"]) == (5_000, 8_000, progress(5_000).loss)


def test_one_run_with_its_gate_samples_and_settings(served):
    write_workspace(served.models)
    found = served.get("run", name="adapters/lumen")
    assert ["training loss", "0.41", "2.7 at the start"] in found["cards"]
    assert found["warnings"] == ["the gradient norm rose to 12 times its median at step 20"]
    assert ["lora_rank", "16"] in found["settings"]
    assert found["data"] == [["directory", "data/eisv"], ["sha256 of train", "ab" * 32]]
    suites = {suite["test_name"]: (suite["status"], suite["passed"]) for suite in found["gate"]["suites"]}
    assert suites == {"eisv_gate1": ("PASSED", 19), "claims_validation": ("FAILED", 14)}
    assert found["gate"]["cleared_for_deployment"] is False
    first = found["samples"][0]
    assert first["sides"]["before"][0] == [True, "I"]
    assert "".join(text for _, text in first["sides"]["after"]) == first["after"]
    assert found["samples"][1]["prompt"] == HOSTILE
    assert served.get("run", name="adapters/half")["gate"] is None


def test_the_newest_report_of_a_suite_counts(served):
    write_run(served.models / "run")
    write_report(served.models / "report_old.json", "run", passed=3)
    newest = write_report(served.models / "run" / "results.json", str(served.models / "run"), passed=20)
    os.utime(served.models / "report_old.json", (1e9, 1e9))
    (served.models / "report_none.json").write_text('{"test_name": 3}')
    gate = served.get("run", name="run")["gate"]
    assert (gate["cleared_for_deployment"], len(gate["suites"])) == (True, 1)
    newest.unlink()
    assert served.get("run", name="run")["gate"]["cleared_for_deployment"] is False


SMALL = {"model_name": BASE, "batch_size": 4, "gradient_accumulation_steps": 1, "warmup_steps": 1}


@pytest.mark.slow
def test_a_true_training_shows_its_answers_before_and_after(served, eisv_data):
    run = served.models / "trained"
    settings = {"learning_rate": 1e-2, "lora_dropout": 0.1, "lora_target_modules": "auto", "log_steps": 2}
    train(TrainingConfig(**SMALL, **settings, data=str(eisv_data), output_dir=str(run), max_steps=12), quiet=True)
    found = served.get("run", name="trained")
    assert found["run"]["status"] == "finished"
    assert {chart["title"] for chart in served.get("charts", name="trained")["charts"]} >= {"Loss", "Speed"}
    samples = found["samples"]
    backend = MLXBackend(resolve_model(BASE))
    rows = read_split(eisv_data, "valid")[:3]
    prompts = [encode_prompt(backend.tokenizer, row.messages[:-1]) for row in rows]
    assert [sample["before"] for sample in samples] == backend.generate(prompts, SAMPLE_TOKENS, 0.0, 0)
    backend.load_adapter(run)
    assert [sample["after"] for sample in samples] == backend.generate(prompts, SAMPLE_TOKENS, 0.0, 0)
    assert any(sample["before"] != sample["after"] for sample in samples)


def test_a_failed_generation_costs_only_the_samples(served, eisv_data, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no generation today")

    monkeypatch.setattr("mlx_lora.training.samples._answers", fails)
    run = served.models / "trained"
    train(TrainingConfig(**SMALL, data=str(eisv_data), output_dir=str(run), max_steps=1), quiet=True)
    found = served.get("run", name="trained")
    assert (found["run"]["status"], found["samples"]) == ("finished", [])
    assert "no generation today" in (run / "report.html").read_text()


SVG = "{http://www.w3.org/2000/svg}"


def loss_chart(served, **query):
    charts = {chart["title"]: chart["svg"] for chart in served.get("charts", name="run", **query)["charts"]}
    return ElementTree.fromstring(charts["Loss"])


def test_curves_of_ten_thousand_points_are_drawn_with_few_and_zoom_shows_all(served):
    write_run(served.models / "run", steps=10_000, every=1)
    whole = loss_chart(served, width=600)
    line = whole.findall(f"{SVG}polyline")[0].get("points").split()
    assert whole.get("viewBox").startswith("0 0 600 ")
    assert MOST_POINTS / 2 <= len(line) <= MOST_POINTS + 2
    near = loss_chart(served, low=5000, high=5100)
    data = json.loads(near.get("data-chart"))
    assert data["x"] == [5000, 5100]
    assert [x for x, _ in data["lines"][0][1]] == list(range(5000, 5101))


def test_a_logarithmic_axis_is_drawn_by_decades(served):
    run = write_run(served.models / "run", done=5)
    write_events(run / "metrics.jsonl", [progress(step, loss=10.0**-step) for step in range(5)])
    drawn = loss_chart(served, log=True)
    places = [tuple(map(float, point.split(","))) for point in drawn.find(f"{SVG}polyline").get("points").split()]
    steps = {round(b[1] - a[1]) for a, b in pairwise(places)}
    assert len(steps) == 1
    texts = {text.text for text in drawn.iter(f"{SVG}text")}
    assert {"1", "0.1", "0.01", "0.001", "1e-4"} <= texts


def test_steps_without_a_measurement_draw_an_empty_chart(served):
    write_run(served.models / "run")
    charts = {chart["title"]: chart["svg"] for chart in served.get("charts", name="run", low=900, high=950)["charts"]}
    assert charts["Loss"] == ""
    # Nonsense is all steps.
    assert loss_chart(served, low=20, high=10) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json\n",
        '{"event": "progress"}\n',
        '{"event": "progress", "step": "many"}\n',
        '{"event": "start", "step": 1, "model": 3}\n',
        "[" * 5000,
        "\x00\xff",
    ],
)
def test_broken_files_are_rows_without_figures(served, text):
    run = write_run(served.models / "run")
    for name in ("metrics.jsonl", "run.json", "samples.json"):
        (run / name).write_text(text)
    (run / "config.yaml").write_text("[" + text[:40])
    row = by_name(served.get("runs"))["run"]
    assert (row["status"], row["step"], row["loss"]) == ("unfinished", 0, None)
    found = served.get("run", name="run")
    assert (found["samples"], found["settings"], found["warnings"]) == ([], [], [])
    assert served.get("charts", name="run") == {"charts": []}


def test_losses_that_are_not_finite_are_none(served):
    run = write_run(served.models / "run", done=5)
    write_events(run / "metrics.jsonl", [progress(5), progress(6, loss=float("nan"), tokens_per_second=float("inf"))])
    row = by_name(served.get("runs"))["run"]
    assert (row["step"], row["loss"], row["tokens_per_second"]) == (6, None, None)
    served.get("run", name="run")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret", "run/../../secret", "/etc", "out", "out/run", "a\0b", "x" * 999]
)
@pytest.mark.parametrize("path", ["run", "charts", "adapter", "dataset"])
def test_names_reach_nothing_outside(served, tmp_path, name, path):
    secret = write_run(tmp_path / "secret")
    write_dataset(secret / "data")
    (secret / "generations").mkdir()
    (served.models / "out").symlink_to(tmp_path)
    (served.models / "out2").symlink_to(secret)
    for asked in (name, "out2"):
        with pytest.raises(ApiError) as raised:
            served.get(path, name=asked)
        assert raised.value.status == 404


def test_a_job_is_a_run_of_its_own(served):
    job = served.job(suffix="support", progress={"step": 7, "total_steps": 40, "loss": 1.5})
    row = by_name(served.get("runs"))[job.id]
    assert (row["kind"], row["label"], row["status"], row["step"]) == ("job", f"support ({job.id})", "running", 7)
    write_run(served.settings.jobs / job.id / "run", done=20)
    assert served.get("run", name=job.id)["run"]["step"] == 20
    assert served.get("charts", name=job.id)["charts"]
    write_dataset(served.settings.jobs / job.id / "data")
    assert [row["name"] for row in served.get("datasets")["datasets"]] == [job.id]
    assert served.get("dataset", name=job.id)["files"][0]["rows"] == 41


def test_jobs_that_have_not_ended_are_always_shown(served, monkeypatch):
    waiting = served.job(status="queued")
    served.queue.append(waiting.id)
    paused = served.job(status="paused", wish=None)
    ended = [served.job(status="succeeded") for _ in range(3)]
    monkeypatch.setattr(page_routes, "MOST_JOBS", 3)
    found = served.get("jobs")
    assert [(row["id"], row["position"]) for row in found["jobs"]] == [
        (paused.id, None),
        (waiting.id, 0),
        (ended[-1].id, None),
    ]
    assert found["more"] == 2


def test_adapters_with_their_nights_generations_and_history(served, tmp_path):
    write_adapter(served.models / "adapters/agent", tmp_path / "made")
    (row,) = served.get("adapters")["adapters"]
    assert {key: row[key] for key in ("name", "live", "previous", "best", "trial", "generations", "nights")} == {
        "name": "adapters/agent",
        "live": 3,
        "previous": 2,
        "best": 3,
        "trial": None,
        "generations": 3,
        "nights": 4,
    }
    assert row["last"]["decision"] == "not promoted"
    found = served.get("adapter", name="adapters/agent")
    assert [(one["number"], one["refs"], one["night"]) for one in found["generations"]] == [
        (3, ["live", "best"], "3"),
        (2, ["previous"], "2"),
        (1, [], "1"),
    ]
    assert found["generations"][0]["reasons"] == ["better on tonight's rows, not worse on earlier nights"]
    assert [night["number"] for night in found["nights"]] == ["4", "3", "2", "1"]
    assert [line["event"] for line in found["history"][:2]] == ["best", "promoted"]
    assert found["matrices"][0]["svg"].startswith("<svg")


def test_promote_and_roll_back(served, tmp_path):
    generations = write_adapter(served.models / "agent", tmp_path / "made")
    found = served.post("promote", name="agent", generation=1, reason="it was kinder")
    assert (found["live"], found["previous"], generations.live) == (1, 3, 1)
    assert found["history"][0]["reason"] == "it was kinder"
    assert served.post("rollback", name="agent")["live"] == 3
    assert served.post("rollback", name="agent", generation=0)["live"] is None
    with pytest.raises(ApiError) as raised:
        served.post("promote", name="agent", generation=9)
    assert (raised.value.status, raised.value.param) == (409, "generation")
    assert "there is no generation 9" in raised.value.message
    with pytest.raises(ApiError) as raised:
        served.post("rollback", name="agent")
    assert raised.value.status == 409
    assert generations.numbers() == [1, 2, 3]


def test_a_promotion_ends_a_trial(served, tmp_path):
    generations = write_adapter(served.models / "agent", tmp_path / "made")
    generations.promote(1, "a night", trial=True)
    assert served.get("adapter", name="agent")["trial"] == 1
    assert served.post("promote", name="agent", generation=1)["trial"] is None


def test_a_broken_history_is_named_and_nothing_changes(served, tmp_path):
    generations = write_adapter(served.models / "agent", tmp_path / "made")
    file = served.models / "agent" / "history.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], lines[1].replace("promoted", "demoted"), *lines[2:]]))
    found = served.get("adapter", name="agent")
    assert "line 3: the chain is broken" in found["broken"]
    assert len(found["history"]) == 2
    with pytest.raises(ApiError) as raised:
        served.post("promote", name="agent", generation=1)
    assert (raised.value.status, generations.live) == (409, 3)


def test_a_nights_report_is_its_page_without_style_and_script(served, tmp_path):
    write_adapter(served.models / "agent", tmp_path / "made")
    html = served.get("night", name="agent", cycle="0003")["html"]
    assert "<h1>Night 3 of agent</h1>" in html
    assert "<script" not in html
    assert "<style" not in html
    assert 'style="' not in html
    for cycle in ("0009", "9"):
        with pytest.raises(ApiError) as raised:
            served.get("night", name="agent", cycle=cycle)
        assert raised.value.status == 404
    (served.models / "agent/cycles/0002/cycle.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        served.get("night", name="agent", cycle="0002")
    assert served.get("adapter", name="agent")["nights"][2]["decision"] == "unreadable"


def test_datasets_and_their_findings(served):
    folder = write_dataset(served.models / "data" / "chat")
    (row,) = served.get("datasets")["datasets"]
    assert [(file["split"], file["rows"]) for file in row["files"]] == [("train", 41), ("valid", 1)]
    found = served.get("dataset", name="data/chat")
    assert found["examples"][0]["messages"][0] == {"role": "user", "text": "Question 0?"}
    checked = served.post("check", name="data/chat")
    assert {one["check"]: one["count"] for one in checked["findings"]} == {"leaked_rows": 1, "exact_duplicates": 1}
    # What has not changed is not checked again: the program that does it is gone.
    page = served.services.page.datasets
    monkey = pytest.MonkeyPatch()
    monkey.setattr("mlx_lora.serving.page.datasets.run_captured", None)
    assert served.post("check", name="data/chat") == checked
    monkey.undo()
    (folder / "train.jsonl").write_text("no row\n")
    assert {one["check"] for one in served.post("check", name="data/chat")["findings"]} >= {"malformed"}
    with page._checking, pytest.raises(ApiError) as raised:
        served.post("check", name="data/chat")
    assert raised.value.status == 429


def test_a_dataset_that_cannot_be_checked_says_why(served):
    folder = write_dataset(served.models / "chat")
    for file in folder.iterdir():
        file.write_text("")
    with pytest.raises(ApiError, match="there is no row in it") as raised:
        served.post("check", name="chat")
    assert raised.value.status == 400


def test_words_that_differ_are_marked(served):
    found = served.post("diff", before="the lamp is on", after="the lamp is off")
    assert found == {
        "before": [[False, "the lamp is"], [False, " "], [True, "on"]],
        "after": [[False, "the lamp is"], [False, " "], [True, "off"]],
    }


def test_a_large_tree_is_looked_into_as_far_as_is_sensible(served, monkeypatch):
    for number in range(5):
        write_run(served.models / f"{number}" / "run", done=5)
    assert served.get("runs")["whole"] is True
    monkeypatch.setattr(page_files, "MOST_DIRECTORIES", 4)
    other = page_files.scan(served.models)
    assert not other.whole
    assert 0 < len(other.runs) < 5


def test_what_is_not_the_users_is_passed_over(served):
    for place in (".git/run", "node_modules/run", "run/checkpoints/run"):
        write_run(served.models / place, done=5)
    shutil.rmtree(served.models / "run" / "checkpoints")
    assert served.get("runs")["runs"] == []
    (served.models / "loop").symlink_to(served.models)
    assert served.get("runs")["runs"] == []


def test_the_static_files_need_no_token_and_name_no_other_host():
    static = [route for route in page_routes.ROUTES if route.public]
    assert {route.path for route in static} >= {"/", "/ui/page.css", "/ui/page.js", "/ui/chart.js", "/ui/chart.css"}
    assert not any(route.public for route in page_routes.ROUTES if route.path.startswith("/v1"))
    for route in static:
        answer = route.handler(Call(None, None))
        text = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
    page = ROUTES["GET", "/"].handler(Call(None, None)).body.decode()
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == page.count("<script src=")
    named = {word.split('"')[0] for word in page.split('src="')[1:] + page.split('stylesheet" href="')[1:]}
    assert named <= {route.path for route in static}


def test_every_generation_survives(served, tmp_path):
    """Nothing that the page does deletes a generation."""
    write_adapter(served.models / "agent", tmp_path / "made")
    for number in (1, 2, 3, 1):
        served.post("promote", name="agent", generation=number)
        served.post("rollback", name="agent", generation=0)
    assert Generations(served.models / "agent").numbers() == [1, 2, 3]


def test_the_servers_own_jobs_are_shown_once(tmp_path):
    """The state directory may lie below the models directory, as both do by default."""
    served = Served(tmp_path)
    found = page_files.scan(tmp_path, served.settings.state).runs
    write_run(served.settings.jobs / "ftjob-1" / "run")
    write_run(served.models / "mine")
    assert found == {}
    assert list(page_files.scan(tmp_path, served.settings.state).runs) == ["models/mine"]
    served.state.close()
