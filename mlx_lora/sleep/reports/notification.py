"""Notification in the morning: macOS's own, nothing on other systems."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from ...errors import visible
from ...processes import run_captured

# Texts are arguments of the script and never a part of it.
SCRIPT = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")
SECONDS = 10.0
# A notification shows some two hundred characters.
LONGEST = 500


def notify(title: str, text: str) -> None:
    """Show a notification on macOS; a night does not fail because it cannot be shown."""
    if sys.platform != "darwin":
        return
    script = [part for line in SCRIPT for part in ("-e", line)]
    # After --, a text that begins with a dash is no option.
    texts = [visible(given)[:LONGEST] for given in (title, text)]
    with suppress(OSError, subprocess.TimeoutExpired):
        run_captured(["osascript", *script, "--", *texts], seconds=SECONDS)
