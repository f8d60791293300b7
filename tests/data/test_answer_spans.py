"""Which tokens are supervised, with eleven published templates and generated conversations.

The oracle knows nothing of spans: prompts are written in Greek, every text of an answer is unique, and what is
supervised must be the answers' texts in order, each answer closed by the template's end-of-turn token, with nothing
between them that is Greek, said twice, or part of a header.
"""

from __future__ import annotations

import json
import random
import re

import pytest

from mlx_lora.data.dataset import Example
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer

# The end-of-turn token of each family of templates, and what begins a turn.
ENDS = {"Qwen": "<|im_end|>", "google": "<end_of_turn>", "meta": "<|eot_id|>", "microsoft": "<|end|>"}
HEADERS = ("<|im_start|>", "<start_of_turn>", "<|start_header_id|>", "<|assistant|>", "<|user|>", "[INST]", "[/INST]")
TEMPLATES = [
    "Qwen-QwQ-32B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "Qwen3.5-4B",
    "google-gemma-2-2b-it",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "ἀνάγνωθι",
            "description": "φῶς",
            "parameters": {"type": "object", "properties": {"τόπος": {"type": "string"}}, "required": ["τόπος"]},
        },
    }
]
GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")
ODD = (
    *(
        "<b>",
        "<|im_end|>",
        "</s>",
        "<|eot_id|>",
        "Qz0z",
        "Qz",
        "[/INST]",
        "</tool_call>",
        "é😀",
        "  two  spaces",
        '"q"',
    ),
    *("\\n", "a\n\nb", "{}", "<end_of_turn>", "<|end|>", "{{ x }}", "{% raw %}", "\u2028", "'", "<|im_start|>user\n"),
)
GREEK_ODD = (
    *("<think>", "</think>", "<tool_response>", "<|im_start|>assistant\n", "<|assistant|>\n", "Qz0z", "[/INST]", "{}"),
    *("<|start_header_id|>assistant<|end_header_id|>\n\n", "<start_of_turn>model\n", "<|im_end|>\n", "1", '"', "\n\n"),
)


