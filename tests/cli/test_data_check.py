"""``data check`` and ``data show`` as a user meets them, and the training that a check stops."""

from __future__ import annotations

import json

import pytest

ROWS = [
    {"instruction": "What is it?", "output": "It is what it is."},
    {"instruction": "Who [bold]was[/nothing] it?", "output": "Nobody, as far as is known."},
]


@pytest.fixture
def rows(tmp_path):
    """A directory with these rows as train.jsonl."""

    def write(*more, test=()):
        directory = tmp_path / "mine"
        directory.mkdir()
        for name, content in {"train": [*ROWS, *more], "test": test}.items():
            lines = [(r if isinstance(r, str) else json.dumps(r)) + "\n" for r in content]
            (directory / f"{name}.jsonl").write_text("".join(lines))
        return directory

    return write


def test_a_dataset_without_errors(command, eisv_data):
    done = command("data", "check", eisv_data, "--base", "builtin/tiny-lumen", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"rows", "distinct_rows", "notes", "findings"}
    assert result["rows"] == result["distinct_rows"] == 90
    assert {f["severity"] for f in result["findings"]} <= {"warning"}
    assert "no error was found" in command("data", "check", eisv_data).stdout


def test_the_exit_status_is_a_gate(command, rows, tmp_path):
    directory = rows("{", test=[ROWS[1]])
    done = command("data", "check", directory, "--json")
    assert done.returncode == 1, done.stderr
    findings = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert set(findings["malformed"]) == {"check", "severity", "count", "examples"}
    assert findings["malformed"]["examples"] == [
        f"{directory}/train.jsonl, line 3: this is not JSON (Expecting property name enclosed in double quotes); "
        "correct or remove the line"
    ]
    people = command("data", "check", directory, "--fix", tmp_path / "clean")
    assert people.returncode == 1
    assert f"malformed:\n  {directory}/train.jsonl, line 3: this is not JSON" in people.stdout
    assert f"{tmp_path / 'clean'}: 2 rows kept, 2 left out (fixed.jsonl says why)" in people.stdout
    assert command("data", "check", tmp_path / "clean").returncode == 0
    log = [json.loads(line)["check"] for line in (tmp_path / "clean" / "fixed.jsonl").read_text().splitlines()]
    assert log == ["malformed", "leaked_rows"]


def test_a_plan_and_a_model(command, rows, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("train: 2\n")
    directory = rows()
    assert command("data", "check", directory / "train.jsonl", "--plan", plan).returncode == 0
    plan.write_text("train: 5\n")
    done = command("data", "check", directory / "train.jsonl", "--plan", plan)
    assert done.returncode == 1
    assert "2 rows of the bucket train, and the plan says 5" in done.stdout
    short = command("data", "check", directory, "--base", "builtin/tiny-lumen", "--max-seq-length", 8)
    assert short.returncode == 1
    assert "answer_too_long" in short.stdout


def test_bad_input_is_one_sentence(refused, rows, tmp_path):
    directory = rows()
    (tmp_path / "empty.jsonl").write_text("\n")
    for arguments, said in (
        ([tmp_path / "none"], "there is no such file"),
        ([tmp_path / "empty.jsonl"], "there is no row in it"),
        ([directory, "--plan", tmp_path / "none.yaml"], "there is no such plan"),
        ([directory, "--base", "builtin/none"], "there is no such model directory"),
        ([directory, "--fix", directory], "this exists already"),
    ):
        assert said in refused("data", "check", *arguments)
    assert "there are 2 examples of the split train, so there is no example 3" in refused("data", "show", directory, 3)


def test_show_marks_what_is_learned(command, rows):
    directory = rows()
    text = command("data", "show", directory, 2).stdout
    assert "train.jsonl, line 2 (train)" in text
    assert "⟦Nobody, as far as is known.<|eot_id|>⟧" in text
    assert "Who [bold]was[/nothing] it?" in text
    shown = json.loads(command("data", "show", directory, "--json").stdout)
    assert (shown["example"], shown["line"], shown["split"], shown["cut"]) == (1, 1, "train", 0)
    assert shown["tokens"] == sum(part["tokens"] for part in shown["segments"])
    assert [part["weight"] for part in shown["segments"]] == [0.0, 1.0]
    assert "".join(part["text"] for part in shown["segments"]).endswith("It is what it is.<|eot_id|>")


def test_show_tells_the_weights_of_spans(command, rows):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "plain heavy"}]
    spans = [{"message": 1, "start": 6, "end": 11, "weight": 5.0}]
    directory = rows({"messages": messages, "weight": 0.5, "spans": spans})
    shown = json.loads(command("data", "show", directory, 3, "--json").stdout)
    learned = [part for part in shown["segments"] if part["supervised"]]
    assert [part["text"] for part in learned][1].strip() == "heavy"
    assert learned[1]["weight"] == pytest.approx(5 * learned[0]["weight"])
    mean = sum(part["weight"] * part["tokens"] for part in learned) / shown["supervised_tokens"]
    assert mean == pytest.approx(0.5)
    assert "×: what this part's loss is multiplied by" in command("data", "show", directory, 3).stdout


@pytest.mark.slow
def test_an_error_stops_training_until_it_is_waived(command, refused, tmp_path):
    directory = tmp_path / "mine"
    directory.mkdir()
    line = (
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b b b"}]}) + "\n"
    )
    (directory / "train.jsonl").write_text(line)
    (directory / "valid.jsonl").write_text(line)
    arguments = (
        "train",
        "--config",
        "quickstart",
        "--data",
        directory,
        "--out",
        tmp_path / "run",
        "--set",
        "max_steps=1",
    )
    sentence = refused(*arguments)
    assert "the check leaked_rows stops training" in sentence
    assert "--set 'waive_checks=[leaked_rows]'" in sentence
    assert not (tmp_path / "run").exists()
    done = command(*arguments, "--set", "waive_checks=[leaked_rows]")
    assert done.returncode == 0, done.stderr
    assert "there is no check 'leaks'" in refused(*arguments, "--set", "waive_checks=[leaks]", "--fresh")
