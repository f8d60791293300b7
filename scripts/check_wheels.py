"""Check that every extra resolves from wheels, for each platform and Python version that is supported.

    python scripts/check_wheels.py

Nothing is installed: `uv pip compile` reads the package index for other platforms than this one. Exit status 1 names
what does not resolve.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# The oldest systems that MLX's wheels run on: macOS 14, and Linux with glibc 2.35.
PLATFORMS = ("aarch64-apple-darwin", "x86_64-manylinux_2_35", "aarch64-manylinux_2_35")
MACOS = "14.0"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Pure Python that lm-eval needs and that has no wheels: built without a compiler.
SOURCES = ("rouge-score", "sqlitedict", "word2number")


def refusal(platform: str, python: str) -> str | None:
    """Return the reason why the core with every extra does not resolve, or ``None`` if it does."""
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--only-binary", ":all:", "--output-file", os.devnull]
    command += ["--python-version", python, "--python-platform", platform, "--all-extras", str(PROJECT)]
    command += [option for name in SOURCES for option in ("--no-binary", name)]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return None if done.returncode == 0 else done.stderr.strip()


def main() -> int:
    """Resolve for every platform and Python version, and print what fails."""
    failures = 0
    for platform in PLATFORMS:
        for python in PYTHONS:
            reason = refusal(platform, python)
            failures += reason is not None
            print(f"{platform}, Python {python}: {reason or 'resolves'}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
