"""Record of a benchmark: when and where it was measured, printed and written as ``results.json``."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import Any


def record(out: Path | None, **measured: Any) -> None:
    """Print what was measured, and write it into a directory if one is given."""
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    text = json.dumps({"date": datetime.date.today().isoformat(), "machine": machine, **measured}, indent=2)
    print(text)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(text + "\n")
