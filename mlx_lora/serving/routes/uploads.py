"""Upload of one file as multipart/form-data: its bytes go to the disk as they come, never to memory."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from ...files import fsync_path
from ..api_error import ApiError

MOST_FIELDS = 16
LONGEST_FIELD = 4096
LONGEST_NAME = 255


class Upload:
    """Parts of one request: the file ``file`` on the disk, the other fields in memory.

    Attributes:
        path: the file's bytes; whoever keeps them renames it.
        filename: the client's name without folders; for display, never part of a path.
    """

    def __init__(self, boundary: bytes, directory: Path, most_bytes: int) -> None:
        self.path = directory / f".upload-{secrets.token_hex(12)}.tmp"
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.bytes = 0
        self._most = most_bytes
        self._hash = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._headers: dict[str, bytearray] = {}
        self._name, self._value = bytearray(), bytearray()
        self._field, self._content = "", bytearray()
        self._is_file = self.complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_begin": self._begin_header,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_part,
                "on_part_data": self._take,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            ApiError: 400, this is not a form; 413, the file is too long; 422, it has the wrong fields.
            OSError: the disk is full.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise ApiError(400, f"The body cannot be read as multipart/form-data ({error}).", "bad_form") from None

    def finish(self) -> None:
        """Make the file outlast a power cut, once all has come."""
        if not self.complete:
            raise ApiError(400, "The form ends before its last boundary; send it again.", "bad_form")
        if self.filename is None:
            raise ApiError(422, "file: this part is missing.", "invalid_value", "file")
        fsync_path(self.path)

    def discard(self) -> None:
        """Close and remove the file, if it has not been kept."""
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _begin_header(self) -> None:
        self._name, self._value = bytearray(), bytearray()

    def _end_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value

    def _begin_part(self) -> None:
        _, options = parse_options_header(bytes(self._headers.get("content-disposition", b"")))
        self._headers, self._content = {}, bytearray()
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._field == "file"
        if not self._is_file:
            if len(self.fields) >= MOST_FIELDS:
                raise ApiError(422, f"The form has more than {MOST_FIELDS} fields.", "invalid_value")
            return
        if self.filename is not None:
            raise ApiError(422, "file: the form has two of them; upload one at a time.", "invalid_value", "file")
        self.filename = display_name(options.get(b"filename", b"").decode("utf-8", "replace"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._is_file and self._file is not None:
            self.bytes += end - start
            if self.bytes > self._most:
                raise ApiError(413, f"The file is longer than {self._most:,} bytes, the most here.", "too_long", "file")
            self._hash.update(data[start:end])
            self._file.write(data[start:end])
        elif len(self._content) + end - start > LONGEST_FIELD:
            raise ApiError(422, f"{self._field[:60]}: this field is too long.", "invalid_value", self._field[:60])
        else:
            self._content.extend(data[start:end])

    def _end_part(self) -> None:
        if self._is_file and self._file is not None:
            self._file.close()
        else:
            self.fields[self._field] = self._content.decode("utf-8", "replace")

    def _end(self) -> None:
        self.complete = True


def display_name(name: str) -> str:
    """Return a client's file name without folders and control characters."""
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", last)[:LONGEST_NAME] or "file"


async def receive_upload(request: Request, directory: Path, most_bytes: int) -> Upload:
    """Read a request's form; the caller keeps or discards what it returns.

    Raises:
        ApiError: see :class:`Upload`; nothing is left on the disk.
    """
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise ApiError(400, "The header Content-Type of a form needs a boundary.", "bad_form")
    upload = Upload(boundary, directory, most_bytes)
    try:
        async for chunk in request.stream():
            # In a thread: the disk may be slow, and other requests do not wait for it.
            await run_in_threadpool(upload.write, chunk)
        await run_in_threadpool(upload.finish)
    except BaseException:
        upload.discard()
        raise
    return upload
