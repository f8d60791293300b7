"""Options that ``serve`` and ``ui`` share, and the settings that they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import backend_option

if TYPE_CHECKING:
    from ..serving.settings import ServerSettings

DIRECTORY = click.Path(file_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a server."""
    for add in (
        click.option("--verbose", is_flag=True, help="Log every request on standard error."),
        backend_option,
        click.option(
            "--max-upload",
            type=click.IntRange(1),
            default=512,
            show_default=True,
            help="Longest uploaded file, in MiB.",
        ),
        click.option("--allow-host", multiple=True, metavar="NAME", help="Another name of this server (repeatable)."),
        click.option("--no-token", is_flag=True, help="Ask for no token; on loopback addresses only."),
        click.option(
            "--token-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File with the token; made if absent. By default STATE/token.",
        ),
        click.option("--index", type=DIRECTORY, help='Index that chat with "retrieval": true is answered from.'),
        click.option("--models", type=EXISTING, default=".", show_default=True, help="Bases and runs to chat with."),
        click.option(
            "--state", type=DIRECTORY, default="mlx-lora-state", show_default=True, help="Database, files and jobs."
        ),
        click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one."),
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    ):
        command = add(command)
    return command


def settings_of(options: Mapping[str, Any]) -> tuple[ServerSettings, Path | None]:
    """Return the settings that options mean, and the file of the token, if one is asked for."""
    from ..serving.server import TOKEN, read_token
    from ..serving.settings import ServerSettings

    if options["no_token"] and options["token_file"] is not None:
        raise click.UsageError("choose one of --token-file and --no-token")
    file = None if options["no_token"] else options["token_file"] or options["state"] / TOKEN
    settings = ServerSettings(
        state=options["state"].absolute(),
        models=options["models"].absolute(),
        index=None if options["index"] is None else options["index"].absolute(),
        host=options["host"],
        port=options["port"],
        token=None if file is None else read_token(file),
        allowed_hosts=options["allow_host"],
        backend=options["backend"] or "auto",
        most_upload_bytes=options["max_upload"] * 2**20,
    )
    return settings, file
