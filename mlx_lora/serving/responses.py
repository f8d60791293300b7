"""Errors as answers: what an exception means to a client, in the shape of its contract."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel
from starlette.responses import Response

from ..errors import UserError
from .api_error import ApiError

LOG = logging.getLogger("mlx_lora.serving")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A write that fails, which SQLite tells from a full disk only where the system says ENOSPC.
DATABASE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)


class OpenAIErrorDetail(BaseModel):
    """Error as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """Answer with an error, of all routes but those of ``/v1/train`` and ``/v1/predict``."""

    error: OpenAIErrorDetail


class TrainError(BaseModel):
    """Answer with an error of ``/v1/train`` and ``/v1/predict``."""

    error: str


def error_of(error: BaseException) -> ApiError:
    """Return an exception as an error with a status; one that nothing foresees is logged, since it is a defect."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return ApiError(503, "The server is ending; send the request again when it is back.", "ending")
    if _is_full(error) or _is_full(error.__cause__):
        return ApiError(507, "The server's disk is full; free some space, and send the request again.", "disk_full")
    if isinstance(error, UserError):
        return ApiError(400, str(error), "bad_request")
    LOG.error("a request failed: a defect of mlx-lora", exc_info=error)
    return ApiError(
        500, f"The server failed on this request ({type(error).__name__}); its log says more.", "internal_error"
    )


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) in DATABASE_FULL
    return isinstance(error, OSError) and error.errno in FULL


def error_answer(
    error: ApiError, contract: Literal["openai", "train"], headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error as an answer."""
    content: BaseModel
    if contract == "train":
        content = TrainError(error=error.message)
    else:
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = "server_error" if error.status >= 500 else kinds.get(error.status, "invalid_request_error")
        content = OpenAIError(
            error=OpenAIErrorDetail(message=error.message, type=kind, param=error.param, code=error.code)
        )
    return Response(content.model_dump_json(), error.status, headers, media_type="application/json")
