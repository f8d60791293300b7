"""Routes of uploaded files: ``/v1/files``, as OpenAI's clients use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Annotated, Literal

from pydantic import BaseModel, Field, WithJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from ...files import fsync_path
from ...user_files import open_regular
from ..api import Call, Route, Services
from ..api_error import ApiError
from ..records import ENDED, PURPOSE, UploadedFile, new_id
from .listing import Listing, ListQuery, page
from .uploads import Upload, receive_upload

CHUNK = 2**16


class FileForm(BaseModel):
    """Form of an upload; other fields are passed over."""

    file: Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]
    purpose: Literal["fine-tune"]


class FileObject(BaseModel):
    """Uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(Listing[FileObject]):
    """Page of uploaded files."""

    first_id: str | None
    last_id: str | None


class DeletedFile(BaseModel):
    """Answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class FileQuery(ListQuery):
    """Page of the list of files."""

    purpose: str | None = None
    limit: int = Field(10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"


async def upload_file(call: Call) -> FileObject:
    """Keep an uploaded file."""
    settings = call.services.settings
    upload = await receive_upload(call.http, settings.files, settings.most_upload_bytes)
    try:
        return await run_in_threadpool(_keep, call, upload)
    finally:
        upload.discard()


def _keep(call: Call, upload: Upload) -> FileObject:
    purpose = upload.fields.get("purpose")
    if purpose != PURPOSE:
        raise ApiError(422, f"purpose: files here are for training; send {PURPOSE}.", "invalid_value", "purpose")
    file = UploadedFile(new_id("file"), upload.filename or "file", upload.bytes, purpose, upload.sha256)
    place = call.services.settings.files / file.id
    os.rename(upload.path, place)
    fsync_path(place.parent)
    record_file(call.services, file)
    return as_object(file)


def record_file(services: Services, file: UploadedFile) -> None:
    """Record a file whose bytes are in place; where that fails, as on a full disk, they go."""
    try:
        services.state.add_file(file)
    except BaseException:
        (services.settings.files / file.id).unlink(missing_ok=True)
        raise


def list_files(call: Call) -> FileList:
    """Return a page of the files, the newest first."""
    query: FileQuery = call.query
    files = [file for file in call.services.state.list_files() if query.purpose in (None, file.purpose)]
    if query.order == "asc":
        files.reverse()
    shown, more = page(files, query)
    return FileList(
        data=[as_object(file) for file in shown],
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=more,
    )


def get_file(call: Call) -> FileObject:
    """Return one file's description."""
    return as_object(_found(call))


def file_content(call: Call) -> StreamingResponse:
    """Return one file's bytes."""
    file = _found(call)
    try:
        content = open_regular(call.services.settings.files / file.id)
    except FileNotFoundError:
        raise ApiError(404, f"The bytes of {file.id} are gone from the server's disk.", "not_found") from None
    headers = {"content-length": str(os.fstat(content.fileno()).st_size), "content-disposition": "attachment"}
    return StreamingResponse(_chunks(content), headers=headers, media_type="application/octet-stream")


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    with content:
        while chunk := content.read(CHUNK):
            yield chunk


def delete_file(call: Call) -> DeletedFile:
    """Delete a file that no job needs."""
    file, state = _found(call), call.services.state
    for job in state.list_jobs():
        if job.status not in ENDED and file.id in (job.training_file, job.validation_file):
            raise ApiError(409, f"The job {job.id} needs this file; cancel it first, or wait.", "in_use", "file_id")
    state.delete_file(file.id)
    (call.services.settings.files / file.id).unlink(missing_ok=True)
    return DeletedFile(id=file.id)


def _found(call: Call) -> UploadedFile:
    file = call.services.state.find_file(call.path["file_id"])
    if file is None:
        raise ApiError(404, f"There is no file {call.path['file_id']}.", "not_found", "file_id")
    return file


def as_object(file: UploadedFile) -> FileObject:
    """Return a file as the API describes it."""
    return FileObject(
        id=file.id, bytes=file.bytes, created_at=int(file.created_at), filename=file.filename, purpose=file.purpose
    )


ROUTES = [
    Route(
        *("POST", "/v1/files", "Upload a file", upload_file),
        body=FileForm,
        upload=True,
        answer=FileObject,
        errors=(507,),
    ),
    Route("GET", "/v1/files", "List the files", list_files, query=FileQuery, answer=FileList, errors=(400,)),
    Route("GET", "/v1/files/{file_id}", "Describe a file", get_file, answer=FileObject),
    Route("DELETE", "/v1/files/{file_id}", "Delete a file", delete_file, answer=DeletedFile, errors=(409, 507)),
    Route(
        *("GET", "/v1/files/{file_id}/content", "Download a file", file_content),
        media_type="application/octet-stream",
    ),
]
