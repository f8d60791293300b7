"""Build the wheel, install it alone, and run the command from an empty directory.

    python scripts/run_wheel.py

What a checkout has and the wheel lacks (a preset, the built-in base) fails here. Exit status 1 names the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
COMMANDS = (
    "--help",
    "data eisv --out data --min-per-shape 4",
    "train --config quickstart --data data --out run --set max_steps=3",
    "generate --target run --prompt Hello --max-tokens 4",
)


def main() -> int:
    # Only what is installed counts: no checkout on the search path, and `uv` beside this Python.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        venv, empty = place / "venv", place / "empty"
        empty.mkdir()

        def run(*command: object) -> bool:
            print("+", *command, flush=True)
            return subprocess.run([*map(str, command)], cwd=empty, env=environment).returncode == 0

        if not (
            run("uv", "build", "--quiet", "--wheel", "--out-dir", place, REPO)
            and run("uv", "venv", "--quiet", "--python", sys.executable, venv)
            and run("uv", "pip", "install", "--quiet", "--python", venv / "bin" / "python", *place.glob("*.whl"))
        ):
            return 1
        return int(not all(run(venv / "bin" / "mlx-lora", *command.split()) for command in COMMANDS))


if __name__ == "__main__":
    sys.exit(main())
