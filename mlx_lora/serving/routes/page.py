"""Routes of the live page: its static files, what it shows, and its buttons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.responses import Response

from ...backends.adapter_format import has_generations
from ...errors import UserError
from ...evaluation.views.answer_diff import word_diff
from ...reporting.charts import CHART_STYLE
from ...reporting.heat_map import HEAT_STYLE
from ...sleep.record import CYCLES
from ...user_files import read_text
from ..api import Call, Route
from ..api_error import ApiError
from ..page import adapters
from ..records import ENDED, Job
from .page_models import (
    AdapterDetail,
    AdapterList,
    ChartList,
    ChartQuery,
    CheckBody,
    DatasetDetail,
    DatasetList,
    Diff,
    DiffBody,
    Findings,
    JobRow,
    JobRows,
    NameQuery,
    NightPage,
    NightQuery,
    PromoteBody,
    RollbackBody,
    RunDetail,
    RunList,
)

PAGE = Path(__file__).parents[1] / "page" / "static"
SCRIPTS = ("page", "dom", "server", "curves", "run_views", "adapter_views", "data_views")
CHART_SCRIPT = Path(__file__).parents[2] / "reporting" / "templates" / "chart.js"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}
# Jobs that the table shows; those that have not ended are always among them.
MOST_JOBS = 500


def _static(name: str, media_type: str, read: Callable[[], str]) -> Route:
    def handler(call: Call) -> Response:
        return Response(read(), media_type=media_type, headers=HEADERS)

    handler.__name__ = f"page_{name.replace('/', '').replace('.', '_') or 'index'}"
    return Route("GET", name, "The live page", handler, media_type=media_type, public=True)


def list_runs(call: Call) -> RunList:
    """Return all runs."""
    rows, whole = call.services.page.runs.rows()
    directory = str(call.services.settings.models.absolute())
    return RunList.model_validate({"runs": rows, "whole": whole, "directory": directory})


def read_run(call: Call) -> RunDetail:
    """Return one run."""
    return RunDetail.model_validate(_known(call.services.page.runs.detail(call.query.name), "run", call.query.name))


def draw_run(call: Call) -> ChartList:
    """Return the charts of a run."""
    query = call.query
    whole = query.low is None or query.high is None or query.low >= query.high
    within = None if whole else (query.low, query.high)
    drawn = call.services.page.runs.draw(query.name, query.width, query.log, within)
    return ChartList.model_validate({"charts": _known(drawn, "run", query.name)})


def list_page_jobs(call: Call) -> JobRows:
    """Return the jobs, the newest first."""
    jobs = call.services.state.list_jobs()[::-1]
    active = [job for job in jobs if job.status not in ENDED]
    ended = [job for job in jobs if job.status in ENDED][: max(0, MOST_JOBS - len(active))]
    return JobRows(jobs=[_job_row(call, job) for job in [*active, *ended]], more=len(jobs) - len(active) - len(ended))


def _job_row(call: Call, job: Job) -> JobRow:
    position = call.services.scheduler.position(job.id) if job.status == "queued" else None
    shown = {key: getattr(job, key) for key in JobRow.model_fields if key != "position"}
    return JobRow(**shown, position=position)


def list_adapters(call: Call) -> AdapterList:
    """Return the adapters with generations or nights."""
    return AdapterList(adapters=adapters.adapter_rows(call.services.page.models))


def read_adapter(call: Call) -> AdapterDetail:
    """Return one adapter."""
    return _adapter(call, call.query.name)


def read_night(call: Call) -> NightPage:
    """Return the report of a night."""
    path = _adapter_path(call, call.query.name)
    if not (path / CYCLES / call.query.cycle).is_dir():
        raise ApiError(404, f"{call.query.name} has no night {call.query.cycle}.", "not_found", "cycle")
    return NightPage(html=adapters.night_page(path, call.query.cycle))


def promote(call: Call) -> AdapterDetail:
    """Make a generation live."""
    body: PromoteBody = call.body
    return _change(call, body.name, lambda path: adapters.make_live(path, body.generation, body.reason))


def roll_back(call: Call) -> AdapterDetail:
    """Return to an earlier generation."""
    body: RollbackBody = call.body
    return _change(call, body.name, lambda path: adapters.go_back(path, body.generation, body.reason))


def _change(call: Call, name: str, make: Callable[[Path], list[str]]) -> AdapterDetail:
    path = _adapter_path(call, name)
    try:
        notes = make(path)
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise ApiError(409, str(error), "conflict", "generation") from error
    return _adapter(call, name, notes)


def _adapter(call: Call, name: str, notes: list[str] | None = None) -> AdapterDetail:
    return AdapterDetail(**adapters.adapter_detail(name, _adapter_path(call, name)), notes=notes or [])


def _adapter_path(call: Call, name: str) -> Path:
    path = call.services.page.models.path(name)
    if path is None or not (has_generations(path) or (path / CYCLES).is_dir()):
        raise _unknown("adapter", name)
    return path


def list_datasets(call: Call) -> DatasetList:
    """Return the datasets."""
    return DatasetList(datasets=call.services.page.datasets.rows())


def read_dataset(call: Call) -> DatasetDetail:
    """Return one dataset with its first rows."""
    path = _known(call.services.page.datasets.find(call.query.name), "dataset", call.query.name)
    return DatasetDetail(**call.services.page.datasets.detail(call.query.name, path))


def check_dataset(call: Call) -> Findings:
    """Check a dataset."""
    path = _known(call.services.page.datasets.find(call.body.name), "dataset", call.body.name)
    return Findings(**call.services.page.datasets.check(call.body.name, path))


def compare_answers(call: Call) -> Diff:
    """Mark the words in which two answers differ."""
    before, after = word_diff(call.body.before, call.body.after)
    return Diff(before=[list(piece) for piece in before], after=[list(piece) for piece in after])


def _known(found: Any, kind: str, name: str) -> Any:
    if found is None:
        raise _unknown(kind, name)
    return found


def _unknown(kind: str, name: str) -> ApiError:
    return ApiError(404, f"There is no {kind} {name[:200]!r} below the models directory.", "not_found", "name")


def _file(name: str) -> Callable[[], str]:
    return lambda: read_text(PAGE / name)


ROUTES = [
    _static("/", "text/html", _file("index.html")),
    _static("/ui/page.css", "text/css", _file("page.css")),
    _static("/ui/chart.css", "text/css", lambda: CHART_STYLE + HEAT_STYLE),
    *(_static(f"/ui/{name}.js", "text/javascript", _file(f"{name}.js")) for name in SCRIPTS),
    _static("/ui/chart.js", "text/javascript", lambda: read_text(CHART_SCRIPT)),
    Route("GET", "/v1/ui/runs", "List runs", list_runs, answer=RunList),
    Route("GET", "/v1/ui/run", "Read a run", read_run, query=NameQuery, answer=RunDetail, errors=(404,)),
    Route("GET", "/v1/ui/charts", "Draw a run's curves", draw_run, query=ChartQuery, answer=ChartList, errors=(404,)),
    Route("GET", "/v1/ui/jobs", "List jobs for the page", list_page_jobs, answer=JobRows),
    Route("GET", "/v1/ui/adapters", "List adapters with generations", list_adapters, answer=AdapterList),
    Route(
        *("GET", "/v1/ui/adapter", "Read an adapter's generations and nights", read_adapter),
        query=NameQuery,
        answer=AdapterDetail,
        errors=(400, 404),
    ),
    Route(
        *("GET", "/v1/ui/night", "Read a night's report", read_night),
        query=NightQuery,
        answer=NightPage,
        errors=(400, 404),
    ),
    Route(
        *("POST", "/v1/ui/promote", "Make a generation live", promote),
        body=PromoteBody,
        answer=AdapterDetail,
        errors=(400, 404, 409, 507),
    ),
    Route(
        *("POST", "/v1/ui/rollback", "Return to an earlier generation", roll_back),
        body=RollbackBody,
        answer=AdapterDetail,
        errors=(400, 404, 409, 507),
    ),
    Route("GET", "/v1/ui/datasets", "List datasets", list_datasets, answer=DatasetList),
    Route(
        *("GET", "/v1/ui/dataset", "Read a dataset's first rows", read_dataset),
        query=NameQuery,
        answer=DatasetDetail,
        errors=(400, 404),
    ),
    Route(
        *("POST", "/v1/ui/check", "Check a dataset", check_dataset),
        body=CheckBody,
        answer=Findings,
        errors=(400, 404, 429, 503),
    ),
    Route("POST", "/v1/ui/diff", "Mark how two answers differ", compare_answers, body=DiffBody, answer=Diff),
]
