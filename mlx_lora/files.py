"""Atomic files: complete or absent, since they are written next to their place, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from .errors import UserError

# Format version of the JSON files that a later version will read; unknown fields are ignored.
FORMAT = 1
# Lock of a directory that several processes may write to.
DIRECTORY_LOCK = ".lock"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn file system errors while writing ``path`` into one sentence.

    Raises:
        UserError: no space left, no permission, or any other error of the system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and run it again, nothing half-written was left behind"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "writing there is not permitted; choose another place"
        else:
            reason = f"it cannot be written ({error.strerror or error})"
        raise UserError(f"{path}: {reason}") from error


def fsync_path(path: Path) -> None:
    """Make what was written to a file, or renamed in a directory, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: Path, keep_suffix: bool = False) -> Path:
    """Return a hidden name of this process next to ``path``; files of dead processes under such names are removed.

    Args:
        keep_suffix: keep the suffix of ``path``, for programs that depend on it.
    """
    stem, suffix = (path.stem, path.suffix) if keep_suffix else (path.name, "")
    pattern = re.compile(rf"\.{re.escape(stem)}\.(\d+)\.tmp{re.escape(suffix)}(\.\w+)?")
    try:
        entries = list(os.scandir(path.parent))
    except OSError:
        entries = []
    for entry in entries:
        found = pattern.fullmatch(entry.name)
        if found and not _is_alive(int(found[1])):
            remove_any(Path(entry.path))
    return path.with_name(f".{stem}.{os.getpid()}.tmp{suffix}")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def remove_any(path: Path) -> None:
    """Remove a file, a link or a directory, as far as the system permits."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def create_file(temporary: Path, path: Path) -> int:
    """Create an empty file and return its descriptor: an existing file is removed, and no link is followed.

    Args:
        path: the file that it will replace, whose permissions it has from the start.
    """
    remove_any(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    _keep_mode(path, descriptor)
    return descriptor


def _keep_mode(path: Path, new: int | Path) -> None:
    # A file that only its owner may read stays one.
    with suppress(FileNotFoundError):
        os.chmod(new, stat.S_IMODE(os.stat(path).st_mode))


@contextmanager
def locked_directory(directory: Path | None, held: str) -> Iterator[None]:
    """Create a directory of results and hold its lock while the block runs; None holds nothing.

    Args:
        held: the error, after the directory's name, where another process holds the lock.

    Raises:
        UserError: it is held, or the directory cannot be created.
    """
    if directory is None:
        yield
        return
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with file_lock(directory / DIRECTORY_LOCK, f"{directory}: {held}"):
        yield


@contextmanager
def file_lock(path: Path, held: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock while the block runs; it ends with the process, however that ends.

    Args:
        path: the lock file, created if absent; it stays, since another process may be waiting for this very file.
        held: the error where another process holds the lock.
        timeout: seconds to wait for it.

    Raises:
        UserError: it is held, or the file cannot be opened.
    """
    from filelock import FileLock, Timeout

    # The fallback of file systems without locks would outlive a killed process.
    lock = FileLock(path, timeout=timeout, poll_interval=0.001, fallback_to_soft=False)
    with writing(path):
        try:
            lock.acquire()
        except Timeout:
            raise UserError(held) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return True if a process holds a lock of ``file_lock``; a lock file that is absent is not held."""
    if not path.exists():
        return False
    try:
        with file_lock(path, "held"):
            return False
    except UserError:
        return True


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Replace a file by ``content`` (text as UTF-8), or leave it as it was; its permissions stay."""
    path = Path(path)
    temporary = temporary_beside(path)
    with writing(path):
        try:
            with open(create_file(temporary, path), "wb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
            replace_file(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_file(temporary: Path, path: Path) -> None:
    """Replace a file by a complete one, so that a power cut leaves one of the two."""
    with writing(path):
        try:
            fsync_path(temporary)
            # A library may have created it anew.
            _keep_mode(path, temporary)
            os.replace(temporary, path)
            fsync_path(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Replace a file by indented JSON."""
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_absent(path: str | Path) -> None:
    """Raise UserError, before any work, if there is anything at ``path``, which a command is to make."""
    if os.path.lexists(path):
        raise UserError(f"{path}: this exists already; choose another name, or remove it first")


def replace_directory(path: Path, mark: str, what: str) -> None:
    """Create a directory with the JSON file ``mark``, in place of an earlier one, which is called ``what``.

    Raises:
        UserError: something else is there, or the file system refuses.
    """
    if path.exists():
        if not (path / mark).exists():
            raise UserError(f"{path}: this exists and is not {what}; choose another --out")
        shutil.rmtree(path)
    with writing(path):
        path.mkdir(parents=True)
    write_json(path / mark, {})


@contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """Create a directory that appears under its name only when the block has filled it without an error.

    Raises:
        UserError: something is there already, or the file system refuses.
    """
    path = Path(path)
    check_absent(path)
    temporary = temporary_beside(path)
    # Left by an earlier process with this one's number, as in containers.
    remove_any(temporary)
    with writing(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                fsync_path(file)
            os.rename(temporary, path)
            fsync_path(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise UserError, before any work, if a file cannot be written at ``path``."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: this is there already and is not a file; choose another name")
    temporary = temporary_beside(path)
    with writing(path):
        temporary.touch()
        temporary.unlink()


def check_directory(path: Path) -> None:
    """Raise UserError, before any work, if files cannot be written to a directory, which may not exist yet."""
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise UserError(f"{path}: {nearest} is there and is not a directory; choose another name")
    check_writable(nearest / ".writable")


def nearest_existing(path: Path) -> Path:
    """Return the path itself, or the nearest directory above it that exists."""
    return next((place for place in (path, *path.absolute().parents) if place.exists()), Path("/"))


def set_aside(path: Path, why: str = "unreadable") -> Path:
    """Rename a file or directory to the first free ``NAME.WHY-N`` next to it, and return its new path.

    Raises:
        UserError: the file system refuses.
    """
    place = next(p for n in count(1) if not os.path.lexists(p := path.with_name(f"{path.name}.{why}-{n}")))
    with writing(path):
        os.rename(path, place)
        fsync_path(path.parent)
    return place


def replace_link(path: Path, target: str) -> None:
    """Point a symbolic link at ``target``, in place of any link or file at ``path``; a reader sees old or new.

    Raises:
        UserError: the file system refuses.
    """
    temporary = temporary_beside(path)
    remove_any(temporary)
    with writing(path):
        try:
            os.symlink(target, temporary)
            os.replace(temporary, path)
            fsync_path(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def check_format(content: Mapping[str, Any], file: Path) -> None:
    """Raise UserError if a file has the format of a later version; one without a version is the first."""
    found = content.get("format", FORMAT)
    if found != FORMAT:
        raise UserError(
            f"{file}: this file has format {str(found)[:40]}, and this version of mlx-lora reads format {FORMAT}; "
            "use the version that wrote it, or a newer one"
        )


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
