"""Retrieval is judged like a model: recall, and a suite's answers with and without context, in the table of compare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from completions_server import completions_server
from embedders import HashedWords
from small_index import PDCAS

from mlx_lora.cli.output import progress
from mlx_lora.errors import UserError
from mlx_lora.evaluation.cases import Case, read_cases
from mlx_lora.evaluation.runner import prepare
from mlx_lora.evaluation.suite import load_suite
from mlx_lora.evaluation.targets.opening import open_target
from mlx_lora.evaluation.views.report_tables import comparison_tables
from mlx_lora.retrieval.index import Index
from mlx_lora.retrieval.judging import judge_retrieval, recall_line, recalled, relevant_documents
from mlx_lora.retrieval.tool_prompts import build_tool_prompt

pytest.importorskip("httpx", reason="the package httpx is not installed: pip install '.[servers]'")
HERE = Path(__file__).parent
ZOMBIES, COLOURS = PDCAS
ROWS = [
    {"id": "z", "prompt": "How many zombie processes?", "expect": "530", "metadata": {"documents": [ZOMBIES]}},
    {"id": "c", "prompt": "How many files had colours?", "expect": "31", "metadata": {"document": COLOURS}},
    {"id": "n", "prompt": "Say zombie and colours", "expect": "zombie"},
]


def from_context(messages):
    """A model that knows what its sources say, and repeats the question where it has none."""
    text = messages[-1]["content"]
    return " ".join(re.findall(r"\d\d+ (?:zombie|files)", text)) or text


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    content = {"name": "facts", "threshold": 0.5, "cases": {"file": "cases.jsonl"}, "checks": [{"contains": {}}]}
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "facts.yaml"


@pytest.fixture
def found(index, suite):
    with completions_server() as state:
        state.answers = from_context
        target = open_target(f"{state.url}/v1#tiny")
        yield judge_retrieval(target, index, [prepare(load_suite(str(suite)))], k=2, progress=progress)


def test_with_and_without_context_in_pairs(found):
    facts, recall = found["suites"]
    assert (facts["suite"], facts["n"], facts["wins"], facts["losses"]) == ("facts", 3, 2, 0)
    assert (recall["suite"], recall["n"]) == ("recall@2, hybrid against text", 2)
    assert found["pooled"]["n"] == 3
    assert found["candidate"] == found["reference"] + " with context"
    assert [target["suites"][0]["passed"] for target in found["targets"]] == [1, 3]
    (_, _, sides), (_, _, differences) = comparison_tables(found)
    assert sides[0][:1] == ("facts",)
    assert [row[0] for row in differences] == ["facts", "recall@2, hybrid against text", "pooled"]


def test_recall_by_mode(found):
    assert found["recall"] == {"k": 2, "cases": 2, "hybrid": 1.0, "vector": 1.0, "text": 1.0}
    assert recall_line(found) == "recall@2 on 2 cases: hybrid 100.0 %, vector 100.0 %, text 100.0 %"
    assert "no case names its documents" in recall_line({"recall": {"k": 5, "cases": 0}})


def test_a_document_that_is_not_found_is_not_recalled(index):
    case = Case("x", [{"role": "user", "content": "zombie processes"}], meta={"documents": [ZOMBIES, "other.md"]})
    assert not recalled(index, case)
    case.meta["documents"] = [ZOMBIES]
    assert recalled(index, case)


@pytest.mark.parametrize("documents", [1, [1], [""], {"a": 1}])
def test_documents_are_names(documents):
    with pytest.raises(UserError, match="documents is a list of file names"):
        relevant_documents(Case("x", [], meta={"documents": documents}))


def test_a_target_that_answers_nothing_is_an_error(index, suite):
    with completions_server() as state:
        target = open_target(f"{state.url}/v1#tiny")
        state.faults[""] = "odd"
        with pytest.raises(UserError, match="none of the cases of facts was answered"):
            judge_retrieval(target, index, [prepare(load_suite(str(suite)))], progress=progress)


@pytest.mark.slow
def test_the_shared_pdca_documents(realdata, tmp_path):
    """Recall on 40 questions, one a document, written before any search; a model that repeats its context."""
    suite = load_suite(str(HERE / "pdca_history.yaml"))
    with Index.open(tmp_path / "index") as index, completions_server() as state:
        index.add([realdata / "pdca"])
        state.answers = lambda messages: messages[-1]["content"].rpartition("Question: ")[0]
        target = open_target(f"{state.url}/v1#tiny")
        found = judge_retrieval(target, index, [prepare(suite)], progress=progress)
    assert found["verdict"] == "better"
    assert found["recall"]["cases"] == 40
    assert found["recall"]["hybrid"] >= 0.95
    with_context = found["targets"][1]["suites"][0]
    assert with_context["pass_rate"] >= 0.95


@pytest.mark.slow
def test_tool_examples_of_the_real_files(realdata, tmp_path):
    """Recall of calls: what is asked for is shown first, and none of the 400 unwanted calls ever is."""
    files = [realdata / "instructions" / f"{name}.jsonl" for name in ("tool_core", "tool_neg")]
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        index.add(files, "tool_examples")
        prompt = build_tool_prompt(index, "Open the package.json file", "continue")
        assert [each.request for each in prompt.examples] == ["Open the package.json file"]
        assert "file.txt" not in prompt.text


def test_the_written_questions_name_one_document_each(realdata):
    cases = read_cases(HERE / "pdca_questions.jsonl")
    named = [name for case in cases for name in relevant_documents(case)]
    assert sorted(named) == sorted(file.name for file in (realdata / "pdca").iterdir())
