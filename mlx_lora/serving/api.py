"""Routes: what a request and its answer look like, from which the app and the OpenAPI file are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

if TYPE_CHECKING:
    from .chat.service import ChatService
    from .jobs.scheduler import Scheduler
    from .page.sources import PageSources
    from .settings import ServerSettings
    from .state import State

Method = Literal["GET", "POST", "DELETE"]


class Strict(BaseModel):
    """Body whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Lenient(BaseModel):
    """Body whose unknown keys are passed over: clients of other servers send keys of their own."""

    model_config = ConfigDict(extra="ignore")


@dataclass
class Services:
    """Services that the routes use."""

    settings: ServerSettings
    state: State
    scheduler: Scheduler
    chat: ChatService

    @cached_property
    def page(self) -> PageSources:
        """Sources of the page, found when it is first looked at."""
        from .page.sources import PageSources

        return PageSources(self.settings, self.state)


@dataclass
class Call:
    """One request, checked.

    Attributes:
        path: path parameters; ids match ``[A-Za-z0-9_.:@-]+`` and are never used as paths unchecked.
        query: an instance of the route's ``query``.
        body: an instance of the route's ``body``.
        http: the request itself: headers, uploads, disconnection.
    """

    services: Services
    http: Request
    path: dict[str, str] = field(default_factory=dict)
    query: Any = None
    body: Any = None


@dataclass(frozen=True)
class Route:
    """Route of the API.

    Attributes:
        handler: takes a :class:`Call`; returns an instance of ``answer``, or a starlette response. A plain function
            runs in a thread, a coroutine function in the event loop.
        body: model of the JSON body, ``None`` for no body.
        upload: the body is multipart/form-data, described by ``body``, and ``handler`` reads it itself.
        query: model of the query parameters.
        answer: model of the JSON answer; ``None`` where it is something else (``media_type``).
        errors: statuses that it may answer with, beside 401, 403, 413, 415, 421 and 422, which every route may, 400
            with a body and 404 with an id in the path.
        streams: it answers with server-sent events where the body asks for a stream.
        public: no token is asked for: pages and what they consist of, which hold no data.
        contract: which shape errors have: ``openai`` ``{"error": {message, type, param, code}}``, or ``train``
            ``{"error": "sentence"}``.
    """

    method: Method
    path: str
    summary: str
    handler: Callable[[Call], Any]
    body: type[BaseModel] | None = None
    upload: bool = False
    query: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    media_type: str = "application/json"
    status: int = 200
    errors: tuple[int, ...] = ()
    contract: Literal["openai", "train"] = "openai"
    streams: bool = False
    public: bool = False
