"""``mlx-lora serve``: jobs, chat and the live page over HTTP."""

from __future__ import annotations

from typing import Any

import click

from .output import print_json, print_warnings, say
from .server_options import server_options, settings_of


@click.command()
@server_options
@click.option("--openapi", is_flag=True, help="Print the OpenAPI document, and start nothing.")
def serve(openapi: bool, verbose: bool, **options: Any) -> None:
    """Serve training jobs and chat over HTTP: OpenAI's fine-tuning contract, and a live page.

    The server is for this machine alone unless --host names another address. Clients send the token of the token file.
    SIGTERM or Ctrl-C ends the server; jobs that run go on, and the next server on the same --state finds them.

    \b
    mlx-lora serve
    mlx-lora serve --port 0 --state jobs --models adapters
    mlx-lora serve --openapi
    """
    from ..serving import server

    server.check_extra()
    if openapi:
        from ..serving.app import ALL
        from ..serving.openapi import openapi as document

        print_json(document(ALL))
        return
    settings, token_file = settings_of(options)

    def announce(url: str) -> None:
        say(f"API: {url}/v1")
        say(f"token: {token_file or 'none is asked for'}")
        say(f"page: {url}/")
        if not settings.is_local:
            print_warnings([f"{settings.host}: other machines can reach it, and the token is sent to it unencrypted"])

    server.serve(settings, verbose=verbose, ready=announce)
    say("the server has ended; jobs that run go on")