class Conversation:
    """A generated conversation and, for each answer, the (kind, text) that it should teach."""

    def __init__(self, rng: random.Random, tools: bool = True):
        self.rng, self.words, self.messages = rng, 0, []
        self.expected: list[list[tuple[str, str]]] = []
        self.tools = TOOLS if tools and rng.random() < 0.4 else []
        calls = bool(self.tools) or (tools and rng.random() < 0.1)
        if rng.random() < 0.5:
            self.messages.append({"role": "system", "content": self.prompt()})
        if rng.random() < 0.12:
            self.answer(False)
        for _ in range(rng.randint(1, 4)):
            self.messages.append({"role": "user", "content": self.prompt()})
            while calls and rng.random() < 0.4:
                self.answer(True)
                for call in self.messages[-1]["tool_calls"]:
                    self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": self.prompt()})
            self.answer(False)
            if rng.random() < 0.08:  # the answer is the user's own words
                self.messages[-2]["content"] = self.expected[-1][-1][1]

    def text(self) -> str:
        self.words += 1
        odd = self.rng.choice(ODD) if self.rng.random() < 0.3 else ""
        first, last = f"ans{self.words}w", f"end{self.words}w"
        return " ".join(self.rng.sample([first, odd or "well", last], 3)).strip()

    def prompt(self) -> str:
        words = ["".join(self.rng.choice("αβγδεζηθικλ") for _ in range(4)) for _ in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.3:
            words.insert(self.rng.randint(0, len(words)), self.rng.choice(GREEK_ODD))
        space = self.rng.choice(["", "", "", " ", "\n", "\n\n"])
        same = [m["content"] for m in self.messages if m["role"] == "user" and GREEK.search(m["content"])]
        return self.rng.choice(same) if same and self.rng.random() < 0.1 else space + " ".join(words) + space

    def answer(self, calls: bool) -> None:
        rng, message, expected = self.rng, {"role": "assistant"}, []
        thought = rng.random()
        content = "" if calls and rng.random() < 0.6 else self.text()
        if thought < 0.2:
            expected.append(("thoughts", self.text()))
            message["reasoning_content"] = rng.choice(["", "\n"]) + expected[-1][1]
        elif thought < 0.45 and content:
            expected.append(("thoughts", self.text()))
            content = f"<think>\n{expected[-1][1]}\n</think>\n\n{content}"
        if content:
            expected.append(("text", content.split("</think>\n\n")[-1]))
        message["content"] = (
            content and rng.choice(["", "", "\n", " "]) + content + rng.choice(["", "", " ", "\n"])
        ) or (rng.choice(["", None]))
        if calls:
            message["tool_calls"] = []
            for _ in range(rng.choice([1, 1, 1, 2])):
                name, self.words = f"fn{self.words}w", self.words + 1
                texts = [self.text() for _ in range(rng.randint(0, 2))]
                arguments = {f"key{i}": text for i, text in enumerate(texts)} | rng.choice(
                    [{}, {"n": 3}, {"deep": [1]}]
                )
                call = {"name": name, "arguments": arguments}
                number = f"{len(self.messages):03}{len(message['tool_calls']):06}"
                message["tool_calls"].append({"id": number, "type": "function", "function": call})
                expected += [("tool call", name), *(("tool call", text) for text in texts)]
        if rng.random() < 0.08:
            message["weight"] = 0
        self.messages.append(message)
        self.expected.append(expected)


def faults(conversation: Conversation, encoded, tokenizer, end: str) -> list[str]:
    """What is wrong with the supervised tokens of a conversation."""
    text = tokenizer.decode(encoded.ids[encoded.supervised].tolist(), clean_up_tokenization_spaces=False)
    whole = tokenizer.decode(encoded.ids.tolist(), clean_up_tokenization_spaces=False)
    wrong, lost, at = [], {}, 0
    answers = [m for m in conversation.messages if m["role"] == "assistant"]
    rest = []
    for message, expected in zip(answers, conversation.expected, strict=True):
        kinds = set()
        for kind, piece in expected:
            forms = [piece, json.dumps(piece, ensure_ascii=False)[1:-1]] if kind == "tool call" else [piece]
            found = next((f for f in forms if text.find(f, at) >= 0), None) if message.get("weight", 1) else None
            if found is not None:
                rest.append(text[at : text.index(found, at)])
                at = text.index(found, at) + len(found)
            elif any(form in whole for form in forms):
                wrong += [f"not learned: {piece}"] * bool(message.get("weight", 1))
            else:
                kinds.add(kind)
        for kind in kinds:
            lost[kind] = lost.get(kind, 0) + 1
        if message.get("weight", 1):
            closed = text.find(end, at)
            if closed < 0:
                wrong.append(f"no end after {expected}")
                continue
            rest.append(text[at:closed])
            at = closed + len(end)
    rest.append(text[at:])
    between = "\0".join(rest)
    if GREEK.search(between):
        wrong.append(f"a prompt is learned: {between!r}")
    if re.search(r"(ans|end|fn)\d+w", between):
        wrong.append(f"learned twice or where it should not be: {between!r}")
    wrong += [f"a header is learned: {header} in {between!r}" for header in HEADERS if header in between]
    if text[at:]:
        wrong.append(f"learned after the end of the turn: {text[at:]!r}")
    named = getattr(encoded, "dropped", {})
    wrong += [
        f"{count} lose {kind}, named {named.get(kind, 0)}" for kind, count in lost.items() if named.get(kind) != count
    ]
    return wrong


def examine(template: str, realdata, count: int, seed: int = 0, encode=encode_example, tools: bool = True):
    """(faulty conversations with what is wrong, reasons of refusals, encoded conversations)."""
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    tokenizer.chat_template = (realdata / "chat_templates" / f"{template}.jinja").read_text()
    end = ENDS.get(re.split("[-0-9]", template)[0], tokenizer.eos_token)
    rng = random.Random(f"{template} {seed}")
    faulty, refused, good = [], [], 0
    for _ in range(count):
        conversation = Conversation(rng, tools)
        try:
            encoded = encode(tokenizer, Example(conversation.messages, tools=conversation.tools), 10**9)
        except UserError as error:
            refused.append(str(error))
            continue
        good += 1
        if wrong := faults(conversation, encoded, tokenizer, end):
            faulty.append((conversation.messages, wrong))
    return faulty, refused, good


def check_template(template: str, realdata, count: int) -> None:
    faulty, refused, good = examine(template, realdata, count)
    assert not faulty, f"{len(faulty)} of {count}, the first: {faulty[0]}"
    # The template's own refusals: of system prompts, of turns that do not alternate, of two calls at once.
    # Llama's prints a greeting as the user's words where there are tools; Phi's prints no tool calls.
    allowed = (
        *("refuses this conversation", "every answer of this example has the weight 0"),
        *("as the assistant's turn", "leaves out the assistant's answer in message"),
    )
    assert [reason for reason in refused if not any(text in reason for text in allowed)] == []
    assert good >= count / 5


@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_and_nothing_else_are_supervised(template, realdata):
    check_template(template, realdata, 60)


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_and_nothing_else_are_supervised_in_2000_conversations(template, realdata):
    check_template(template, realdata, 2000)
