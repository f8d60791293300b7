import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lora.data.dataset import SPLITS, read_split
from mlx_lora.data.import_report import ImportReport
from mlx_lora.errors import UserError
from mlx_lora.sources.instructions import (
    END_TOKENS,
    Plan,
    check_plan,
    format_legacy,
    load_plan,
    make_instructions_dataset,
    prompt_of,
    read_rows,
    without_end_token,
)
from mlx_lora.sources.instructions.dataset import DUPLICATE, LEAKED, NEGATIVE, NEVER
from mlx_lora.sources.instructions.rows import EMPTY, MALFORMED

# Rows and distinct rows of the real files.
REAL = {
    "tool_core": (700, 15),
    "tool_neg": (400, 152),
    "style_core": (60, 12),
    "style_refactor": (40, 4),
    "guardrail": (40, 4),
    "eval": (30, 4),
}


def row(number, **more):
    return {"task_type": "style_core", "instruction": f"Do {number}", "input": "", "output": f"Done {number}.", **more}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def splits_of(directory):
    return {split: read_split(directory, split) for split in SPLITS}


@pytest.mark.parametrize("name", REAL)
def test_counts_of_each_real_file(realdata, name):
    report = ImportReport("instructions")
    rows = list(read_rows(realdata / f"instructions/{name}.jsonl", report))
    distinct = {json.dumps(r.example.messages) for r in rows}
    assert (len(rows), len(distinct)) == REAL[name]
    assert report.counts == {}
    assert all(r.dialect == "instruction" for r in rows)


def test_the_real_files_together(realdata, tmp_path):
    files = [realdata / f"instructions/{name}.jsonl" for name in REAL]
    card, report = make_instructions_dataset(tmp_path / "out", files=files, plan=load_plan("coder"))
    assert (report.read, report.kept, card["distinct_rows"]) == (1270, 191, 191)
    assert report.counts == {DUPLICATE: 1079}
    assert card["buckets"]["tool_neg"] == {"rows": 400, "kept": 152}
    assert card["splits"]["test"] == 4
    assert {e.meta["task_type"] for e in read_split(tmp_path / "out", "test")} == {"eval"}
    assert any(
        note.startswith("14 prompts have different answers (buckets tool_call, tool_neg)") for note in report.notes
    )
    assert any("sum to 34,000 rows, not to the 37,000" in note for note in report.notes)
    card, report = make_instructions_dataset(tmp_path / "right", files=files, leave_out=["tool_neg"])
    assert report.kept == 191 - 152
    assert not any("different answers" in note for note in report.notes)
    _, report = make_instructions_dataset(tmp_path / "all", files=files, keep_duplicates=True)
    assert (report.kept, report.counts) == (1270, {})


def test_all_dialects(tmp_path):
    legacy = format_legacy("Add", "1 and 2", "3", "<|endoftext|>")
    assert legacy == "### Instruction:\nAdd\n\n### Input:\n1 and 2\n\n### Response:\n3<|endoftext|>"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows = [
        {"instruction": "Add", "input": "1 and 2", "output": "3", "metadata": {"task_type": "a", "sample_id": "s1"}},
        {"instruction": "Go", "output": "Gone", "task_type": "b", "sample_id": "s2", "layer": 3},
        {"messages": [*chat, {"role": "assistant", "content": "Ho"}], "weight": 0.5, "meta": {"task_type": "c"}},
        {"prompt": "Knock", "completion": "Who?"},
        {"text": legacy},
        {"text": "Once upon a time"},
    ]
    report = ImportReport("instructions")
    found = list(read_rows(write(tmp_path / "f.jsonl", rows), report))
    assert report.counts == {}
    added = [{"role": "user", "content": "Add\n\n1 and 2"}, {"role": "assistant", "content": "3"}]
    assert found[0].example.messages == found[4].example.messages == added
    assert found[1].example.messages[0]["content"] == "Go"
    assert [r.bucket for r in found] == ["a", "b", "c", "f", "f", "f"]
    assert [r.example.meta.get("sample_id") for r in found[:2]] == ["s1", "s2"]
    assert (found[1].example.meta["layer"], found[1].example.meta["from"]) == (3, f"{tmp_path}/f.jsonl, line 2")
    assert (found[2].example.weight, len(found[2].example.messages)) == (0.5, 3)
    assert [m["content"] for m in found[3].example.messages] == ["Knock", "Who?"]
    assert found[5].example.messages == [{"role": "assistant", "content": "Once upon a time"}]
    _, report = make_instructions_dataset(tmp_path / "out", files=[tmp_path / "f.jsonl"])
    assert any(note.startswith("1 rows are bare text") for note in report.notes)


