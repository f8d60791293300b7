"""Opening of the live page in a browser, without the token in the arguments of a process, which others can list."""

from __future__ import annotations

import html
import os
import threading
import webbrowser
from pathlib import Path
from urllib.parse import quote

from ..files import writing

DOORWAY = "open-page.html"


def page_address(url: str, token: str | None) -> str:
    """Return the address of the page of a server; the token is in its fragment, which browsers send to nobody."""
    return f"{url}/" if token is None else f"{url}/#token={quote(token, safe='')}"


def open_page(url: str, token: str | None, state: Path) -> Path:
    """Open the page in the default browser, and return the file that leads it there, which only its owner can read.

    Raises:
        UserError: the file system refuses.
    """
    file = state / DOORWAY
    target = html.escape(page_address(url, token))
    text = f'<!doctype html><title>mlx-lora</title><meta http-equiv="refresh" content="0; url={target}">\n'
    with writing(file):
        file.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(file, flags, 0o600), "w", encoding="ascii") as opened:
            opened.write(text)
    # A browser in the terminal returns when it ends.
    threading.Thread(target=webbrowser.open, args=(file.absolute().as_uri(),), daemon=True).start()
    return file
