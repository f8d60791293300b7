"""Tool-aware prompts: the right tools and examples, none that is unwanted, within 300 tokens."""

from __future__ import annotations

import json

import pytest
from embedders import HashedWords
from small_index import EXAMPLES, example

from mlx_lora.errors import UserError
from mlx_lora.evaluation.scorers.answer_text import json_values
from mlx_lora.evaluation.scorers.tool_call import read_calls
from mlx_lora.retrieval.ecosystems import ECOSYSTEMS
from mlx_lora.retrieval.index import Index
from mlx_lora.retrieval.tool_prompts import MOST_TOKENS, PREFIX, add_tools, build_tool_prompt, estimate_tokens

REQUEST = "Read the Button.tsx file"


def test_the_prompt_names_the_tools_and_shows_calls(index):
    prompt = build_tool_prompt(index, REQUEST, "continue")
    assert prompt.text.startswith(f"{PREFIX}: read_file(path), ")
    assert "single_find_and_replace(file_path, find, replace)" in prompt.text
    assert prompt.examples[0].request == "Read the Card.tsx file"
    assert len(prompt.examples) == 2
    shown = [read_calls(value) for value in json_values(prompt.text.split("Example\n", 1)[1])]
    assert [("read_file", {"path": "src/Card.tsx"})] in shown


def test_unwanted_calls_and_copies_are_left_out(index):
    prompt = build_tool_prompt(index, REQUEST, "continue", n=3)
    assert "wrong-" not in prompt.text
    assert len({each.request for each in prompt.examples}) == len(prompt.examples) == 3


@pytest.mark.parametrize(
    ("ecosystem", "call"),
    [
        ("continue", '{"name": "read_file", "parameters": {"path": "src/Card.tsx"}}'),
        ("cursor", '{"name": "read_file", "parameters": {"target_file": "Modal.tsx"}}'),
        ("copilot", '{"name": "read_file", "parameters": {"filePath": "Input.tsx"}}'),
        ("web4_custom", '{"name": "load_unit", "parameters": {"name": "Once", "version": "0.3.0"}}'),
    ],
)
def test_examples_are_of_their_ecosystem(index, ecosystem, call):
    prompt = build_tool_prompt(index, REQUEST, ecosystem)
    assert prompt.examples[0].calls == (call,)
    others = [name for name in ECOSYSTEMS if name != ecosystem]
    tools = {name for each in prompt.examples for name in each.tools}
    assert tools <= {*ECOSYSTEMS[ecosystem].tools, "load_unit"}
    for name in others:
        rows = [row["instruction"] for row in EXAMPLES if row.get("ecosystem") == name]
        assert not set(rows) & {each.request for each in prompt.examples}


def test_the_tools_of_a_custom_ecosystem_are_those_of_its_examples(index):
    assert "load_unit(name, version)" in build_tool_prompt(index, REQUEST, "web4_custom").text
    assert build_tool_prompt(None, REQUEST, "web4_custom").text.startswith(f"{PREFIX}: none is known")


def test_a_long_value_is_shortened(index):
    prompt = build_tool_prompt(index, "Create a long file.txt of many words", "continue", n=1)
    assert "many words many words" in prompt.text
    assert prompt.text.count("many words") < 8


def test_an_example_that_would_exceed_the_budget_is_left_out(index):
    bare = build_tool_prompt(None, REQUEST, "continue")
    prompt = build_tool_prompt(index, REQUEST, "continue", count=lambda text: MOST_TOKENS + text.count("Example\n") - 1)
    assert len(prompt.examples) == 1
    none = build_tool_prompt(index, REQUEST, "continue", count=lambda text: MOST_TOKENS + text.count("Example\n"))
    assert none.text == bare.text


def test_far_more_unwanted_examples_than_wanted_ones(tmp_path):
    """The real files hold 400 unwanted calls and 700 copies of three rows."""
    rows = [
        example("Open the package.json file", "create_new_file", {"path": str(n)}, is_negative=True) for n in range(90)
    ]
    rows.append(example("Open the other file", "read_file", {"path": "b.json"}))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        index.add([file], "tool_examples")
        prompt = build_tool_prompt(index, "Open the package.json file", "continue")
    assert [each.request for each in prompt.examples] == ["Open the other file"]


def test_only_requests_that_need_a_tool_get_one(index):
    question = [{"role": "user", "content": "What is a closure?"}]
    assert add_tools(index, question, "continue") == (question, None)
    system = {"role": "system", "content": "Be brief."}
    messages, prompt = add_tools(index, [system, {"role": "user", "content": REQUEST}], "continue")
    assert messages == [system, {"role": "user", "content": f"{prompt.text}\n\n{REQUEST}"}]


def test_an_unknown_ecosystem_is_refused(index):
    with pytest.raises(
        UserError, match="'cursr': there is no such ecosystem; the nearest is 'cursor', all are continue"
    ):
        build_tool_prompt(index, REQUEST, "cursr")


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["llama3", "qwen2-from-gguf"])
@pytest.mark.parametrize("ecosystem", ECOSYSTEMS)
def test_300_tokens_of_real_tokenizers(index, realdata, tokenizer, ecosystem):
    from tokenizers import Tokenizer

    count = Tokenizer.from_file(str(realdata / "tokenizers" / tokenizer / "tokenizer.json"))
    for request in (REQUEST, "Create a long file.txt", "Run the test suite"):
        prompt = build_tool_prompt(index, request, ecosystem, n=3)
        real = len(count.encode(prompt.text, add_special_tokens=False).ids)
        assert real <= prompt.tokens == estimate_tokens(prompt.text) <= MOST_TOKENS
