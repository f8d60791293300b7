"""Requests and answers of the chat: OpenAI's shapes, as far as they have a meaning here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from ...backends.answering import Sampling
from ..api import Lenient
from ..chat.answering import Answering, Options
from ..chat.sources import Source

# OpenAI's limits.
MOST_STOPS, MOST_TOP = 4, 20
INT64 = 2**63


def _one(value: int | None) -> int | None:
    if value not in (None, 1):
        raise ValueError("only one answer to a request is given here; send the request several times")
    return value


def _no_bias(value: dict[str, float] | None) -> dict[str, float] | None:
    if value:
        raise ValueError("tokens cannot be favoured or banned here; leave it out")
    return value


def _no_penalty(value: float | None) -> float | None:
    if value:
        raise ValueError("there are no penalties here; leave it out")
    return value


One = Annotated[int | None, AfterValidator(_one), Field(json_schema_extra={"enum": [1, None]})]
NoBias = Annotated[dict[str, float] | None, AfterValidator(_no_bias), Field(json_schema_extra={"maxProperties": 0})]
NoPenalty = Annotated[float | None, AfterValidator(_no_penalty), Field(json_schema_extra={"enum": [0, None]})]
Stops = str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None
Top = Annotated[int, Field(ge=0, le=MOST_TOP)]


class StreamOptions(Lenient):
    """Options of a stream."""

    include_usage: bool | None = None


class Drawing(Lenient):
    """Keys that chat completions and completions share."""

    model: str = Field(min_length=1, max_length=500)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: Stops = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: One = None
    logit_bias: NoBias = None
    frequency_penalty: NoPenalty = None
    presence_penalty: NoPenalty = None

    def options(self, max_tokens: int, top: int | None, scores: bool = False) -> Options:
        """Return the options of an answer; as OpenAI's, temperature and top_p are 1 unless named."""
        from secrets import randbits

        given = self.stop if isinstance(self.stop, list) else [self.stop or ""]
        sampling = Sampling(
            max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=randbits(62) if self.seed is None else self.seed,
            top=top,
        )
        return Options(sampling, tuple(stop for stop in given if stop), scores)


class ResponseFormat(Lenient):
    """Form of an answer; only free text."""

    type: Literal["text"]


class ChatRequest(Drawing):
    """Body of POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    response_format: ResponseFormat | None = None
    retrieval: bool | None = None


class CompletionRequest(Drawing):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] | None = None
    max_tokens: int | None = Field(None, ge=0)
    logprobs: Top | None = None
    echo: bool | None = None
    best_of: One = None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each a text or token ids."""
        if isinstance(self.prompt, list):
            if self.prompt and isinstance(self.prompt[0], int):
                return [self.prompt]
            return self.prompt or [""]  # type: ignore[return-value]
        return [self.prompt or ""]


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answers: list[Answering]) -> Usage:
        """Return the tokens of answers so far."""
        prompt, completion = sum(len(a.prompt) for a in answers), sum(a.completion_tokens for a in answers)
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class TopLogprob(BaseModel):
    """One of the most likely tokens."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TopLogprob):
    """Log-probability of a token of an answer, and the most likely ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    """Answer to a conversation."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The answer, and why it ends."""

    index: int = 0
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """Answer of POST /v1/chat/completions; in a stream, its choices have ``delta`` in place of ``message``.

    ``sources`` are those of a request with ``retrieval``; a stream has them in its first part.
    """

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    sources: list[Source] | None = None


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens, and of its prompt's with ``echo``; the first of a text has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """Continuation of a prompt, and why it ends."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """Answer of POST /v1/completions, and a part of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
