"""What is supervised in conversations that other ways of finding answers get wrong, each with the right value."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_lora.data.checks import CHECKS, check_table, read_table
from mlx_lora.data.checks.cleaning import write_fixed
from mlx_lora.data.dataset import Example, Span
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.models.tokenizer import load_tokenizer
from mlx_lora.training.dry_run import marked

TINY = BUILT_IN["builtin/tiny-lumen"]
SYSTEM = {"role": "system", "content": "Answer in one sentence."}
ASK = {"role": "user", "content": "Is it day?"}
DAY = {"role": "assistant", "content": "Yes, the sun is up there."}
AGAIN = {"role": "user", "content": "And at night?"}
NIGHT = {"role": "assistant", "content": "Then the moon is up there."}
HEADER = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
# Mistral's way: the system prompt stands in the user turn that is last, of all turns or of the user's.
LAST_TURN = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rules = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% set asked = turns | selectattr('role', 'equalto', 'user') | list %}{% for turn in turns %}"
    "{% if turn.role == 'user' %}{% if CONDITION and rules is defined %}"
    "{{ '[ASK] ' + rules + '\n\n' + turn.content + '[/ASK]' }}"
    "{% else %}{{ '[ASK] ' + turn.content + '[/ASK]' }}{% endif %}"
    "{% else %}{{ ' ' + turn.content + eos_token }}{% endif %}{% endfor %}"
)
NO_END = (
    "{{ bos_token }}{% for turn in messages %}{{ turn.role + ': ' + turn.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
WITH_TOOLS = (
    "{{ bos_token }}{% if tools %}{{ '<|start_header_id|>system<|end_header_id|>\n\n# Tools\n' }}"
    "{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{{ '<|eot_id|>' }}{% endif %}"
    "{% for m in messages %}" + HEADER + "{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    '{{ \'<call>{"name": "\' + call.function.name + \'", "arguments": \' }}{{ call.function.arguments | tojson }}'
    "{{ '}</call>' }}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}" + PROMPT
)


@pytest.fixture
def tiny():
    return load_tokenizer("builtin/tiny-lumen")


@pytest.fixture
def make_base(tmp_path):
    """Make a base: the built-in one with another template."""

    def make(template: str):
        base = tmp_path / "base"
        shutil.copytree(TINY, base)
        settings = json.loads((base / "tokenizer_config.json").read_text())
        settings["chat_template"] = template
        (base / "tokenizer_config.json").write_text(json.dumps(settings))
        return base

    return make


def dataset(directory, *rows):
    directory.mkdir()
    lines = [json.dumps(row if isinstance(row, dict) else {"messages": row}) + "\n" for row in rows]
    (directory / "train.jsonl").write_text("".join(lines))
    return directory


def learned(tokenizer, messages, **others) -> list[str]:
    """The supervised texts of a conversation, without the white space around them."""
    encoded = encode_example(tokenizer, Example(messages, **others), 10**9)

    backend = SimpleNamespace(tokenizer=tokenizer)
    return [part.split("⟧")[0].strip() for part in marked(backend, encoded).split("⟦")[1:]]


def findings(directory, tokenizer, max_seq_length=512):
    table = read_table([directory])
    table.tokenizer, table.max_seq_length = tokenizer, max_seq_length
    return {finding.check: finding for finding in check_table(table)}


@pytest.mark.parametrize("condition", ["loop.last", "turn is sameas asked[-1]"])
def test_a_system_prompt_in_the_last_turn(tiny, tmp_path, condition):
    """Case system-in-last-turn."""
    tiny.chat_template = LAST_TURN.replace("CONDITION", condition)
    rows = [[SYSTEM, ASK, DAY], [SYSTEM, ASK, DAY, AGAIN, NIGHT]]
    ends = [answer["content"] + "<|eot_id|>" for answer in (DAY, NIGHT)]
    assert learned(tiny, rows[0]) == ends[:1]
    assert learned(tiny, rows[1]) == ends
    said = findings(dataset(tmp_path / "data", *rows), tiny)["serving_differs"].examples
    if condition == "loop.last":  # the system prompt is served, and never trained with
        assert "line 1: served with …'Answer in one sentence." in said[0]
    assert "line 2: answer 1 of 2: served with …'Answer in" in said[-1]


def test_an_assistant_that_speaks_first(tiny, tmp_path):
    """Case assistant-speaks-first."""
    tiny.chat_template = (
        "{{ bos_token }}{% if not messages | selectattr('role', 'equalto', 'user') | list %}{{ "
        "raise_exception('there is no question in this conversation') }}{% endif %}{% for m in messages %}"
        + HEADER
        + "{{ m.content + '<|eot_id|>' }}{% endfor %}"
        + PROMPT
    )
    row = [SYSTEM, {"role": "assistant", "content": "Welcome to the house."}, ASK, DAY]
    assert learned(tiny, row) == ["Welcome to the house.<|eot_id|>", "Yes, the sun is up there.<|eot_id|>"]
    assert set(findings(dataset(tmp_path / "data", row), tiny)) == {"no_validation_rows"}


@pytest.mark.slow
def test_a_cleaned_copy_does_not_promise_what_it_cannot_repair(make_base, tmp_path, command, refused):
    """Case fix-keeps-what-stops-training."""
    rows = [
        [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"it is {n}."}] for n in range(3)
    ]
    data, base, fixed = dataset(tmp_path / "data", *rows), make_base(NO_END), tmp_path / "fixed"
    done = command("data", "check", data, "--base", base, "--fix", fixed)
    assert done.returncode == 1
    assert "no_end_of_turn stays, and stops training: --fix does not help" in done.stdout
    report = json.loads(command("data", "check", data, "--base", base, "--fix", tmp_path / "two", "--json").stdout)
    assert report["fixed"]["remaining"] == ["no_end_of_turn"]
    said = refused("train", "--data", fixed, "--out", tmp_path / "run", "--set", f"model_name={base}")
    assert "--fix does not help with no_end_of_turn, since the model's chat template ends no turn" in said
    assert "--fix writes" not in said


def test_every_error_is_repaired_by_a_cleaned_copy_or_said_not_to_be(tiny, tmp_path):
    asked = iter(range(1000))

    def row(answer="It is what it is.", question=None, **meta):
        question = question or f"Is it {next(asked)}?"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": turns, "meta": meta}

    tiny.chat_template = (
        "{% if messages[0].content == 'no' %}{{ raise_exception('no') }}{% endif %}" + tiny.chat_template
    )
    held_out = [row(), row()]
    wrong = [
        *(row("", question="Nothing?"), row(never_train=True), row(is_eval=True), row(is_negative_example=True)),
        *(row("Never so.", question="Both?", task_type="tool_neg"), row("Always so.", question="Both?")),
        *(held_out[0], row("Another.", question=held_out[1]["messages"][0]["content"])),
        *(row("The key is sk-ant-api03-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4"), row("word " * 200)),
        *(row("So it is.", question="Equal?", task_type="tool_neg"), row("So it is.", question="Equal?")),
        row("It ends here <|eot_id|> or not.", question="Ends?"),
        *(row(question="no"), {"messages": []}, *[row(question="Again?")] * 130),
    ]
    data = dataset(tmp_path / "data", row(), *wrong)
    (data / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held_out))
    table = read_table([data])
    table.tokenizer, table.max_seq_length = tiny, 64
    found = check_table(table)
    errors = {check.name: check for check in CHECKS if check.severity == "error"}
    unfixable = {name for name, check in errors.items() if check.unfixable}
    assert unfixable == {"no_end_of_turn", "bucket_counts"}
    assert {finding.check for finding in found if finding.severity == "error"} == set(errors) - unfixable
    write_fixed(tmp_path / "fixed", table, found)
    left = findings(tmp_path / "fixed", tiny, 64).values()
    assert [finding.check for finding in left if finding.severity == "error"] == []


def test_an_empty_earlier_answer_is_named_and_left_out(tiny, tmp_path, command):
    empty = [ASK, {"role": "assistant", "content": " "}, AGAIN, NIGHT]
    data = dataset(tmp_path / "data", empty, [ASK, DAY])
    found = findings(data, tiny)
    assert found["empty_answer"].examples == [
        f"{data}/train.jsonl, line 1: the assistant's answer is empty; fill it in or remove the row"
    ]
    assert "template_refuses" not in found
    assert command("data", "check", data, "--fix", tmp_path / "fixed").returncode == 1
    assert command("data", "check", tmp_path / "fixed").returncode == 0
    assert len((tmp_path / "fixed" / "train.jsonl").read_text().splitlines()) == 1
    with pytest.raises(UserError, match="answer in message 2 is empty"):
        encode_example(tiny, Example(empty), 512)


def test_a_message_of_weight_0_is_context(tiny):
    """Case weight-of-a-message."""
    row = [ASK, {"role": "assistant", "content": "BAD ANSWER HERE", "weight": 0}, AGAIN, {**NIGHT, "weight": 1}]
    assert learned(tiny, row) == ["Then the moon is up there.<|eot_id|>"]
    encoded = encode_example(tiny, Example(row), 512, train_on_prompt=True)
    assert "BAD" not in tiny.decode(encoded.ids[encoded.supervised])
    assert "night" in tiny.decode(encoded.ids[encoded.supervised])
    with pytest.raises(UserError, match="every answer of this example has the weight 0"):
        encode_example(tiny, Example(row[:2]), 512)


def test_a_message_weight_multiplies_its_tokens_and_its_spans(tiny):
    row = [ASK, {**DAY, "weight": 0.5}, AGAIN, {**NIGHT, "weight": 3}]
    encoded = encode_example(tiny, Example(row), 512)
    first, second = np.split(np.flatnonzero(encoded.supervised), [len(tiny.encode(DAY["content"] + "<|eot_id|>"))])
    assert set(encoded.token_weights[first]) == {0.5}
    assert set(encoded.token_weights[second]) == {3.0}
    spanned = encode_example(tiny, Example(row, spans=[Span(3, 9, 13, 5.0)]), 512)
    by_span = spanned.token_weights / encoded.token_weights
    assert tiny.decode(encoded.ids[by_span > 2]).strip() == "moon"
    assert by_span[spanned.supervised].mean() == pytest.approx(1, abs=1e-5)


def test_tools_and_their_calls(tiny, tmp_path):
    tiny.chat_template = WITH_TOOLS
    function = {"name": "get_light", "description": "Read the lamp", "parameters": {"type": "object"}}
    call = {"id": "c1", "type": "function", "function": {"name": "get_light", "arguments": {"room": "hall"}}}
    row = [
        {"role": "user", "content": "How bright is the hall?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "get_light", "content": "40"},
        {"role": "assistant", "content": "The hall is at 40."},
    ]
    encoded = encode_example(tiny, Example(row, tools=[{"type": "function", "function": function}]), 10**9)
    text = tiny.decode(encoded.ids)
    assert "# Tools\n" in text
    assert "Read the lamp" in text
    texts = learned(tiny, row, tools=[{"type": "function", "function": function}])
    assert texts == [
        '<call>{"name": "get_light", "arguments": {"room": "hall"}}</call><|eot_id|>',
        "The hall is at 40.<|eot_id|>",
    ]


def test_arguments_as_a_json_string(tiny):
    tiny.chat_template = WITH_TOOLS.replace("call.function.arguments | tojson", "call.function.arguments")
    calls = [{"function": {"name": name, "arguments": '{"room": "hall"}'}} for name in ("get_light", "get_heat")]
    said = learned(tiny, [ASK, {"role": "assistant", "content": "Well.", "tool_calls": calls}])
    call = '<call>{"name": "get_%s", "arguments": {"room": "hall"}}</call>'
    assert said == ["Well." + call % "light" + call % "heat" + "<|eot_id|>"]


@pytest.mark.parametrize(
    "block",
    [
        "{% generation %}{{ m.content + '<|eot_id|>' }}{% endgeneration %}",
        "{%- generation -%}\n   {{ m.content + '<|eot_id|>' }}\n{%- endgeneration -%}",
        "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|eot_id|>' }}",  # without the end token
        "{% generation %}{{ m.content + '<|eot_id|>\n' }}{% endgeneration %}",  # with what follows it
    ],
)
def test_generation_marks(tiny, block):
    tiny.chat_template = (
        "{% for m in messages %}" + HEADER + "{% if m.role == 'assistant' %}" + block + "{% else %}{{ m.content + "
        "'<|eot_id|>' }}{% endif %}{% endfor %}" + PROMPT
    )
    ends = [answer["content"] + "<|eot_id|>" for answer in (DAY, NIGHT)]
    assert learned(tiny, [SYSTEM, ASK, DAY, AGAIN, NIGHT]) == ends


def test_generation_marks_may_leave_out_thoughts(tiny):
    tiny.chat_template = (
        "{% for m in messages %}" + HEADER + "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + "
        "'</think>' }}{% endif %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|eot_id|>' }}"
        "{% endgeneration %}{% else %}{{ m.content + '<|eot_id|>' }}{% endif %}{% endfor %}" + PROMPT
    )
    assert learned(tiny, [ASK, {**DAY, "reasoning_content": "It is noon."}]) == [DAY["content"] + "<|eot_id|>"]


def test_answers_without_generation_marks_are_counted(tiny):
    tiny.chat_template = (
        "{% for m in messages %}" + HEADER + "{% if loop.last %}{% generation %}{{ m.content + '<|eot_id|>' }}"
        "{% endgeneration %}{% else %}{{ m.content + '<|eot_id|>' }}{% endif %}{% endfor %}" + PROMPT
    )
    encoded = encode_example(tiny, Example([ASK, DAY, AGAIN, NIGHT]), 512)
    assert tiny.decode(encoded.ids[encoded.supervised]) == NIGHT["content"] + "<|eot_id|>"
    assert encoded.dropped == {"generation marks": 1}


def test_generation_marks_on_a_prompt_are_refused(tiny):
    tiny.chat_template = (
        "{% for m in messages %}" + HEADER + "{% generation %}{{ m.content + '<|eot_id|>' }}{% endgeneration %}"
        "{% endfor %}" + PROMPT
    )
    with pytest.raises(UserError, match="marks a prompt as generated"):
        encode_example(tiny, Example([ASK, DAY]), 512)


def test_what_the_template_leaves_out_is_counted(tiny, tmp_path):
    tiny.chat_template = (
        "{% for m in messages %}" + HEADER + "{{ (m.content if loop.last else m.content.split('</think>')[-1]) + "
        "'<|eot_id|>' }}{% endfor %}" + PROMPT
    )
    thinking = [{**m, "content": f"<think>So it is.</think>{m['content']}"} for m in (DAY, NIGHT)]
    row = [ASK, thinking[0], AGAIN, thinking[1]]
    assert learned(tiny, row) == [DAY["content"] + "<|eot_id|>", thinking[1]["content"] + "<|eot_id|>"]
    assert encode_example(tiny, Example(row), 512).dropped == {"thoughts": 1}
    said = findings(dataset(tmp_path / "data", row), tiny)["dropped_text"]
    assert said.severity == "warning"
    assert said.examples[0].endswith("line 1: the template leaves out the thoughts of message 2")


def test_an_answer_that_the_template_leaves_out_is_refused(tiny):
    tiny.chat_template = (
        "{% for m in messages if m.role == 'user' or m is sameas messages[-1] %}"
        + HEADER
        + ("{{ m.content + '<|eot_id|>' }}{% endfor %}" + PROMPT)
    )
    with pytest.raises(UserError, match="leaves out the assistant's answer in message 2"):
        encode_example(tiny, Example([ASK, DAY, AGAIN, NIGHT]), 512)


def test_texts_that_cannot_be_followed_are_refused(tiny):
    tiny.chat_template = "{% for m in messages %}" + HEADER + "{{ m.content | upper }}<|eot_id|>{% endfor %}" + PROMPT
    with pytest.raises(UserError, match="changes this conversation's texts in a way that cannot be followed"):
        encode_example(tiny, Example([ASK, DAY]), 512)


def test_prompts_that_the_template_changes_do_not_matter(tiny):
    tiny.chat_template = (
        "{% for m in messages %}" + HEADER + "{{ m.content | upper if m.role == 'user' else m.content }}<|eot_id|>"
        "{% endfor %}" + PROMPT
    )
    assert learned(tiny, [SYSTEM, ASK, DAY]) == [DAY["content"] + "<|eot_id|>"]


def test_the_longest_prompts_are_truncated_and_no_answer(tiny, tmp_path):
    long = {"role": "user", "content": "begin " + "word " * 120 + "end"}
    longer = {"role": "user", "content": "start " + "word " * 200 + "stop"}
    row = [SYSTEM, ASK, DAY, long, NIGHT, longer, DAY, AGAIN]
    whole, cut = (encode_example(tiny, Example(row), size) for size in (10**9, 220))
    text = tiny.decode(cut.ids)
    assert len(cut) == 220
    assert cut.truncated == len(whole) - 220
    assert tiny.decode(cut.ids[cut.supervised]) == tiny.decode(whole.ids[whole.supervised])
    for kept in (SYSTEM["content"], ASK["content"], "begin word", "word end", "start word", "word stop"):
        assert kept in text
    assert AGAIN["content"] not in text  # nothing is learned from what follows the last answer
    # What two long turns keep is equal but for a token.
    words = [len(part.split(" word")) for part in (text.split("begin")[1].split("end")[0], text.split("start")[1])]
    assert abs(words[0] - words[1]) <= 2
    said = findings(dataset(tmp_path / "data", row), tiny, 220)["too_long"].examples[0]
    assert f"{len(whole)} tokens; the prompt loses {cut.truncated} of them" in said


def test_an_answer_of_weight_0_is_cut_before_a_row_is_refused(tiny):
    bad = {"role": "assistant", "content": "bad " * 100, "weight": 0}
    cut = encode_example(tiny, Example([ASK, bad, AGAIN, NIGHT]), 64)
    assert len(cut) == 64
    assert tiny.decode(cut.ids[cut.supervised]) == NIGHT["content"] + "<|eot_id|>"
    with pytest.raises(UserError, match=r"the 2 answers take \d+ tokens and max_seq_length is 64"):
        encode_example(tiny, Example([ASK, {**bad, "weight": 1}, AGAIN, NIGHT]), 64)
