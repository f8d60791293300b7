"""Worker: the process of one phase of a job, ``python -m mlx_lora.serving.jobs.worker JOBDIR [LOCK]``.

It knows nothing of the server: ``task.json`` says what to do, ``outcome.json`` how it ended, and the lock, whose
descriptor it inherits, that it lives. A phase that was killed has no outcome, and is begun again: the validation from
its start, the training from its last checkpoint.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from ...errors import UserError, first_line
from ...files import write_json
from ...processes import this_owner
from .files import JobDirectory, Outcome, Phase, take_lock, write_outcome
from .validation import Refused, in_clients_names, validate


def main() -> None:
    """Run the phase of a job's task, and record its end."""
    directory = JobDirectory(Path(sys.argv[1]))
    lock = int(sys.argv[2]) if len(sys.argv) > 2 else take_lock(directory.lock)
    if lock is None:
        sys.exit(f"{directory.path}: another worker has this job")
    # Programs that a library starts do not inherit it.
    os.set_inheritable(lock, False)
    signal.signal(signal.SIGTERM, _terminate)
    write_json(directory.owner, this_owner())
    task = json.loads(directory.task.read_text(encoding="utf-8"))
    outcome = ended(PHASES[task["phase"]], directory, task)
    # Where the outcome cannot be written, this line says why.
    with suppress(OSError):
        print(f"{outcome.phase}: {(outcome.error or {}).get('message', outcome.status)}", file=sys.stderr, flush=True)
    write_outcome(directory, outcome)


def _terminate(number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def ended(
    run: Callable[[JobDirectory, Mapping[str, Any]], dict[str, Any]], directory: JobDirectory, task: Mapping[str, Any]
) -> Outcome:
    """Run a phase, and return how it ended; an error becomes its sentence."""
    phase: Phase = task["phase"]
    code, param = "server_error", None
    try:
        return Outcome(phase, "done", result=run(directory, task))
    except KeyboardInterrupt:
        return Outcome(phase, "interrupted")
    except Refused as error:
        code, param, message = error.code, error.param, str(error)
    except UserError as error:
        code, message = "training_failed", str(error)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space and start the job anew" if full else "check the path and its permissions"
        message = f"{error.filename or 'the file system'}: {error.strerror or error}; {advice}"
    except MemoryError:
        message = "there is not enough memory for this; use less data, a smaller batch_size or a smaller model"
    except Exception as error:
        traceback.print_exc()
        message = f"the worker has a defect: {type(error).__name__}: {first_line(error)}; output.log has its place"
    return Outcome(phase, "failed", {"code": code, "message": in_clients_names(message, task), "param": param})


def train(directory: JobDirectory, task: Mapping[str, Any]) -> dict[str, Any]:
    """Train the job's run, or resume it."""
    from ...config import load_config
    from ...training.train import train as train_run

    # The server's state may have been moved since the validation.
    config = replace(load_config(directory.config), data=str(directory.data), output_dir=str(directory.run))
    trained = train_run(
        config,
        announce=lambda ready: ready.backend.describe_adapter(directory.path, ready.model),
    )
    return {} if trained is None else asdict(trained[1])


PHASES: Mapping[Phase, Callable[[JobDirectory, Mapping[str, Any]], dict[str, Any]]] = {
    "validate": validate,
    "train": train,
}

if __name__ == "__main__":
    main()
