"""``mlx-lora sleep uninstall``: no more nights of an adapter."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ...errors import UserError
from ..options import json_option
from ..output import print_json, say


@click.command()
@click.option("--config", required=True, metavar="FILE|NAME", help="Config of the night, or the adapter's directory.")
@json_option
def uninstall(config: str, as_json: bool) -> None:
    """Take the job of the night from launchd or systemd, and remove its files; what was learned stays.

    A file that somebody has edited is renamed, not removed.

    \b
    mlx-lora sleep uninstall --config configs/sleep.yaml
    mlx-lora sleep uninstall --config adapters/agent
    """
    from ...sleep.scheduling.installation import uninstall as remove

    name = _name_of(config)
    gone = remove(name)
    if as_json:
        print_json({"name": str(name), "removed": list(map(str, gone))})
        return
    say(f"{name}: no more nights; removed {', '.join(map(str, gone))}" if gone else f"{name}: no night is installed")


def _name_of(given: str) -> Path:
    """Return the adapter's directory of a config, a directory, or its name in adapters/.

    The directory may be gone, and its job still be there.
    """
    from ...sleep.config import load_sleep_config

    path = Path(given).expanduser()
    if not path.is_dir():
        try:
            path = load_sleep_config(given).directory
        except UserError:
            if path.is_file():
                raise
            if len(path.parts) == 1 and (Path("adapters") / path).is_dir():
                path = "adapters" / path
    return Path(os.path.abspath(path))
