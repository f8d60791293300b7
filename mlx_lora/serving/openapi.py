"""OpenAPI document, generated from the routes' own models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import JSONResponse

from .. import __version__
from .api import Call, Route
from .responses import OpenAIError, TrainError

REFERENCE = "#/components/schemas/{model}"
SENTENCES = {
    400: "The request cannot be read",
    401: "The token is missing or wrong",
    403: "The request comes from a page of another origin",
    404: "There is nothing of this name",
    409: "It is in a state that does not allow this",
    413: "The body is too long",
    415: "The body has a type or an encoding that is not read here",
    421: "The Host header does not name this server",
    422: "A key is unknown, missing or wrong",
    429: "Too much is waiting already",
    507: "The disk is full",
}
# An id in a path.
IDENTITY = "[A-Za-z0-9_.:@-]{1,200}"
# Statuses that every route may answer with.
COMMON = (401, 403, 413, 415, 421, 422)


def openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of routes."""
    schemas, definitions = _schemas(routes)
    names = Counter(route.handler.__name__ for route in routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(re.sub(r":path\}", "}", route.path), {})
        name = route.handler.__name__
        if names[name] > 1:
            name = f"{route.handler.__module__.rpartition('.')[2]}_{name}"
        operations[route.method.lower()] = {"operationId": name, **_operation(route, schemas)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlx-lora",
            "version": __version__,
            "description": "Training jobs, files and chat over HTTP: `mlx-lora serve`.",
        },
        "paths": paths,
        "components": {
            "schemas": _without_tuples(definitions),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _schemas(routes: Sequence[Route]) -> tuple[Any, dict[str, Any]]:
    """Return the schema of each model, for reading or writing, and all definitions."""
    wanted: dict[tuple[type[BaseModel], Literal["validation", "serialization"]], None] = {
        (OpenAIError, "serialization"): None,
        (TrainError, "serialization"): None,
    }
    for route in routes:
        if route.body is not None:
            wanted[route.body, "validation"] = None
        if route.answer is not None:
            wanted[route.answer, "serialization"] = None
    schemas, whole = models_json_schema(list(wanted), ref_template=REFERENCE)
    return schemas, whole.get("$defs", {})


def _without_tuples(schema: Any) -> Any:
    """Return a schema whose tuples are lists of any of their members' types: few tools know ``prefixItems``."""
    if isinstance(schema, list):
        return [_without_tuples(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _without_tuples(value) for key, value in schema.items() if key != "prefixItems"}
    return {**plain, "items": {"anyOf": _without_tuples(schema["prefixItems"])}} if "prefixItems" in schema else plain


def _operation(route: Route, schemas: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {str(route.status): _answer(route, schemas)},
    }
    if route.body is not None:
        kind = "multipart/form-data" if route.upload else "application/json"
        operation["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": schemas[route.body, "validation"]}},
        }
    error = TrainError if route.contract == "train" else OpenAIError
    statuses = {*COMMON, *route.errors, *([400] if route.body else []), *([404] if "{" in route.path else [])}
    for status in sorted(statuses):
        operation["responses"][str(status)] = {
            "description": SENTENCES.get(status, "It failed; the answer says why"),
            "content": {"application/json": {"schema": schemas[error, "serialization"]}},
        }
    if route.public:
        operation["security"] = []
    return operation


def _answer(route: Route, schemas: Any) -> dict[str, Any]:
    schema = {} if route.answer is None else {"schema": schemas[route.answer, "serialization"]}
    streamed: dict[str, Any] = {"text/event-stream": {}} if route.streams else {}
    return {"description": "Done", "content": {route.media_type: schema, **streamed}}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    one = {"type": "string", "pattern": f"^{IDENTITY}$"}
    several = {"type": "string", "minLength": 1}
    return [
        {"name": name, "in": "path", "required": True, "schema": several if kind else one}
        for name, kind in re.findall(r"\{(\w+)(:path)?\}", route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(ref_template=REFERENCE)
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(kind)}
        for name, kind in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query's parameter, which is absent where a model says null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    kept = {key: value for key, value in schema.items() if key != "title" and (key, value) != ("default", None)}
    if len(kinds) != 1:
        return kept
    return {**{key: value for key, value in kept.items() if key != "anyOf"}, **kinds[0]}


def document_route(routes: Sequence[Route]) -> Route:
    """Return the route that answers with the document of the others."""
    document = openapi(routes)

    def openapi_document(call: Call) -> JSONResponse:
        return JSONResponse(document)

    return Route("GET", "/openapi.json", "This document", openapi_document, public=True)
