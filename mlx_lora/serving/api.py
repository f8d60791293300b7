"""Routes: what a request and its answer look like, from which the app and the OpenAPI file are made, and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

if TYPE_CHECKING:
    from .chat import ChatService
    from .scheduler import Scheduler
    from .settings import ServerSettings
    from .state import State

Method = Literal["GET", "POST", "DELETE"]


class Strict(BaseModel):
    """Body whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Lenient(BaseModel):
    """Body whose unknown keys are passed over: clients of other servers send keys of their own."""

    model_config = ConfigDict(extra="ignore")


class ApiError(Exception):
    """Error with a status and one sentence.

    Attributes:
        code: short name for programs, such as ``not_found``.
        param: the key of the request that is wrong.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


@dataclass
class Services:
    """What the routes work on."""

    settings: ServerSettings
    state: State
    scheduler: Scheduler
    chat: ChatService


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
    public: bool = False
