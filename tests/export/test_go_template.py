"""A template for Ollama writes what the model's own chat template writes."""

from __future__ import annotations

import pytest
from ollama_server import render_go

from mlx_lora.data.chat_template import render
from mlx_lora.errors import UserError
from mlx_lora.export.ollama.go_template import go_template
from mlx_lora.models.tokenizer import load_tokenizer

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday: {{ date_string }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "<|eot_id|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
BEGUN = "{% if add_generation_prompt %}{{ '<{{' }}{% endif %}"
CHATS = [
    ["What is this?"],
    ["What is this?", "A test.", "And this?"],
    ["a", "b", "c", "d", 'e\nf "quoted" {{ braces }}'],
]


def same(tokenizer):
    template = go_template(tokenizer, "a model")
    for contents in CHATS:
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
        for system in (None, "Be brief."):
            whole = [{"role": "system", "content": system}, *messages] if system else messages
            assert render_go(template, system, messages) == render(tokenizer, whole, generate=True)


@pytest.mark.parametrize("template", [None, CHATML, DATED], ids=["own", "chatml", "dated"])
def test_the_same_text(template):
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    tokenizer.chat_template = template or tokenizer.chat_template
    same(tokenizer)


REAL = [
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "Qwen-Qwen2.5-7B-Instruct",
]


@pytest.mark.parametrize("name", REAL)
def test_real_templates(realdata, name):
    file = realdata / "chat_templates" / f"{name}.jinja"
    if not file.exists():
        pytest.skip(f"no {file}")
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    tokenizer.chat_template = file.read_text()
    same(tokenizer)


def test_other_real_templates_come_out_the_same_or_are_refused(realdata):
    tokenizer, made = load_tokenizer("builtin/tiny-lumen"), []
    for file in sorted((realdata / "chat_templates").glob("*.jinja")):
        tokenizer.chat_template = file.read_text()
        try:
            go_template(tokenizer, file.stem)
        except UserError:
            continue
        same(tokenizer)
        made.append(file.stem)
    print(made)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "writes them twice"),
        ("{{ messages[-1].content }}", "leaves messages out"),
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}", "before the last answer"),
        ("{% for m in messages %}{{ '<{{' }}{{ m.content }}\n{% endfor %}" + BEGUN, "which Go templates cannot say"),
    ],
)
def test_templates_that_do_more(template, reason):
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=f"no Go template can be put together .*{reason}"):
        go_template(tokenizer, "a model")
