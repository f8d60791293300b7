"""The validation of a job's files, in this process, and the end of a phase as it is recorded."""

from __future__ import annotations

import errno
import gzip
import json
import os
from dataclasses import replace

import pytest
from job_helpers import BUILT_IN, Desk, as_jsonl, rows

from mlx_lora.config import load_config
from mlx_lora.serving.jobs.files import Outcome, job_directory, read_outcome, write_outcome
from mlx_lora.serving.jobs.validation import validate
from mlx_lora.serving.jobs.worker import ended
from mlx_lora.serving.records import Job, new_id


@pytest.fixture
def validated(tmp_path):
    """Validate a job's files; returns how it ended, the lines of the findings, and the directory."""
    desk = Desk(tmp_path / "state")

    def run(*content, **options):
        job = desk.job(*content, **options)
        directory = job_directory(desk.settings, job.id)
        directory.path.mkdir()
        task = {"phase": "validate", **desk.scheduler._task(job, directory)}
        outcome = ended(validate, directory, task)
        lines = [json.loads(line) for line in directory.findings.read_text().splitlines()]
        return outcome, lines, directory

    run.desk = desk
    yield run
    desk.state.close()


def test_defaults_fit_a_small_set_and_the_requests_keys_stand(validated):
    outcome, lines, directory = validated(rows(40), num_epochs=2)
    assert (outcome.status, outcome.result["training_rows"]) == ("done", 40)
    config = load_config(directory.config)
    assert (config.num_epochs, config.batch_size, config.gradient_accumulation_steps) == (2, 2, 1)
    assert (config.warmup_steps, config.save_steps, config.log_steps) == (4, 2, 1)
    assert (config.output_dir, config.data) == (str(directory.run), str(directory.data))
    assert config.run_name == directory.path.name
    assert [line["level"] for line in lines] == ["info"]
    assert "nothing is held out" in lines[0]["message"]
    config = load_config(validated(rows(40), warmup_steps=7, save_steps=9)[2].config)
    assert (config.warmup_steps, config.save_steps) == (7, 9)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (as_jsonl(rows(2)) + "{oops\n" + as_jsonl(rows(30)), 3),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}\n', 1),
        ('{"prompt": 3}\n', 1),
    ],
)
def test_a_bad_line_is_named_with_the_clients_file_name(validated, content, line):
    outcome, lines, directory = validated(content, name="../my rows.jsonl")
    assert (outcome.status, outcome.error["code"]) == ("failed", "invalid_training_file")
    assert outcome.error["param"] == "training_file"
    message = outcome.error["message"]
    assert message.startswith(f"../my rows.jsonl, line {line}: ")
    assert str(directory.path) not in json.dumps([message, lines])
    # Training refuses such a row whatever is waived.
    assert "waive" not in message
    assert not directory.config.exists()


def test_line_3_of_a_validation_file(validated):
    outcome, _, _ = validated(rows(24), as_jsonl(rows(2)) + "[1]\n")
    assert outcome.error["param"] == "validation_file"
    assert outcome.error["message"].startswith("valid.jsonl, line 3: ")


@pytest.mark.parametrize("content", ["", "\n\n", b"\xff\xfe\x00", b"\x1f\x8bnot gzip at all"])
def test_files_that_hold_nothing(validated, content):
    outcome, _, _ = validated(content)
    assert outcome.error["param"] == "training_file"
    assert outcome.error["message"].startswith("sft.jsonl")


def test_a_deleted_file(validated):
    desk = validated.desk
    job = desk.scheduler.submit(Job(new_id("ftjob"), "fine_tuning", BUILT_IN, {}, {}, new_id("file")))
    directory = job_directory(desk.settings, job.id)
    directory.path.mkdir()
    outcome = ended(validate, directory, {"phase": "validate", **desk.scheduler._task(job, directory)})
    assert (outcome.error["param"], "was deleted" in outcome.error["message"]) == ("training_file", True)


def test_an_unknown_model(validated):
    outcome, _, _ = validated(model="builtin/none")
    assert (outcome.error["code"], outcome.error["param"]) == ("model_not_found", "model")


def test_findings_are_recorded_and_an_error_can_be_waived(validated):
    marked = [*rows(4), {**rows(5)[4], "never_train": True}, rows(1)[0]]
    outcome, lines, _ = validated(marked)
    assert outcome.error["message"].startswith("sft.jsonl, line 5")
    assert "waive_checks: [never_train]" in outcome.error["message"]
    assert {line["key"]: line["level"] for line in lines}["finding:never_train"] == "error"
    outcome, lines, _ = validated(marked, waive_checks=["never_train"])
    assert outcome.status == "done"
    levels = {line["key"]: line["level"] for line in lines}
    assert (levels["finding:never_train"], levels["finding:exact_duplicates"]) == ("warn", "warn")


@pytest.mark.parametrize("name", ["table.CSV", "table.csv.gz"])
def test_a_table_is_read_by_its_name(validated, name):
    table = ("prompt,completion\n" + "".join(f"colour {i},it is number {i * 7}\n" for i in range(12))).encode()
    outcome, _, _ = validated(gzip.compress(table) if name.endswith(".gz") else table, name=name)
    assert (outcome.status, outcome.result["training_rows"]) == ("done", 12)


@pytest.mark.parametrize(("content", "most"), [(b"\0" * 90_000_000, 10**9), (as_jsonl(rows(2000)).encode(), 200_000)])
def test_a_zip_bomb(validated, content, most):
    validated.desk.scheduler.settings = replace(validated.desk.settings, most_upload_bytes=most)
    outcome, _, _ = validated(gzip.compress(content), name="sft.jsonl.gz")
    assert outcome.error["param"] == "training_file"
    said = "500 times its size" if most == 10**9 else "200,000 bytes"
    assert outcome.error["message"].startswith("sft.jsonl.gz: this ")
    assert f"expands to more than {said}" in outcome.error["message"]


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "permissions")])
def test_an_error_of_the_system_is_a_sentence(number, advice):
    def broken(directory, task):
        raise OSError(number, os.strerror(number), "/some/file")

    outcome = ended(broken, None, {"phase": "train", "files": {}})
    assert outcome.error["message"].startswith(f"/some/file: {os.strerror(number)}; ")
    assert advice in outcome.error["message"]


def test_a_defect_is_a_sentence(tmp_path, capsys):
    def broken(directory, task):
        return {}["no such key"]

    outcome = ended(broken, None, {"phase": "train", "files": {}})
    assert "the worker has a defect: KeyError: 'no such key' is missing" in outcome.error["message"]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "broken",
    [
        *(
            "",
            "{",
            "[]",
            "\0",
            "[" * 9999,
            '{"phase": "x", "status": "done"}',
            '{"phase": "train", "status": ["done"]}',
        ),
        *('{"phase": "train", "status": "failed"}', '{"phase": "train", "status": "failed", "error": {"message": 3}}'),
    ],
)
def test_a_damaged_outcome_is_set_aside(tmp_path, broken):
    desk = Desk(tmp_path / "state")
    directory = job_directory(desk.settings, new_id("ftjob"))
    directory.path.mkdir()
    assert read_outcome(directory) is None
    directory.outcome.write_text(broken)
    assert read_outcome(directory) is None
    assert (directory.path / "outcome.json.unreadable-1").read_text() == broken
    write_outcome(directory, Outcome("train", "done", result={"loss": 1.0}))
    assert read_outcome(directory) == Outcome("train", "done", result={"loss": 1.0})
    desk.state.close()
