"""Start of the server: token, lock of the state, address, and the end by a signal."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import UserError
from ..files import create_file, fsync_path, locked_directory, temporary_beside, writing
from ..user_files import UnusableFile, read_text
from .settings import ServerSettings

TOKEN = "token"


def serve(settings: ServerSettings, *, verbose: bool = False, ready: Callable[[str], None] | None = None) -> None:
    """Answer requests until SIGINT or SIGTERM; running jobs go on after it.

    Args:
        ready: called with the server's address once connections are accepted.

    Raises:
        UserError: the extra is missing, another server has this state, or the address cannot be used.
    """
    check_extra()
    check_token_needed(settings)
    from .api import Services
    from .app import make_app
    from .chat.service import ChatService
    from .http_server import run_app
    from .jobs.scheduler import Scheduler
    from .state import State

    held = "another server has this state; stop that one, or choose another --state"
    with writing(settings.state):
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(locked_directory(settings.state, held))
        prepare_directories(settings)
        listening = stack.enter_context(listen(settings.host, settings.port))
        state = State(settings.state)
        stack.callback(state.close)
        scheduler = Scheduler(state, settings)
        chat = ChatService(settings, state)
        chat.sources.check()
        stack.callback(chat.sources.close)
        app = make_app(Services(settings, state, scheduler, chat))
        scheduler.start()
        stack.callback(scheduler.stop)
        chat.start()
        stack.callback(chat.stop)
        if ready is not None:
            ready(address_of(listening))
        run_app(app, listening, verbose)


def check_extra() -> None:
    """Raise UserError if the packages of the extra are missing."""
    try:
        import python_multipart  # noqa: F401
        import sse_starlette  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError("the server needs an extra: pip install 'mlx-lora[serve]'") from error


def check_token_needed(settings: ServerSettings) -> None:
    """Raise UserError if other machines could use a server without a token."""
    if settings.token is None and not settings.is_local:
        raise UserError(f"--no-token: {settings.host} can be reached from other machines; ask for a token there")


def prepare_directories(settings: ServerSettings) -> None:
    """Create the directories of the state, and remove uploads that a dead server left incomplete."""
    for directory in (settings.files, settings.jobs):
        with writing(directory):
            directory.mkdir(exist_ok=True, mode=0o700)
    for incomplete in settings.files.glob(".upload-*.tmp"):
        incomplete.unlink(missing_ok=True)


def read_token(file: Path) -> str:
    """Return the token in a file, which is made with a new one where there is none.

    Raises:
        UserError: others may read the file, or it holds something else.
    """
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not file.exists():
            _create_token(file)
    if stat.S_IMODE(os.stat(file).st_mode) & 0o077:
        raise UserError(f"{file}: others can read this token; chmod 600 it, or remove it for a new one")
    try:
        token = read_text(file, most=4096).strip()
    except (UnicodeDecodeError, UnusableFile):
        token = ""
    if not re.fullmatch(r"[!-~]{16,}", token):
        raise UserError(f"{file}: this is not a token (16 characters or more, no spaces); remove it for a new one")
    return token


def _create_token(file: Path) -> None:
    """Write a new token; of two servers that do so at once, one's is taken."""
    temporary = temporary_beside(file)
    with open(create_file(temporary, temporary), "w", encoding="ascii") as new:
        os.fchmod(new.fileno(), 0o600)
        new.write(secrets.token_urlsafe(32) + "\n")
    try:
        fsync_path(temporary)
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that accepts connections; port 0 is any free one.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host}: this is not an address of this machine ({error.strerror or error})") from error
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(2048)
        except OSError as error:
            used = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror or error
            raise UserError(f"{host}:{port}: the server cannot listen there ({used}); choose another --port") from error
        yield listening


def address_of(listening: socket.socket) -> str:
    """Return the address as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
