"""Routes of predictions: entailment and embeddings, by a local model or a labelled heuristic."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ...errors import UserError
from ..api import Call, Route, Strict
from ..api_error import ApiError

# Most characters of a text.
MOST = 200_000


class EntailmentRequest(Strict):
    """Body of POST /v1/predict/nli."""

    premise: str = Field(max_length=MOST)
    hypothesis: str = Field(max_length=MOST)
    model: str | None = Field(None, max_length=500)


class EntailmentAnswer(BaseModel):
    """Probability that the premise entails the hypothesis.

    ``method`` is ``nli`` for a model's, or ``heuristic``: the share of the hypothesis' words that are in the premise.
    """

    entailment: float
    method: str
    reason: str | None = None


class EmbeddingRequest(Strict):
    """Body of POST /v1/predict/embed."""

    text: str = Field(max_length=MOST)
    model: str | None = Field(None, max_length=500)


class EmbeddingAnswer(BaseModel):
    """Embedding of length 1; ``method`` is ``embedding`` for a model's, or ``heuristic``: hashed words."""

    embedding: list[float]
    method: str
    reason: str | None = None


def predict_nli(call: Call) -> EntailmentAnswer:
    """Return the entailment of a hypothesis.

    Raises:
        ApiError: 422, the model cannot be used for it.
    """
    body: EntailmentRequest = call.body
    try:
        found = call.services.chat.predictors.entailment(body.premise, body.hypothesis, body.model)
    except UserError as error:
        raise ApiError(422, f"{error}.", "invalid_model", "model") from error
    return EntailmentAnswer(entailment=found.value, method=found.method, reason=found.reason)


def predict_embed(call: Call) -> EmbeddingAnswer:
    """Return the embedding of a text.

    Raises:
        ApiError: 422, the model cannot be used for it.
    """
    body: EmbeddingRequest = call.body
    try:
        found = call.services.chat.predictors.embedding(body.text, body.model)
    except UserError as error:
        raise ApiError(422, f"{error}.", "invalid_model", "model") from error
    return EmbeddingAnswer(embedding=found.value, method=found.method, reason=found.reason)


ROUTES = [
    Route(
        "POST",
        "/v1/predict/nli",
        "Entailment of a hypothesis by a premise",
        predict_nli,
        body=EntailmentRequest,
        answer=EntailmentAnswer,
        contract="train",
    ),
    Route(
        "POST",
        "/v1/predict/embed",
        "Embedding of a text",
        predict_embed,
        body=EmbeddingRequest,
        answer=EmbeddingAnswer,
        contract="train",
    ),
]
