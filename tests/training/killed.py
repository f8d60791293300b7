"""``mlx-lora`` in a process that is killed at one of its writes: ``python killed.py WHERE DIR ARGUMENTS...``.

A write is every file that is opened for writing, and every change of a name, under DIR. WHERE is the number of the
write, counted from 1, or a part of its path: at the first such one the process gets SIGKILL before it happens. A file
that was to be written is left with half a line in it.
"""

from __future__ import annotations

import os
import signal
import sys

NAMES = {"os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
seen, dying = 0, False


def kill_there(event, arguments):
    """The audit hook, called by Python before each of them."""
    global seen, dying
    torn = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if not torn and event not in NAMES:
        return
    # The second argument of open is the mode, and its first may be a descriptor.
    given = arguments[:1] if event == "open" else arguments
    paths = [os.fsdecode(a) for a in given if isinstance(a, (str, bytes, os.PathLike))]
    # Within a directory that is being removed, names are relative to it.
    inside = [path for path in paths if path.startswith(directory) or not os.path.isabs(path)]
    if dying or not inside:
        return
    seen += 1
    if seen == number or (number is None and any(where in path for path in inside)):
        dying = True
        if torn:
            with open(inside[0], "a", encoding="utf-8") as file:
                file.write('{"torn": ')
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    where, directory = sys.argv[1:3]
    number = int(where) if where.isdigit() else None
    from mlx_lora.cli.main import main

    sys.argv[1:] = sys.argv[3:]
    sys.addaudithook(kill_there)
    main()
