"""Deleted once the server is there."""

import hashlib
import inspect
import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as R

from mlx_lora.serving import event_routes, fine_tuning_routes, train_routes
from mlx_lora.serving.api import ApiError, Call, Services
from mlx_lora.serving.records import UploadedFile, new_id
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State


class Scheduler:
    def __init__(self, state):
        self.state = state
        self.thread = {}

    def submit(self, job):
        self.state.add_job(job)
        self.state.add_event(job.id, "created", key="created")
        threading.Thread(target=self.work, args=(job.id,), daemon=True).start()
        return job

    def work(self, id):
        job = self.state.find_job(id)
        if job.model == "owner/slow":
            self.state.update_job(id, status="queued")
            return
        self.state.update_job(id, status="running", started_at=time.time())
        for step in range(1, 6):
            time.sleep(0.2)
            self.state.add_event(
                id, f"Step {step}/5: training loss=1.0", key=f"progress {step}", data={"step": step, "train_loss": 1.0}
            )
            self.state.update_job(id, progress={"step": step, "total_steps": 5, "epoch": 1, "loss": 1.0})
        self.state.add_event(id, "succeeded", key="end")
        self.state.update_job(
            id,
            status="succeeded",
            finished_at=time.time(),
            fine_tuned_model=f"ft:{job.model}:{job.suffix or ''}:{id[6:]}",
        )

    def _c(self, id, only, **ch):
        job = self.state.find_job(id)
        if job is None:
            raise ApiError(404, f"there is no job {id}")
        done = self.state.update_job(id, only_if=only, **ch)
        if done is None:
            raise ApiError(409, f"{id} is {job.status}")
        return done

    def pause(self, id):
        return self._c(id, ["queued", "running", "validating_files"], status="paused")

    def resume(self, id):
        return self._c(id, ["paused"], status="queued")

    def cancel(self, id):
        return self._c(id, ["queued", "running", "paused", "validating_files"], status="cancelled")

    def position(self, id):
        return 0


def app(services):
    def endpoint(route):
        async def handle(request):
            call = Call(services, request, dict(request.path_params))

            def err(e):
                if route.contract == "train":
                    return JSONResponse({"error": e.message}, e.status)
                return JSONResponse(
                    {"error": {"message": e.message, "type": "x", "param": e.param, "code": e.code}}, e.status
                )

            try:
                if route.query:
                    call.query = route.query.model_validate(dict(request.query_params))
                if route.body:
                    call.body = route.body.model_validate(json.loads(await request.body()))
                if inspect.iscoroutinefunction(route.handler):
                    out = await route.handler(call)
                else:
                    out = await run_in_threadpool(route.handler, call)
            except ValidationError as e:
                first = e.errors()[0]
                return err(ApiError(422, ".".join(map(str, first["loc"])) + ": " + first["msg"]))
            except ApiError as e:
                return err(e)
            if isinstance(out, Response):
                return out
            route.answer.model_validate(out.model_dump(mode="json"))
            return JSONResponse(out.model_dump(mode="json"), route.status)

        return R(route.path.replace("{id}", "{id:path}") if 0 else route.path, handle, methods=[route.method])

    async def files(request):
        form = await request.form()
        data = await form["file"].read()
        f = UploadedFile(
            new_id("file"), form["file"].filename, len(data), form["purpose"], hashlib.sha256(data).hexdigest()
        )
        services.settings.files.mkdir(exist_ok=True)
        (services.settings.files / f.id).write_bytes(data)
        services.state.add_file(f)
        return JSONResponse(
            {
                "id": f.id,
                "object": "file",
                "bytes": f.bytes,
                "created_at": int(f.created_at),
                "filename": f.filename,
                "purpose": f.purpose,
                "status": "processed",
            }
        )

    return Starlette(
        routes=[
            *(endpoint(r) for r in [*fine_tuning_routes.ROUTES, *train_routes.ROUTES, *event_routes.ROUTES]),
            R("/v1/files", files, methods=["POST"]),
        ]
    )


@contextmanager
def running_server(tmp_path, **changes):
    settings = ServerSettings(state=tmp_path / "state", **changes)
    state = State(settings.state)
    services = Services(settings, state, Scheduler(state), None)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app(services), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", token="t", state_dir=settings.state, process=None)
    finally:
        server.should_exit = True
        thread.join()
