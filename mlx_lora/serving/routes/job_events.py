"""Events of a job as they come: server-sent events that resume after the last one that a client has seen."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ..api import Call, Route
from ..api_error import ApiError
from ..records import ENDED, JobEvent
from ..state import State
from .fine_tuning import find_job
from .job_objects import event_object

if TYPE_CHECKING:
    from anyio import Event
    from sse_starlette import EventSourceResponse

POLL_SECONDS = 0.3
KEEP_ALIVE_SECONDS = 15
GRACE_SECONDS = 2
BATCH = 500
LAST_EVENT_ID = "last-event-id"


async def stream_events(call: Call) -> EventSourceResponse:
    """Stream a job's events from the first, or after ``Last-Event-ID``; ``end`` comes last, once the job has ended."""
    from anyio import Event
    from sse_starlette import EventSourceResponse
    from starlette.concurrency import run_in_threadpool

    job = await run_in_threadpool(find_job, call)
    ending = Event()
    return EventSourceResponse(
        _events(call.services.state, job.id, _last_seen(call), ending),
        ping=KEEP_ALIVE_SECONDS,
        sep="\n",
        # When the server ends, the stream does so too, as a whole answer.
        shutdown_event=ending,
        shutdown_grace_period=GRACE_SECONDS,
    )


def _last_seen(call: Call) -> int:
    text = call.http.headers.get(LAST_EVENT_ID) or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ApiError(400, "Last-Event-ID must be the id of an event of this stream", "invalid_value", LAST_EVENT_ID)
    return int(text)


async def _events(state: State, job_id: str, after: int, ending: Event) -> AsyncIterator[dict[str, str]]:
    from anyio import move_on_after
    from starlette.concurrency import run_in_threadpool

    was_ended = False
    while not ending.is_set():
        # The status first: whoever reads "ended" has all events that came before it.
        job = await run_in_threadpool(state.find_job, job_id)
        events = await run_in_threadpool(state.list_events, job_id, after, BATCH)
        for event in events:
            after = event.sequence
            yield {"id": str(event.sequence), "event": event.type, "data": _json(_content(event))}
        ended = job is None or job.status in ENDED
        if ended and was_ended and not events:
            yield {"event": "end", "data": _json({"status": job.status if job else "failed"})}
            return
        was_ended = ended
        if len(events) < BATCH:
            with move_on_after(POLL_SECONDS):
                await ending.wait()


def _content(event: JobEvent) -> dict[str, Any]:
    return {"sequence": event.sequence, **event_object(event).model_dump()}


def _json(content: Any) -> str:
    # ASCII: no character that a client could take for the end of a line.
    return json.dumps(content)


ROUTES = [
    Route(
        *("GET", "/v1/jobs/{id}/events", "Follow a job's events (server-sent events)", stream_events),
        media_type="text/event-stream",
        errors=(400, 404),
    ),
]