def test_the_legacy_format_needs_its_end_token():
    assert format_legacy("Go", " ", "Gone", "</s>") == "### Instruction:\nGo\n\n### Response:\nGone</s>"
    with pytest.raises(ValueError, match="end-of-sequence"):
        format_legacy("Go", "", "Gone", "")
    assert [without_end_token(f"x{token}\n") for token in END_TOKENS] == ["x"] * len(END_TOKENS)
    assert without_end_token("x </s> y ") == "x </s> y "


def test_what_is_kept_out_of_training(tmp_path):
    rows = [
        *(row(i) for i in range(40)),
        row(0, sample_id="again"),
        row(100, is_negative_example=True),
        row(101, metadata={"is_negative_example": "true"}),
        row(102, never_train=1),
        row(103, is_eval=True),
        row(104, metadata={"is_eval": True, "never_train": True}),
        row(5, is_eval="yes", output="Done another way."),
        row(105, task_type="eval"),
        row(106, is_eval=True, is_negative_example=True),
        row(107, never_train=False, is_eval=None, is_negative_example="no"),
        row(108, never_train="perhaps"),
        row(109, output="  "),
    ]
    _, report = make_instructions_dataset(tmp_path / "out", files=[write(tmp_path / "f.jsonl", rows)])
    assert report.counts == {MALFORMED: 1, EMPTY: 1, DUPLICATE: 1, NEGATIVE: 3, NEVER: 1, LEAKED: 1}
    assert report.left_out[LEAKED] == [f"{tmp_path}/f.jsonl, line 6"]
    assert report.left_out[MALFORMED] == [
        f"{tmp_path}/f.jsonl, line 51: never_train must be true or false, not 'perhaps'"
    ]
    assert report.read == report.kept + sum(report.counts.values())
    splits = splits_of(tmp_path / "out")
    assert [e.messages[0]["content"] for e in splits["test"]] == ["Do 103", "Do 104", "Do 5", "Do 105"]
    trained = {prompt_of(e) for split in ("train", "valid") for e in splits[split]}
    assert len(trained) == 40
    assert not trained & {prompt_of(e) for e in splits["test"]}


def test_rows_of_one_prompt_share_a_split(tmp_path):
    rows = [row(i, output=f"Answer {j}.") for i in range(60) for j in range(3)]
    make_instructions_dataset(tmp_path / "out", files=[write(tmp_path / "f.jsonl", rows)])
    prompts = [{prompt_of(e) for e in examples} for examples in splits_of(tmp_path / "out").values()]
    assert sum(map(len, prompts)) == 60
    assert all(prompts)


def test_nothing_to_train_on_is_one_sentence(tmp_path, refused):
    held = write(tmp_path / "f.jsonl", [row(1, is_eval=True), row(2, never_train=True), "{"])
    said = refused("data", "instructions", held, "--out", tmp_path / "out")
    assert "no row is left to train on (1 × row that cannot be used; 1 × row marked never_train)" in said
    assert not (tmp_path / "out").exists()
    assert "the files are empty" in refused("data", "instructions", write(held, []), "--out", tmp_path / "out")


def test_files_of_any_kind(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", ".", "pipe", "a"):
        with pytest.raises(UserError) as error:
            make_instructions_dataset(tmp_path / "out", files=[tmp_path / name])
        assert str(error.value).startswith(str(tmp_path))
        assert "\n" not in str(error.value)
    lines = [
        json.dumps(row(1)).encode(),
        b"\xff\xfe{}",
        b'{"instruction": "cut',
        json.dumps(row(2, output="long" * 2_500_000)).encode(),
        b"[" * 100_000,
        b'{"instruction": ' + b"9" * 10_000 + b"}",
        b'{"instruction": "a", "output": "\\ud800"}',
        b'{"instruction": "a", "output": "b", "quality_score": NaN}',
        b'{"instruction": ["a"], "output": "b"}',
        b'{"instruction": "a", "output": "b", "task_type": {}}',
        b'{"messages": [{"role": "narrator", "content": "a"}]}',
        b'{"messages": "hello"}',
        b'{"question": "a"}',
        b"12",
    ]
    (tmp_path / "f.jsonl").write_bytes(b"\n".join(lines))
    _, report = make_instructions_dataset(tmp_path / "out", files=[tmp_path / "f.jsonl"])
    assert (report.read, report.kept, report.counts) == (14, 2, {MALFORMED: 12})
    assert all(name.startswith(f"{tmp_path}/f.jsonl, line ") for name in report.left_out[MALFORMED])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(max_size=20) | st.sampled_from(["go", "### Instruction:\na### Response:\nb"]) | json_values
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | json_values, "content": texts}
)
any_row = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("instruction", "input", "output", "prompt", "completion", "text", "system"), texts),
        "messages": st.lists(message, max_size=3) | json_values,
        **dict.fromkeys(("task_type", "is_eval", "never_train", "metadata", "meta", "weight", "spans"), json_values),
    },
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_row.map(json.dumps) | json_values.map(json.dumps) | st.text(), max_size=6))
def test_any_file_gives_a_sentence_or_a_full_account(tmp_path, rows):
    (tmp_path / "f").write_bytes("\n".join([*rows, json.dumps(row(1))]).encode("utf-8", "surrogatepass"))
    out = tmp_path / os.urandom(8).hex()
    try:
        _, report = make_instructions_dataset(out, files=[tmp_path / "f"])
    except UserError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert not out.exists()
        return
    assert report.read == report.kept + sum(report.counts.values())
    assert sum(map(len, splits_of(out).values())) == report.kept  # every line can be read again


