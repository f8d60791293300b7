"""Wrong checks and cases: one sentence with the place, before any answer is asked for."""

import sys
from pathlib import Path

import pytest

from mlx_lora.errors import UserError
from mlx_lora.evaluation.scorers import SCORERS, SUMMARIES, CheckSpec, make_scorer


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("contain", "x", "there is no check 'contain'; the nearest is 'contains'"),
        (7, "x", "there is no check 7; the nearest is"),
        ("contains", {"text": "x"}, "contains has no option 'text'; the nearest is 'texts'"),
        ("contains", "", "contains: texts must be a text or a list of texts, none empty, not ''"),
        ("contains_all", [], "contains_all: texts must be a text or a list"),
        ("contains", ["a", 3], "contains: texts must be a text or a list"),
        ("contains", {"texts": "x", "case_sensitive": "no"}, "case_sensitive must be true or false, not 'no'"),
        ("regex", "(", "'(' is not a regular expression (missing )"),
        ("regex", None, "regex needs a pattern"),
        ("regex", {"pattern": "x", "time_limit": 0}, "time_limit must be a number of seconds above 0, not 0"),
        ("sections", {"profile": "template_v4"}, "sections has no profile 'template_v4'; the nearest is 'template_v3'"),
        ("sections", ["##"], "all has a name without a word"),
        ("json_schema", None, "json_schema needs a schema, or the file of one"),
        ("json_schema", "missing.json", "missing.json cannot be read"),
        ("json_schema", {"schema": {"type": "strin"}}, "this is not a JSON Schema"),
        ("json_schema", {"schema": {"$ref": "http://localhost:1/x"}}, "this JSON Schema cannot be used"),
        ("tool_call", {"parameters": {}}, "needs the name of their tool"),
        ("refusal", {"marker": "x"}, "refusal has no option 'marker'; the nearest is 'markers'"),
        ("code", {"language": "rust"}, "code knows no language 'rust'"),
        ("code", {"rule": "empty_constuctor"}, "the nearest is 'empty_constructor'"),
        ("code", {"language": "python", "rule": "empty_constructor"}, "is for typescript, not for python"),
        ("expression_coherence", 3, "above must be a number from 0 to 1, not 3"),
        ("claims", {"schem": 1}, "claims has no option 'schem'; the nearest is 'schema'"),
        ("claims", {"nli": "/no/such/model"}, ""),
        ("degeneration", "loops", "degeneration has no check 'loops'"),
        ("identity", "Sprout", "identity is written a mapping (name, role, tags), not 'Sprout'"),
        ("command", None, "command needs run"),
        ("command", "no-such-program-here {}", "no-such-program-here: there is no such program"),
        ("command", "./missing", "./missing: there is no such program"),
        ("command", "'unclosed", "is no command"),
        ("command", {"run": "true", "suffix": "/x"}, "suffix is the ending of a file"),
        ("python", "os:getcwd", "python is written FILE.py:function, not 'os:getcwd'"),
        ("python", {"run": "x.py:f"}, "python is written FILE.py:function"),
        ("python", "missing.py:f", "there is no file"),
        ("python", "broken.py:f", "broken.py cannot be loaded ("),
        ("python", "empty.py:f", "empty.py has no function 'f'"),
    ],
)
def test_a_wrong_check(tmp_path, name, options, said):
    if not said:
        pytest.importorskip("torch")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError) as error:
        make_scorer(CheckSpec(name, options, "suite.yaml:12"), None, tmp_path)
    assert str(error.value).startswith("suite.yaml:12: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_profile_of_the_user():
    with pytest.raises(UserError, match=r"^s:1: sections has no profile 'v3'"):
        make_scorer(CheckSpec("sections", None, "s:1"), "v3", Path())


@pytest.mark.parametrize(
    ("check", "case", "said"),
    [
        ("contains", {}, "has no text in expect"),
        ("not_contains", {"expect": {"x": 1}}, "has no text in expect"),
        ("tool_call", {"expect": 3}, "has 3 in expect, and tool_call needs"),
        ("refusal", {"tags": ["refuse", "comply"]}, "needs one of the tags refuse and comply"),
        ("expression_coherence", {"tags": ["x"]}, "has None as its shape"),
        ("claims", {}, "has no text in expect"),
        ("identity", {}, "has no name or role"),
        ("identity", {"expect": {"name": 3}}, "has 3 as name"),
    ],
)
def test_a_case_that_a_check_cannot_judge(judge, check, case, said):
    with pytest.raises(UserError, match=r"^suite.yaml:7: case 'c1' ") as error:
        judge({check: None}, "x", **case)
    assert said in str(error.value)


def test_a_missing_parser(monkeypatch):
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    with pytest.raises(UserError, match=r"needs tree_sitter; install it with `pip install 'mlx-lora\[code\]'`"):
        make_scorer(CheckSpec("code", None, "s:1"), None, Path())


def test_the_docs_name_every_check():
    docs = Path(__file__).parents[3] / "docs" / "evaluation.md"
    table = docs.read_text(encoding="utf-8").partition("\n## Checks\n")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name.strip(" `") for row in rows for name in row.split("|")[1].split(",")}
    assert named == set(SCORERS)
    assert set(SUMMARIES) < set(SCORERS)
