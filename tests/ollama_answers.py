"""What a true Ollama answers: the model's template and weights, in llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollama_server import Answer, Model, render_go

from mlx_lora.engines.llamacpp.run import Request, evaluated
from mlx_lora.models.tokenizer import load_tokenizer

TINY = "builtin/tiny-lumen"


KNOWN: dict[Any, Answer] = {}


def llama_cpp(model: Model, prompt: str, options: dict[str, Any]) -> Answer:
    # A blob's name is the hash of its content.
    asked = (model.system, model.template, prompt, options["num_predict"])
    if (model.blob.name, *asked) not in KNOWN:
        KNOWN[model.blob.name, *asked] = answered(model.blob, *asked)
    return KNOWN[model.blob.name, *asked]


def answered(blob: Path, system: str | None, template: str | None, prompt: str, tokens: int) -> Answer:
    from gguf import GGUFReader

    tokenizer = load_tokenizer(TINY)
    own = GGUFReader(blob).get_field("tokenizer.chat_template").contents()
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    text = tokenizer.apply_chat_template(messages, chat_template=own, tokenize=False, add_generation_prompt=True)
    if template:
        text = render_go(template, system, messages[-1:])
    with evaluated(Request(str(blob), texts=[text])) as answer:
        start = answer.tokens[0]
    with evaluated(Request(str(blob), greedy=start, greedy_tokens=tokens)) as answer:
        stopped = answer.greedy[-1] in answer.ends
        said = tokenizer.decode(answer.greedy, skip_special_tokens=True)
    return Answer(said, len(start), len(answer.greedy), stopped)
