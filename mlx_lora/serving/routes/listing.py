"""Lists as OpenAI's API pages them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field

from ..api import Lenient
from ..api_error import ApiError


class _Identified(Protocol):
    id: str


Listed = TypeVar("Listed")
Item = TypeVar("Item", bound=_Identified)


class Listing(BaseModel, Generic[Listed]):
    """Page of a list."""

    object: Literal["list"] = "list"
    data: list[Listed]
    has_more: bool


class ListQuery(Lenient):
    """Page of a list: ``after`` is the id of the last item of the page before."""

    after: str | None = None
    limit: int = Field(20, ge=1, le=1000)


def page(items: Sequence[Item], query: ListQuery) -> tuple[list[Item], bool]:
    """Return the items of a page, and True if more follow.

    Raises:
        ApiError: no item has the id of ``after``.
    """
    start = 0
    if query.after is not None:
        ids = [item.id for item in items]
        if query.after not in ids:
            raise ApiError(400, f"after: the list has no item {query.after[:100]!r}", "invalid_value", "after")
        start = ids.index(query.after) + 1
    end = start + query.limit
    return list(items[start:end]), end < len(items)
