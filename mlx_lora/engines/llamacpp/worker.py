"""llama.cpp subprocess entry point: ``python -m mlx_lora.engines.llamacpp.worker REQUEST.json``.

Two Python bindings are supported; each has a class with ``vocabulary`` (its size), ``tokenize``, ``is_end`` and
``logits``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

F32 = 0  # ggml's type number
# On a smaller file, threads mostly wait for each other.
WORTH_THREADS = 64 << 20


def threads_for(model: str) -> int:
    """Return the number of threads to run a model file with.

    One core stays free: threads busy-wait for each other, and if one shares its core with another program, all of them
    become several times slower.
    """
    return max(1, (os.cpu_count() or 1) - 1) if Path(model).stat().st_size > WORTH_THREADS else 1


class Cyllama:
    """Model in cyllama, the binding that installs from a wheel."""

    def __init__(self, model: str, context: int, lora: str | None) -> None:
        from cyllama.llama import llama_cpp

        if lora is not None:
            raise RuntimeError("cyllama cannot run a LoRA adapter")
        self._api = llama_cpp
        settings = llama_cpp.LlamaModelParams()
        settings.n_gpu_layers = 0

        # Reading logits asks the model for a size that some versions of its class do not have.
        class Model(llama_cpp.LlamaModel):
            n_vocab = property(lambda model: model.get_vocab().n_vocab)

        self._model = Model(model, settings, verbose=False)
        self._vocab = self._model.get_vocab()
        self.vocabulary = int(self._vocab.n_vocab)
        options = llama_cpp.LlamaContextParams()
        options.n_ctx = options.n_batch = options.n_ubatch = context
        options.type_k = options.type_v = F32
        options.flash_attn_type = 0
        options.n_threads = options.n_threads_batch = threads_for(model)
        self._context = llama_cpp.LlamaContext(self._model, options, verbose=False)
        self._read: list[int] = []

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens parsed."""
        return list(self._vocab.tokenize(text, False, True))

    def is_end(self, token: int) -> bool:
        """Return True if a token ends generation."""
        return bool(self._vocab.is_eog(token))

    def logits(self, tokens: Sequence[int], positions: Sequence[int], past: int = 0) -> np.ndarray:
        """Return the logits of these tokens, float32 [positions, vocabulary]; they follow ``past`` cached ones."""
        if past:
            self._read += tokens
        else:
            # The common prefix with the previous text is still in the cache.
            same = (i for i, (one, other) in enumerate(zip(self._read, tokens, strict=False)) if one != other)
            past = min(next(same, len(self._read)), min(positions))
            if not self._context.memory_seq_rm(0, past, -1):
                # A recurrent state cannot be rewound.
                self._context.memory_seq_rm(0, -1, -1)
                past = 0
            self._read = list(tokens)
            tokens, positions = tokens[past:], [position - past for position in positions]
        wanted = set(positions)
        batch = self._api.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for i, token in enumerate(tokens):
            batch.add(token, past + i, [0], i in wanted)
        self._context.decode(batch)
        # Row by row: a row arrives as a list of Python floats, eight times as large.
        return np.stack([np.array(self._context.get_logits_ith(i), dtype=np.float32) for i in positions])


class LlamaCppPython:
    """Model in llama-cpp-python, the best-known binding, compiled at installation."""

    def __init__(self, model: str, context: int, lora: str | None) -> None:
        import llama_cpp

        self._api = llama_cpp
        self._llama = llama_cpp.Llama(
            model,
            n_gpu_layers=0,
            n_ctx=context,
            n_batch=context,
            n_ubatch=context,
            n_threads=threads_for(model),
            n_threads_batch=threads_for(model),
            logits_all=True,
            type_k=F32,
            type_v=F32,
            flash_attn=False,
            lora_path=lora,
            verbose=False,
        )
        self.vocabulary = int(self._llama.n_vocab())

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens parsed."""
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True))

    def is_end(self, token: int) -> bool:
        """Return True if a token ends generation."""
        vocabulary = self._api.llama_model_get_vocab(self._llama.model)
        return bool(self._api.llama_vocab_is_eog(vocabulary, token))

    def logits(self, tokens: Sequence[int], positions: Sequence[int], past: int = 0) -> np.ndarray:
        """Return the logits of these tokens, float32 [positions, vocabulary]; they follow ``past`` cached ones."""
        if not past:
            self._llama.reset()
        self._llama.eval(list(tokens))
        return np.array(self._llama.scores[[past + i for i in positions]], dtype=np.float32)


BINDINGS: dict[str, Any] = {"cyllama": Cyllama, "llama-cpp-python": LlamaCppPython}


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
    requested = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {"evaluate": evaluate, "quantize": quantize}[requested["action"]](requested)
    Path(sys.argv[1]).with_suffix(".answer").write_text(json.dumps(found), encoding="utf-8")
