"""Answers that stop before their end, with eleven published templates."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mlx_lora.data.chat_template import render
from mlx_lora.data.dataset import Example
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer

TEMPLATES = [
    *("Qwen-QwQ-32B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3-Coder", "Qwen3.5-4B"),
    *("google-gemma-2-2b-it", "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct"),
    *("meta-llama-Llama-3.3-70B-Instruct", "microsoft-Phi-3.5-mini-instruct", "mistralai-Mistral-Nemo-Instruct-2407"),
]
WORDS = ("we", "found", "two", "boats.", "Then", "it", "was\nlate", "- list", "été", "`code`")


def conversation(chance):
    """A conversation of one to three turns, and which of its answers are open."""
    messages, opened = [], []
    for turn in range(chance.randint(1, 3)):
        messages.append({"role": "user", "content": " ".join(chance.choices(WORDS, k=5))})
        text = f"answer {turn} " + " ".join(chance.choices(WORDS, k=chance.randint(1, 8))) + " done."
        opened.append(chance.random() < 0.6)
        thought = "<think>\nhm\n</think>\n\n" if chance.random() < 0.2 else ""
        messages.append({"role": "assistant", "content": thought + text, "open_end": opened[-1]})
    return messages, opened


@pytest.mark.parametrize("template", TEMPLATES)
def test_only_the_ends_of_open_answers_are_not_learned(template, realdata):
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    tokenizer.chat_template = (realdata / "chat_templates" / f"{template}.jinja").read_text()
    chance, seen = random.Random(template), 0
    for _ in range(40):
        messages, opened = conversation(chance)
        closed = [{k: v for k, v in message.items() if k != "open_end"} for message in messages]
        try:
            plain = encode_example(tokenizer, Example(closed), 10**6)
        except UserError:  # the template's own refusals
            continue
        assert render(tokenizer, messages) == render(tokenizer, closed)
        encoded = encode_example(tokenizer, Example(messages), 10**6)
        assert encoded.ids.tolist() == plain.ids.tolist()
        assert not (encoded.supervised & ~plain.supervised).any()
        # The answers as learned: runs of supervised tokens.
        answers = np.split(np.arange(len(plain.ids)), np.flatnonzero(np.diff(plain.supervised)) + 1)
        answers = [run for run in answers if plain.supervised[run[0]]]
        assert len(answers) == len(opened)
        for run, is_open in zip(answers, opened, strict=True):
            left_out = run[~encoded.supervised[run]]
            if is_open:
                assert left_out.tolist() == run[len(run) - len(left_out) :].tolist()
                assert tokenizer.decode(encoded.ids[run[encoded.supervised[run]]]).endswith("done.")
                assert len(left_out) > 0
                assert "done" not in tokenizer.decode(encoded.ids[left_out])
                seen += 1
            else:
                assert len(left_out) == 0
    assert seen > 20