def test_published_plans():
    seven, eight = load_plan("coder"), load_plan("coder-reporting")
    assert (len(seven.buckets), seven.total, seven.stated_total) == (7, 34_000, 37_000)
    assert (len(eight.buckets), eight.total) == (8, 37_000)
    check = check_plan(seven, {"style_core": 60, "other": 5}, {"style_core": 12, "other": 5})
    assert (check.total, len(check.buckets)) == (34_000, 8)
    notes = check.notes()
    assert notes[0] == "The plan's buckets sum to 34,000 rows, not to the 37,000 it states."
    assert "Bucket style_core has 12 of 12,000 rows (60 before checks)." in notes
    assert notes[-1] == "Bucket other is not in the plan: 5 rows, 5 kept."
    assert check_plan(Plan({"a": 2}), {"a": 2}, {"a": 2}).notes() == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.yaml", "a: [", "not valid yaml"),
        ("p.json", "{'a'", "not valid json"),
        ("p.json", "[" * 100_000, "not valid json"),
        ("p.yaml", "- a", "a mapping of buckets"),
        ("p.yaml", "a: many", "'a' must be a name with a whole number of rows, not 'many'"),
        ("p.yaml", "a: -1", "not -1"),
        ("p.yaml", "a: true", "not True"),
        ("p.yaml", "1: 1", "must be a name"),
        ("p.yaml", "d: 2026-99-99", "not valid yaml"),
        ("p.yaml", "buckets: {a: 1}\nstated_total: much", "'stated_total' must be"),
    ],
)
def test_bad_plans_are_one_sentence(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_plan(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no such plan"):
        load_plan(tmp_path / "absent.yaml")


def test_a_plan_of_ones_own(tmp_path):
    (tmp_path / "p.yaml").write_text("a: 3\nb: 4\n")
    (tmp_path / "p.json").write_text('{"buckets": {"a": 3, "b": 4}, "stated_total": 7}')
    assert load_plan(tmp_path / "p.yaml") == Plan({"a": 3, "b": 4})
    assert load_plan(tmp_path / "p.json") == Plan({"a": 3, "b": 4}, 7)


def test_the_command(tmp_path, command):
    file = write(tmp_path / "f.jsonl", [*(row(i) for i in range(20)), row(1), row(99, task_type="odd")])
    done = command("data", "instructions", file, "--out", tmp_path / "a", "--plan", "coder", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["report"]["left_out"] == [
        {"reason": DUPLICATE, "count": 1, "examples": [f"{file}, line 21"]},
    ]
    assert printed["plan"]["total"] == 34_000
    written = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [row.pop("rows") for row in written["left_out"]] == [[f"{file}, line 21"]]
    assert written == printed["report"]
    shown = command("data", "instructions", file, "--out", tmp_path / "b", "--leave-out", "odd", "--keep-duplicates")
    assert "21 examples of 22 rows" in shown.stdout
    assert "bucket odd, as asked" in shown.stdout


def test_a_run_on_instructions_learns(tmp_path, command):
    rows = [
        row(i, instruction=f"state {w} {i}", output=f"{w} rests here {i}") for i, w in enumerate(("warm", "still") * 6)
    ]
    make_instructions_dataset(tmp_path / "d", files=[write(tmp_path / "f.jsonl", rows)])
    settings = ("model_name=builtin/tiny-lumen", "learning_rate=5e-3", "max_steps=6", "log_steps=1", "batch_size=4")
    sets = [argument for key in settings for argument in ("--set", key)]
    done = command("train", "--data", "d", "--out", "run", *sets, "--set", "num_epochs=9", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
