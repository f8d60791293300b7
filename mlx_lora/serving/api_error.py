"""Error of the API, which every part of the server may raise."""

from __future__ import annotations


class ApiError(Exception):
    """Error with a status and one sentence.

    Attributes:
        code: short name for programs, such as ``not_found``.
        param: the key of the request that is wrong.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
