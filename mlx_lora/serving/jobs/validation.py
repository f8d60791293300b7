"""Validation of a job: its files by the checks of ``data check``, its model, and the config of its run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ...errors import UserError
from ...files import fsync_path, write_atomic
from .files import JobDirectory

if TYPE_CHECKING:
    from ...data.checks import DataFinding, Table

# Checks whose rows training itself refuses, beside those that are marked so: they cannot be waived.
FINAL = ("malformed", "empty_answer")
NOT_HELD_OUT = "no validation file was given, so that nothing is held out and there is no validation loss"


class Refused(UserError):
    """Error of a request: the parameter that is wrong, and a short name for programs."""

    def __init__(self, message: str, code: str, param: str) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def validate(directory: JobDirectory, task: Mapping[str, Any]) -> dict[str, Any]:
    """Check the files of a job, record the findings, and write the config of its run.

    Raises:
        Refused: the files or the model cannot be trained on.
    """
    from ...data.checks import check_table
    from ...models.tokenizer import load_tokenizer
    from .defaults import training_config

    write_atomic(directory.findings, "")
    _place_files(directory, task)
    table = _read(directory, task)
    config = training_config(directory, task, max(1, len(table.trained)))
    try:
        template = (config.chat_template, config.system_role)
        table.tokenizer = load_tokenizer(config.model_name, config.model_revision, *template)
    except UserError as error:
        raise Refused(str(error), "model_not_found", "model") from error
    table.max_seq_length = config.max_seq_length
    findings = check_table(table)
    _report(directory, task, findings, config.waive_checks)
    if not table.trained:
        name = task["files"]["training_file"]["name"]
        raise Refused(f"{name}: there is nothing to train on", "invalid_training_file", "training_file")
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


def _read(directory: JobDirectory, task: Mapping[str, Any]) -> Table:
    from ...data.checks import read_table

    for param, file in task["files"].items():
        try:
            _check_size(Path(file["place"]), task["most_bytes"])
        except UserError as error:
            raise Refused(str(error), f"invalid_{param}", param) from error
    try:
        return read_table([directory.data])
    except UserError as error:
        param = _param(str(error), task)
        raise Refused(str(error), f"invalid_{param}", param) from error


def _check_size(file: Path, most: int) -> None:
    """Raise UserError if a gzip file expands to more than an upload may have, all of which would be in memory."""
    from ...data.jsonl import open_data

    expanded = 0
    with open_data(file) as opened:
        while opened.compressed and (part := opened.read(2**20)):
            expanded += len(part)
            if expanded > most:
                raise UserError(f"{file}: this file expands to more than {most:,} bytes; use a part of it")


def _param(message: str, task: Mapping[str, Any]) -> str:
    """Return the parameter whose file a sentence begins with."""
    held_out = task["files"].get("validation_file")
    return "validation_file" if held_out and message.startswith(held_out["place"]) else "training_file"


def _report(
    directory: JobDirectory, task: Mapping[str, Any], findings: Sequence[DataFinding], waived: Sequence[str]
) -> None:
    """Record the findings.

    Raises:
        Refused: one of them stops the job.
    """
    from ...data.checks import CHECKS

    final = {check.name for check in CHECKS if check.final or check.name in FINAL}
    stops = [f for f in findings if f.severity == "error" and (f.check in final or f.check not in waived)]
    lines = []
    for finding in findings:
        level, message = "error" if finding in stops else "warn", in_clients_names(_said(finding), task)
        if finding.check == "no_validation_rows" and "validation_file" not in task["files"]:
            level, message = "info", NOT_HELD_OUT
        lines.append({"kind": "finding", "level": level, "message": message, "key": f"finding:{finding.check}"})
    write_atomic(directory.findings, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    if stops:
        names = [finding.check for finding in stops]
        waive = "" if final & set(names) else f", or train on it nevertheless with waive_checks: [{', '.join(names)}]"
        param = _param(stops[0].examples[0], task)
        advice = f"correct the file and upload it again{waive}"
        raise Refused(f"{_said(stops[0])}; {advice}", f"invalid_{param}", param)


def _said(finding: DataFinding) -> str:
    more = f", and {finding.count - 1:,} more" if finding.count > 1 else ""
    return f"{finding.examples[0]} (the check {finding.check}: {finding.means}{more})"


def in_clients_names(message: str, task: Mapping[str, Any]) -> str:
    """Return a sentence with the names that clients gave their files, in place of their paths here."""
    for file in task["files"].values():
        message = message.replace(file["place"], file["name"])
    return message
