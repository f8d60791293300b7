"""The app: routes with their requests parsed and checked, behind the gate."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any, cast, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as PathRoute

from ..errors import LONGEST, first_line
from .api import Call, Method, Route, Services
from .api_error import ApiError
from .openapi import IDENTITY, document_route
from .routes import chat, completions, files, fine_tuning, job_events, models, page, predict, train
from .security import Gate, RouteTable

# The routes of the server: one line a module.
ALL: list[Route] = [
    *files.ROUTES,
    *train.ROUTES,
    *fine_tuning.ROUTES,
    *job_events.ROUTES,
    *models.ROUTES,
    *chat.ROUTES,
    *completions.ROUTES,
    *predict.ROUTES,
    *page.ROUTES,
]
# A name below a directory: no empty part, no part of dots alone, no backslash or control character.
RELATIVE = re.compile(r"(?!/)(?:(?:^|/)(?!\.+(?:/|$))[^/\\\x00-\x1f\x7f]+){1,64}")


def make_app(services: Services, routes: Sequence[Route] | None = None) -> Starlette:
    """Return the app of a server."""
    served = list(ALL if routes is None else routes)
    table = RouteTable([*served, document_route(served)])
    return Starlette(
        routes=[
            PathRoute(path, _endpoint(by_method, services), methods=list(by_method))
            for path, by_method in table.by_path.items()
        ],
        middleware=[Middleware(Gate, settings=services.settings, table=table)],
    )


def _endpoint(by_method: Mapping[Method, Route], services: Services) -> Any:
    async def answer(request: Request) -> Response:
        route = by_method[cast(Method, "GET" if request.method == "HEAD" else request.method)]
        call = Call(services, request, _checked_path(route, request.path_params))
        call.query = route.query and _checked_query(route.query, request.query_params)
        if route.upload:
            _check_type(request, "multipart/form-data")
        elif route.body is not None:
            _check_type(request, "application/json")
            call.body = await run_in_threadpool(parse_body, route.body, await request.body())
        if inspect.iscoroutinefunction(route.handler):
            result = await route.handler(call)
        else:
            result = await run_in_threadpool(route.handler, call)
        if isinstance(result, Response):
            return result
        return Response(result.model_dump_json(by_alias=True), route.status, media_type=route.media_type)

    return answer


def _checked_path(route: Route, values: Mapping[str, str]) -> dict[str, str]:
    """Return the path's parameters; what cannot be an id is not found."""
    for name, value in values.items():
        pattern = RELATIVE if f"{{{name}:path}}" in route.path else re.compile(IDENTITY)
        if not pattern.fullmatch(value) or not value.isprintable():
            raise ApiError(404, f"The path's {name} is not the id of anything here.", "not_found", name)
    return dict(values)


def _check_type(request: Request, wanted: str) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        raise ApiError(415, f"The body must be {wanted}; say so in Content-Type.", "unsupported_media_type")


def _checked_query(model: type[BaseModel], values: QueryParams) -> BaseModel:
    lists = {name for name, field in model.model_fields.items() if get_origin(field.annotation) is list}
    given = {name: values.getlist(name) if name in lists else values[name] for name in values}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _invalid(error, given, "the query") from None


def parse_body(model: type[BaseModel], content: bytes) -> BaseModel:
    """Return a JSON body as an instance of its model.

    Raises:
        ApiError: 400, it is not JSON, nests too deep or holds a number that is none; 422, it does not fit the model.
    """
    try:
        parsed = from_json(content, allow_inf_nan=False)
        # 1e999 is JSON, and no number that can be written again.
        json.dumps(parsed, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body cannot be read as JSON ({first_line(error)}).", "invalid_json") from None
    try:
        try:
            return model.model_validate_json(content, strict=True)
        except ValidationError as error:
            if not _make_whole(parsed, error):
                raise
            return model.model_validate_json(json.dumps(parsed), strict=True)
    except ValidationError as error:
        raise _invalid(error, parsed, "the body") from None


def _make_whole(parsed: Any, error: ValidationError) -> bool:
    """Turn 3.0 into 3 where an integer is wanted, as JSON Schema means it; False: there is none."""
    found = False
    for detail in error.errors():
        value, place = detail["input"], _existing(detail["loc"], parsed, False)
        if place and detail["type"] == "int_type" and isinstance(value, float) and value.is_integer():
            *above, last = place
            reduce(getitem, above, parsed)[last] = int(value)
            found = True
    return found


def _invalid(error: ValidationError, given: Any, where: str) -> ApiError:
    """Return the first wrong key with all that pydantic says of it; alternatives of a type are joined."""
    found = [(_existing(detail["loc"], given, detail["type"] == "missing"), detail) for detail in error.errors()]
    place = found[0][0]
    said = dict.fromkeys(_said(detail) for own, detail in found if own == place)
    key = ".".join(map(str, place))
    sentence = f"{key or where}: {', or '.join(said)}"
    if len(sentence) > LONGEST:
        sentence = sentence[:LONGEST] + "…"
    return ApiError(422, sentence + ".", "invalid_value", key or None)


def _existing(location: tuple[int | str, ...], given: Any, missing: bool) -> tuple[int | str, ...]:
    """Return the part of a location that is in the input: pydantic adds the names of a union's members."""
    place: list[int | str] = []
    for number, part in enumerate(location):
        inside = isinstance(given, list) and isinstance(part, int) and part < len(given)
        if inside or (isinstance(given, dict) and part in given):
            place, given = [*place, part], given[part]
        elif missing and number == len(location) - 1:
            place.append(part)
    return tuple(place)


def _said(detail: Any) -> str:
    known = {"missing": "this key is missing", "extra_forbidden": "there is no such key"}
    text = known.get(detail["type"]) or str(detail["msg"]).removeprefix("Value error, ").rstrip(".")
    return text[:1].lower() + text[1:]
