"""Routes of models: the catalogue."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from ..api import Call, Route
from ..api_error import ApiError


class Model(BaseModel):
    """Model that the server answers with."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


def list_models(call: Call) -> ModelList:
    """Return all models."""
    entries = call.services.chat.catalogue.list()
    return ModelList(data=[Model(id=entry.id, created=entry.created, owned_by=entry.owner) for entry in entries])


def retrieve_model(call: Call) -> Model:
    """Return one model; a name such as ``NAME@live`` need not be in the list.

    Raises:
        ApiError: 404, there is none.
    """
    catalogue, identity = call.services.chat.catalogue, call.path["model"]
    try:
        found = catalogue.find(identity)
    except ApiError as error:
        raise ApiError(404, str(error), "model_not_found", "model") from error
    listed = next((entry for entry in catalogue.list() if entry.id == identity), None)
    if listed is not None:
        return Model(id=listed.id, created=listed.created, owned_by=listed.owner)
    stamps = found.adapter_key[1] if found.adapter_key else found.base_key[2]
    return Model(id=identity, created=max((time for _, time, _ in stamps), default=0) // 10**9, owned_by="local")


ROUTES = [
    Route("GET", "/v1/models", "List the models", list_models, answer=ModelList),
    Route("GET", "/v1/models/{model:path}", "Find a model", retrieve_model, answer=Model, errors=(404,)),
]
