"""The real instruction files: what is known of them, and a cleaned copy."""

from __future__ import annotations

import json

import pytest

from mlx_lora.data.checks import check_table, errors_that_stop, read_table
from mlx_lora.data.checks.cleaning import write_fixed
from mlx_lora.data.dataset import read_split
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer
from mlx_lora.sources.instructions import load_plan


@pytest.fixture(scope="module")
def table(realdata):
    found = read_table([realdata / "instructions"])
    plan = load_plan("coder")
    found.plan, found.stated_total = plan.buckets, plan.stated_total
    return found


@pytest.fixture(scope="module")
def findings(table):
    return check_table(table)


def test_what_is_known_of_them(table, findings):
    assert (table.rows, table.distinct, table.malformed) == (1270, 191, [])
    counts = {finding.check: (finding.severity, finding.count) for finding in findings}
    assert counts == {
        "contradictory_answers": ("error", 14),
        "mostly_copies": ("error", 1053),
        "bucket_counts": ("error", 12),
        "exact_duplicates": ("warning", 1079),
        "near_duplicates": ("warning", 11),
        "one_answer": ("warning", 5),
    }
    (several,) = [finding for finding in findings if finding.check == "one_answer"]
    assert "tool_neg.jsonl, line 1: 138 different prompts have the answer" in several.examples[0]
    (contradictions,) = [finding for finding in findings if finding.check == "contradictory_answers"]
    assert "tool_neg.jsonl" in contradictions.examples[0]
    assert "tool_core.jsonl" in contradictions.examples[0]
    (buckets,) = [finding for finding in findings if finding.check == "bucket_counts"]
    assert buckets.examples[-1] == "the plan's buckets sum to 34,000 rows, and it states a total of 37,000"


def test_evaluation_rows_left_in_training_are_found(realdata, tmp_path):
    files = sorted((realdata / "instructions").glob("*.jsonl"))
    (tmp_path / "train.jsonl").write_text("".join(file.read_text() for file in files))
    (tmp_path / "test.jsonl").write_text((realdata / "instructions" / "eval.jsonl").read_text())
    stop = {
        finding.check: finding.count
        for finding in errors_that_stop(tmp_path, load_tokenizer("builtin/tiny-lumen"), 512)
    }
    assert (stop["leaked_rows"], stop["is_eval"]) == (30, 30)


def test_a_cleaned_copy(table, findings, tmp_path):
    assert write_fixed(tmp_path / "clean", table, findings) == {"kept": 177, "dropped": 1093, "stripped": 0}
    log = [json.loads(line) for line in (tmp_path / "clean" / "fixed.jsonl").read_text().splitlines()]
    assert len(log) == 1093
    assert set(log[0]) == {"file", "line", "check", "why"}
    assert {line["check"] for line in log} == {"contradictory_answers", "exact_duplicates"}
    assert len(read_split(tmp_path / "clean", "train")) == 173
    again = check_table(read_table([tmp_path / "clean"]))
    assert {finding.severity for finding in again} == {"warning"}
    # Rows that differ in one name are reported and kept.
    (near,) = [finding for finding in again if finding.check == "near_duplicates"]
    assert all(", but for " in hit.said for hit in near.hits)
    with pytest.raises(UserError, match="exists already"):
        write_fixed(tmp_path / "clean", table, findings)


def lines(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def pair(prompt, answer, **meta):
    return {"prompt": prompt, "completion": answer, "metadata": meta}


def test_a_good_row_does_not_go_for_resembling_a_bad_one(tmp_path):
    words = " ".join(f"word{i}" for i in range(40))
    bad, good = (
        pair("What?", f"{words} wrong", is_negative_example=True),
        pair("What?", f"{words} right", score=float("inf")),
    )
    table = read_table([lines(tmp_path / "train.jsonl", bad, good, good, "{", pair("Else?", "Nothing else at all."))])
    result = write_fixed(tmp_path / "clean", table, check_table(table))
    assert result == {"kept": 2, "dropped": 3, "stripped": 0}
    kept = read_split(tmp_path / "clean", "train")
    assert [example.messages[-1]["content"][-5:] for example in kept] == ["right", " all."]
    assert kept[0].meta == {"score": None}
    card = json.loads((tmp_path / "clean" / "card.json").read_text())
    assert (card["dropped"], card["splits"]["train"]) == (3, 2)


def test_nothing_is_written_where_nothing_would_be_left(tmp_path):
    table = read_table([lines(tmp_path / "train.jsonl", pair("What?", "", never_train=True))])
    with pytest.raises(UserError, match="no row to train on would be left"):
        write_fixed(tmp_path / "clean", table, check_table(table))
    assert not (tmp_path / "clean").exists()
