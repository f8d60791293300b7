"""Changes of generations in a child process that is killed at a chosen step: ``python generation_steps.py < REQUESTS``.

A request is a line of JSON, ``{"directory", "run", "change", "kill"}``. The program forks a child for each, which makes
the change and gets SIGKILL before its ``kill``-th step; the answer is a line with the signal, 0 if it was not reached.
A step is an fsync, a change of a name, or a file opened for writing, in which half a line is left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from mlx_lora.runs.generations import Generations

NAMES = {"os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}


def kill_at(number, directory):
    """Kill this process before its ``number``-th step below a directory."""
    seen, dying, sync = 0, False, os.fsync

    def step(torn=None):
        nonlocal seen, dying
        seen += not dying
        if seen == number and not dying:
            dying = True
            if torn is not None:
                with open(torn, "a", encoding="utf-8") as file:
                    file.write('{"torn": ')
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in NAMES:
            return
        given = arguments[:1] if writes else arguments
        paths = [os.fsdecode(a) for a in given if isinstance(a, (str, bytes, os.PathLike))]
        # Within a directory that is being removed, names are relative to it.
        if any(path.startswith(directory) or not os.path.isabs(path) for path in paths) and not dying:
            step(paths[0] if writes else None)

    def fsync(descriptor):
        step()
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def change(generations, name, run):
    """Make one change, as a night does it."""
    if name == "publish":
        number = generations.add(run, {"cycle": run.name})
        generations.promote(number, "better", trial=True, cycle=run.name)
        generations.confirm("the trial passed")
        generations.mark_best(number, "the best so far")
    elif name == "rollback":
        if generations.live is not None:
            generations.rollback("worse in use")
    elif name == "collect":
        generations.collect(keep=2)
    elif name == "pin":
        generations.pin(generations.numbers()[-1])
    elif name == "unpin":
        for number in generations.pinned:
            generations.unpin(number)
    else:
        generations.recover()


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                kill_at(request["kill"], request["directory"])
                change(Generations(request["directory"]), request["change"], Path(request["run"]))
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        print(json.dumps(os.waitpid(child, 0)[1]), flush=True)
