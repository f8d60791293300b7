"""``mlx-lora ui``: the live page in a browser, from the same server as ``serve``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from .output import say
from .server_options import server_options, settings_of


@click.command()
@server_options
@click.option("--no-browser", is_flag=True, help="Print the address, and open nothing.")
def ui(no_browser: bool, verbose: bool, **options: Any) -> None:
    """Watch runs, jobs and nights on a page, compare answers, and promote or roll back.

    It starts the server of `mlx-lora serve`, and opens its page with the token. Runs, adapters and datasets are those
    below --models.

    \b
    mlx-lora ui
    mlx-lora ui --models ~/models --port 0
    """
    from ..serving import server
    from ..serving.browser import open_page, page_address

    server.check_extra()
    settings, _ = settings_of(options)
    with ExitStack() as stack:

        def announce(url: str) -> None:
            say(f"page: {page_address(url, settings.token)}")
            if not no_browser:
                file = open_page(url, settings.token, settings.state)
                stack.callback(file.unlink, missing_ok=True)

        server.serve(settings, verbose=verbose, ready=announce)
    say("the server has ended; jobs that run go on")
