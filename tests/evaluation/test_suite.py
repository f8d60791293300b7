"""Suites as files: what a right one says, and one sentence with file, line and key for every wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_lora.errors import UserError
from mlx_lora.evaluation.runner import prepare
from mlx_lora.evaluation.scorers import METRICS, SCORERS
from mlx_lora.evaluation.scoring import check_documents, score_text
from mlx_lora.evaluation.suite import KEYS, Generation, find_suites, load_suite, published_suites

SUITE = """\
name: mine
description: an answer is polite
gate: ship
threshold: 0.9
cases: {file: mine.jsonl}
system: Be kind.
generate:
  max_tokens: 8
  temperature: 0.5
profile: seed
checks:
  - contains: please
  - regex:
      pattern: ^OK
"""
CASE = '{"id": "a", "prompt": "Say OK"}\n'


@pytest.fixture
def suite(tmp_path):
    """Write the suite above with some text replaced, and read it with its cases."""

    def read(*changes):
        text = SUITE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "mine.yaml").write_text(text)
        (tmp_path / "mine.jsonl").write_text(CASE)
        return prepare(load_suite(str(tmp_path / "mine.yaml")))

    return read


def test_a_suite_and_its_cases(suite, tmp_path):
    found = suite()
    read = found.suite
    assert (read.name, read.gate, read.profile, read.reader) == ("mine", "ship", "seed", "cases")
    assert [str(limit) for limit in read.limits] == ["≥ 0.9"]
    assert read.generation == Generation(8, 0.5, 0)
    assert [check.name for check in read.checks] == ["contains", "regex"]
    assert [check.where for check in read.checks] == [f"{tmp_path / 'mine.yaml'}, line {line}" for line in (12, 13)]
    assert found.cases[0].messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Say OK"},
    ]
    assert found.about == {"cases": str(tmp_path / "mine.jsonl")}


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("name: mine", "name: [1]", 1, "name: it must be text"),
        ("name: mine\n", "", 1, "name: this is missing"),
        ("name: mine", "name: my suite", 1, "name: a name has letters"),
        ("gate: ship", "gate: shop", 3, "gate: 'shop' is neither of ship and quality"),
        ("gate: ship", "gat: ship", 3, "gat: there is no such key; the nearest is 'gate'"),
        ("gate: ship", "7: ship", 1, "7: there is no such key"),
        ("threshold: 0.9\n", "", 1, "a suite needs threshold"),
        ("threshold: 0.9", "threshold: 1.9", 4, "threshold: 1.9 is not a number from 0 to 1"),
        ("threshold: 0.9", "threshold: true", 4, "threshold: True is not a number"),
        ("threshold: 0.9", "threshold: .nan", 4, "threshold: nan is not a number"),
        ("threshold: 0.9", "threshold: '< 0.9'", 4, "threshold: '< 0.9' is not a number"),
        ("threshold: 0.9", "threshold: [0.9]", 4, "threshold: [0.9] is not a number"),
        ("threshold: 0.9", "thresholds: {}", 4, "thresholds: it must map metrics to numbers"),
        ("threshold: 0.9", "thresholds:\n  f1: high", 5, "thresholds.f1: 'high' is not a number"),
        ("threshold: 0.9", "threshold: 0.9\nthresholds: {f1: 1}", 5, "thresholds: a suite needs threshold"),
        ("threshold: 0.9", "thresholds:\n  pass_rate: 1\n  f1: 0.9", 6, "the threshold is on f1, which none of the"),
        ("{file: mine.jsonl}", "mine.jsonl", 5, "cases: it must be a mapping"),
        ("{file: mine.jsonl}", "{fil: mine.jsonl}", 5, "cases.fil: there is no such key; the nearest is 'file'"),
        ("{file: mine.jsonl}", "{file: 3}", 5, "cases.file: it must be the path"),
        ("{file: mine.jsonl}", "{file: none.jsonl}", 5, "none.jsonl: there is no such file"),
        ("{file: mine.jsonl}", "{format: csv}", 5, "cases.format: 'csv' is neither of cases and eisv"),
        ("system: Be kind.", "system: [Be kind]", 6, "system: it must be text"),
        ("max_tokens: 8", "max_tokens: 0", 8, "generate.max_tokens: it must be at least 1"),
        ("max_tokens: 8", "max_tokens: 2.5", 8, "generate.max_tokens: 2.5 is no usable number"),
        ("temperature: 0.5", "temperature: .inf", 9, "generate.temperature: inf is no usable number"),
        ("temperature: 0.5", "temperature: -1", 9, "generate.temperature: -1 is no usable number"),
        ("temperature: 0.5", "top_p: 0.5", 9, "generate.top_p: there is no such key"),
        ("profile: seed", "profile: 3", 10, "profile: it must be text"),
        ("- contains: please", "- contain: please", 12, "there is no check 'contain'; the nearest is 'contains'"),
        ("- contains: please", "- contains: 5", 12, "contains: texts must be a text or a list of texts"),
        ("- contains: please", "- contains: {text: a}", 12, "contains has no option 'text'; the nearest is 'texts'"),
        ("- contains: please", "- {contains: a, regex: b}", 12, "checks.0: a check is one name with its options"),
        ("- contains: please", "- sections: {profile: none}", 12, "'none'"),
        ("pattern: ^OK", "pattern: (", 13, "'(' is not a regular expression"),
        ("checks:\n", "checks: contains\nsystem2:\n", 12, "system2: there is no such key"),
    ],
)
def test_a_wrong_suite_is_one_sentence_with_its_line(suite, tmp_path, old, new, line, said):
    with pytest.raises(UserError) as error:
        suite((old, new))
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'mine.yaml'}, line {line}: "), text
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a suite is a mapping with name"),
        ("- a\n", "a suite is a mapping with name"),
        ("name: [", "this suite cannot be read"),
        ("a: &x [1]\nb: !!python/object:os.system x\n", "this suite cannot be read"),
        ("[" * 3000, "this suite cannot be read"),
        ("name: mine\nthreshold: 1\n", "checks: it must be a list of at least one check"),
        ("name: mine\nthreshold: 1\nchecks: []\n", "checks: it must be a list of at least one check"),
        ("k" * 900 + ": 1\n", "there is no such key"),
        ("name: mine\nthreshold: 1\nchecks: {contains: please}\n", "line 3: checks: it must be a list of at least one"),
    ],
)
def test_files_that_are_no_suite(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_suite(str(file))
    assert said in str(error.value)
    assert str(error.value).startswith(str(file))
    assert len(str(error.value)) < 700


def test_published_suites_load_with_their_cases():
    assert len(published_suites()) >= 11
    for suite in find_suites(",".join(published_suites())):
        if suite.cases is not None:
            assert prepare(suite).cases


def test_a_group_a_file_and_a_list(suite_of):
    names = ["pdca_schema", "pdca_template", "tron_format", "empty_constructor", "tool_success", "refusal"]
    assert [suite.name for suite in find_suites("coder")] == names
    own = suite_of({"id": "a", "prompt": "b"})
    found = find_suites(f"refusal, coder,{own.file}")
    assert [suite.name for suite in found] == ["refusal", *[name for name in names if name != "refusal"], "mine"]


def test_names_that_are_wrong(suite_of, tmp_path):
    with pytest.raises(UserError, match=r"there is no such suite; the nearest is 'pdca_schema', all are .*coder"):
        find_suites("pdca_shema")
    with pytest.raises(UserError, match="there is no such suite file"):
        find_suites(str(tmp_path / "absent.yaml"))
    with pytest.raises(UserError, match="coder: this is a group, and one suite is needed here: one of pdca_schema,"):
        load_suite("coder")
    own = suite_of({"id": "a", "prompt": "b"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.yaml").write_text("name: mine\nthreshold: 1\nchecks: [degeneration]\n")
    with pytest.raises(UserError, match="has the name mine too; rename one"):
        find_suites(f"{own.file},{tmp_path / 'other' / 'mine.yaml'}")


def test_the_hash_is_of_what_decides_a_score(suite, tmp_path):
    first = suite().suite.sha256()
    moved = tmp_path / "elsewhere.yaml"
    moved.write_text("# a comment\n" + (tmp_path / "mine.yaml").read_text())
    assert load_suite(str(moved)).sha256() == first
    for change in (("0.9", "0.8"), ("^OK", "^NO"), ("Be kind.", "Be brief."), ("profile: seed", "profile: relaxed")):
        assert suite(change).suite.sha256() != first


def test_every_metric_of_a_threshold_is_of_a_check():
    assert set(METRICS) <= set(SCORERS)


def test_a_check_comes_before_the_suite_and_the_user_before_both(suite_of, tmp_path):
    document = tmp_path / "a.md"
    document.write_text("# Plan\nx\n# Do\nx\n# Check\nx\n# Act\nx\n")
    wide, strict = {"sections": {"profile": "relaxed"}}, {"sections": {}}
    case = {"id": "a", "prompt": "b"}
    passes = [
        (suite_of(case, profile="seed", checks=[wide]), None, 1),
        (suite_of(case, name="b", profile="seed", checks=[strict]), None, 0),
        (suite_of(case, name="c", profile="relaxed", checks=[strict]), None, 1),
        (suite_of(case, name="d", profile="relaxed", checks=[wide]), "seed", 0),
    ]
    for found, profile, passed in passes:
        assert check_documents([document], str(found.file), profile)["passed"] == passed, found.name
        assert found.name == "d" or score_text(
            prepare(found).scorers, prepare(found).cases[0], document.read_text()
        ).passed == bool(passed)


def test_suites_checks_and_keys_are_documented():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in published_suites() if f"\n| {name} |" not in text] == []
    assert [name for name in SCORERS if f"`{name}`" not in text] == []
    assert [key for key in KEYS - {"name", "description"} if f"`{key}`" not in text] == []
    rows = {
        name: line for line in text.splitlines() for name in METRICS if line.startswith("|") and f"`{name}`" in line
    }
    gate1 = {"mean_coherence", "balanced_coherence", "valid_rate", "pattern_accuracy", "diversity"}
    missing = [(n, m) for n, metrics in METRICS.items() for m in metrics - gate1 if n != "claims" and m not in rows[n]]
    assert missing == []
