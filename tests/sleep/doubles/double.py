"""Shared part of the doubles: each call is recorded, and answered as a test has asked, or as the real program does.

``$DOUBLES`` is the directory of the record; ``answers/`` in it has one JSON file an answer that a test asked for.
"""

import json
import os
import sys
from pathlib import Path

PLACE = Path(os.environ["DOUBLES"])


def begin() -> list[str]:
    """Record this call, give the answer that was asked for, else return the arguments."""
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    call = " ".join([program, *arguments])
    with open(PLACE / "calls", "a", encoding="utf-8") as file:
        file.write(call + "\n")
    for answer in sorted((PLACE / "answers").glob("*.json")):
        content = json.loads(answer.read_text())
        if call.startswith(content["call"]) and content["times"] > 0:
            answer.write_text(json.dumps({**content, "times": content["times"] - 1}))
            end(content["rc"], content["out"], content["err"])
    return arguments


def end(rc: int = 0, out: str = "", err: str = "") -> None:
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(rc)


def state(name: str) -> set[str]:
    """Return what is remembered between calls under a name."""
    file = PLACE / name
    return set(file.read_text().split("\n")) - {""} if file.exists() else set()


def remember(name: str, values: set[str]) -> None:
    (PLACE / name).write_text("".join(f"{value}\n" for value in sorted(values)))
