"""llama.cpp subprocess entry point: ``python -m mlx_lora.engines.llamacpp.worker REQUEST.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ...processes import answer_request
from .bindings import BINDINGS


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Tokenize texts, compute logits at positions of prompts (as files), decode greedily; see ``run.Request``."""
    prompts: list[list[int]] = request["prompts"]
    longest = max([len(prompt) for prompt in prompts] + [len(request["greedy"]) + request["greedy_tokens"]])
    # llama.cpp itself enlarges a context of fewer than 256 tokens.
    model = BINDINGS[request["binding"]](request["model"], max(256, longest), request["lora"])
    out = Path(request["out"])
    for i, (prompt, positions) in enumerate(zip(prompts, request["positions"], strict=True)):
        np.save(out / f"logits-{i}.npy", model.logits(prompt, positions))
    greedy, logits = _greedy(model, request["greedy"], request["greedy_tokens"])
    if greedy:
        # Numbered after the prompts' logits.
        np.save(out / f"logits-{len(prompts)}.npy", logits)
    return {
        "vocabulary": model.vocabulary,
        "tokens": [model.tokenize(text) for text in request["texts"]],
        "ends": [token for token in range(model.vocabulary) if model.is_end(token)],
        "greedy": greedy,
    }


def _greedy(model: Any, prompt: list[int], count: int) -> tuple[list[int], np.ndarray]:
    """Decode greedily up to an end-of-generation token; return the top-1 tokens and the logits before each."""
    answer: list[int] = []
    logits: list[np.ndarray] = []
    unread, past = prompt, 0
    while unread and len(answer) < count:
        logits.append(model.logits(unread, [len(unread) - 1], past)[0])
        answer.append(int(logits[-1].argmax()))
        past += len(unread)
        unread = [] if model.is_end(answer[-1]) else answer[-1:]
    return answer, np.array(logits)


def _quantize_with_cyllama(model: str, out: str, number: int) -> None:
    from cyllama.llama import llama_cpp

    options = llama_cpp.LlamaModelQuantizeParams()
    options.ftype, options.nthread = number, os.cpu_count() or 1
    llama_cpp.model_quantize(model, out, options)


def _quantize_with_llama_cpp_python(model: str, out: str, number: int) -> None:
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = number, os.cpu_count() or 1
    status = llama_cpp.llama_model_quantize(model.encode(), out.encode(), options)
    if status:
        raise RuntimeError(f"llama_model_quantize returned {status}")


QUANTIZERS = {"cyllama": _quantize_with_cyllama, "llama-cpp-python": _quantize_with_llama_cpp_python}


def quantize(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize ``model`` to the file ``out`` on all cores; ``type`` is llama.cpp's file type number."""
    QUANTIZERS[request["binding"]](request["model"], request["out"], request["type"])
    return {}


if __name__ == "__main__":
    answer_request({"evaluate": evaluate, "quantize": quantize})
