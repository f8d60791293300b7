"""Redis (extra ``redis``): the breadcrumb graph of PDCAs, as other programs of the published system read it.

Keys: ``PREFIX:pdca:ID`` (hash of a PDCA's columns), ``PREFIX:by_time`` (sorted set of ids by timestamp),
``PREFIX:after:ID`` and ``PREFIX:before:ID`` (sorted sets of ids by weight).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UserError, first_line
from .timeline import Timeline

PREFIX = "mlx-lora"


class RedisTimeline:
    """A timeline in Redis; it answers as ``timeline.Timeline`` does."""

    def __init__(self, url: str = "redis://127.0.0.1:6379/0", prefix: str = PREFIX) -> None:
        """Connect to a server.

        Raises:
            UserError: the package redis is not installed, or no server answers.
        """
        try:
            import redis
        except ImportError:
            raise UserError("the package redis is not installed; pip install 'mlx-lora[redis]'") from None
        self._prefix, self._url, self._error = prefix, url, redis.RedisError
        try:
            self._client: Any = redis.Redis.from_url(url, decode_responses=True, socket_timeout=30)
        except ValueError as error:
            raise UserError(f"{url}: this is not an address of Redis ({error}); write redis://HOST:PORT/0") from None
        with self._sentences():
            self._client.ping()

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise UserError(
                f"{self._url}: Redis does not answer ({first_line(error)}); start it, or check it"
            ) from error

    def write(self, timeline: Timeline) -> int:
        """Replace what is under the prefix by a timeline, in one transaction; return the number of PDCAs."""
        pdcas, relationships = timeline.pdcas(), timeline.relationships()
        with self._sentences():
            old = list(self._client.scan_iter(f"{self._prefix}:*"))
            with self._client.pipeline(transaction=True) as pipe:
                if old:
                    pipe.delete(*old)
                for pdca in pdcas:
                    pipe.hset(
                        f"{self._prefix}:pdca:{pdca['id']}", mapping={k: v for k, v in pdca.items() if v is not None}
                    )
                    pipe.zadd(f"{self._prefix}:by_time", {pdca["id"]: pdca["timestamp"] or 0})
                for one in relationships:
                    earlier, later, weight = one["from_pdca_id"], one["to_pdca_id"], one["weight"]
                    pipe.zadd(f"{self._prefix}:after:{earlier}", {later: weight})
                    pipe.zadd(f"{self._prefix}:before:{later}", {earlier: weight})
                pipe.execute()
        return len(pdcas)

    def pdca(self, pdca: str) -> dict[str, str]:
        """Return the columns of a PDCA as texts, empty if there is none."""
        with self._sentences():
            return self._client.hgetall(f"{self._prefix}:pdca:{pdca}")

    def in_order(self) -> list[str]:
        """Return the ids in order of time."""
        with self._sentences():
            return self._client.zrange(f"{self._prefix}:by_time", 0, -1)

    def after(self, pdca: str) -> list[str]:
        """Return the PDCAs that a PDCA precedes, the surest first."""
        return self._surest(f"{self._prefix}:after:{pdca}")

    def before(self, pdca: str) -> list[str]:
        """Return the PDCAs that precede a PDCA, the surest first."""
        return self._surest(f"{self._prefix}:before:{pdca}")

    def _surest(self, key: str) -> list[str]:
        with self._sentences():
            found = self._client.zrange(key, 0, -1, withscores=True)
        return [name for name, weight in sorted(found, key=lambda item: (-item[1], item[0]))]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
