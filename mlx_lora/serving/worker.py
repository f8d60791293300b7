"""Worker: the process of one phase of a job, ``python -m mlx_lora.serving.worker JOBDIR [LOCK]``.

It knows nothing of the server: ``task.json`` says what to do, ``outcome.json`` how it ended, and the lock, whose
descriptor it inherits, that it lives. A phase that was killed has no outcome, and is begun again: the validation from
its start, the training from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import UserError, first_line
from ..files import fsync_path, write_atomic, write_json
from ..processes import this_owner
from .job_files import JobDirectory, Outcome, Phase, take_lock, write_outcome

if TYPE_CHECKING:
    from ..data.checks import DataFinding

# Checks whose rows training itself refuses: they cannot be waived.
FINAL = ("malformed", "empty_answer")


class Refused(UserError):
    """Error of a request: the parameter that is wrong, and a short name for programs."""

    def __init__(self, message: str, code: str, param: str) -> None:
        super().__init__(message)
        self.code, self.param = code, param


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
        message = (
            f"{error.filename or 'the file system'}: {error.strerror or error}; check the path and its permissions"
        )
    except MemoryError:
        message = "there is not enough memory for this; use less data, a smaller batch_size or a smaller model"
    except Exception as error:
        traceback.print_exc()
        message = f"the worker has a defect: {type(error).__name__}: {first_line(error)}; output.log has its place"
    return Outcome(phase, "failed", {"code": code, "message": in_clients_names(message, task), "param": param})


def in_clients_names(message: str, task: Mapping[str, Any]) -> str:
    """Return a sentence with the names that clients gave their files, in place of their paths here."""
    for file in task["files"].values():
        message = message.replace(file["place"], file["name"])
    return message


def validate(directory: JobDirectory, task: Mapping[str, Any]) -> dict[str, Any]:
    """Check the files of a job, record the findings, and write the config of its run.

    Raises:
        Refused: the files or the model cannot be trained on.
    """
    import yaml

    from ..data.checks import CHECKS, check_table, read_table
    from ..models.tokenizer import load_tokenizer
    from .job_defaults import training_config

    write_atomic(directory.findings, "")
    _place_files(directory, task)
    places = [Path(file["place"]) for file in task["files"].values()]
    try:
        for place in places:
            _check_size(place, task["most_bytes"])
        table = read_table([directory.data])
    except UserError as error:
        raise Refused(str(error), "invalid_training_file", "training_file") from error
    config = training_config(directory, task, max(1, len(table.trained)))
    try:
        template = (config.chat_template, config.system_role)
        table.tokenizer = load_tokenizer(config.model_name, config.model_revision, *template)
    except UserError as error:
        raise Refused(str(error), "model_not_found", "model") from error
    table.max_seq_length = config.max_seq_length
    findings = [finding for finding in check_table(table) if len(places) > 1 or finding.check != "no_validation_rows"]
    final = {check.name for check in CHECKS if check.final or check.name in FINAL}
    waived = set(config.waive_checks) - final
    stops = [finding for finding in findings if finding.severity == "error" and finding.check not in waived]
    lines = [_finding_line(finding, finding in stops, task) for finding in findings]
    if len(places) == 1:
        held = "no validation file was given, so that nothing is held out and there is no validation loss"
        lines.append({"kind": "finding", "level": "info", "message": held, "key": "finding:no_validation_file"})
    write_atomic(directory.findings, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    if stops:
        held_out = f"{task['files'].get('validation_file', {}).get('place')}, "
        param = "validation_file" if stops[0].examples[0].startswith(held_out) else "training_file"
        raise Refused(f"{_said(stops[0])}; {_advice(stops, final)}", f"invalid_{param}", param)
    if not table.trained:
        raise Refused(f"{places[0]}: there is nothing to train on", "invalid_training_file", "training_file")
    write_atomic(directory.config, yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))
    return {"training_rows": len(table.trained), "findings": len(findings)}


def _place_files(directory: JobDirectory, task: Mapping[str, Any]) -> None:
    """Make the dataset directory of links to the uploaded files, which may be deleted while the job runs."""
    if directory.data.exists():
        shutil.rmtree(directory.data)
    directory.data.mkdir()
    for param, file in task["files"].items():
        if not Path(file["source"]).exists():
            raise Refused(f"{file['name']}: this file was deleted; upload it again", f"invalid_{param}", param)
        with suppress(OSError):
            os.link(file["source"], file["place"])
        if not Path(file["place"]).exists():
            shutil.copyfile(file["source"], file["place"])
    fsync_path(directory.data)


def _check_size(file: Path, most: int) -> None:
    """Raise UserError if a gzip file expands to more than an upload may have, all of which would be in memory."""
    from ..data.jsonl import open_data

    expanded = 0
    with open_data(file) as opened:
        while opened.compressed and (part := opened.read(2**20)):
            expanded += len(part)
            if expanded > most:
                raise UserError(f"{file}: this file expands to more than {most:,} bytes; use a part of it")


def _finding_line(finding: DataFinding, stops: bool, task: Mapping[str, Any]) -> dict[str, Any]:
    message = in_clients_names(_said(finding), task)
    level = "error" if stops else "warn"
    return {"kind": "finding", "level": level, "message": message, "key": f"finding:{finding.check}"}


def _said(finding: DataFinding) -> str:
    more = f", and {finding.count - 1:,} more" if finding.count > 1 else ""
    return f"{finding.examples[0]} (the check {finding.check}: {finding.means}{more})"


def _advice(stops: Sequence[DataFinding], final: Set[str]) -> str:
    names = [finding.check for finding in stops]
    waive = f", or train on it nevertheless with waive_checks: [{', '.join(names)}]"
    return f"correct the file and upload it again{'' if final & set(names) else waive}"


def train(directory: JobDirectory, task: Mapping[str, Any]) -> dict[str, Any]:
    """Train the job's run, or resume it."""
    from ..config import load_config
    from ..training.train import train as train_run

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
