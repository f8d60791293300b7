"""Python bindings of llama.cpp behind one interface: tokenizer, chat template, logits.

Each class has ``vocabulary`` (its size), ``trained_context`` (the context that the model was trained with), ``resize``,
``template``, ``special_texts``, ``tokenize``, ``text``, ``is_end``, ``logits`` and ``top``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.batch_encoding import common_length

TEMPLATE = "tokenizer.chat_template"
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
        self._threads = threads_for(model)
        self._greedy = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
        self._greedy.add_greedy()
        self.vocabulary = int(self._vocab.n_vocab)
        self.trained_context = int(self._model.n_ctx_train)
        self.resize(context)

    def resize(self, context: int) -> None:
        """Make room for so many tokens."""
        options = self._api.LlamaContextParams()
        options.n_ctx = options.n_batch = options.n_ubatch = context
        options.type_k = options.type_v = F32
        options.flash_attn_type = 0
        options.n_threads = options.n_threads_batch = self._threads
        self._context = self._api.LlamaContext(self._model, options, verbose=False)
        self._read: list[int] = []

    def template(self) -> str | None:
        """Return the chat template."""
        try:
            return str(self._model.meta_val_str(TEMPLATE))
        except ValueError:
            return None

    def special_texts(self) -> dict[str, str]:
        """Return the texts of the BOS and EOS tokens, by the names that templates use."""
        ids = {"bos_token": self._vocab.token_bos(), "eos_token": self._vocab.token_eos()}
        return {name: self._vocab.get_text(token) for name, token in ids.items() if token >= 0}

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        # The binding strips the text: marks keep its ends.
        mark = self.tokenize("|")
        alone, twice, whole = (
            self._vocab.detokenize(ids, 64 * len(ids), False, False)
            for ids in (mark, [*mark, *mark], [*mark, *tokens, *mark])
        )
        return whole[len(alone) : len(alone) + len(whole) - len(twice)]

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Return the token ids of a text, special tokens parsed; ``special``: with those that the file says to add."""
        return list(self._vocab.tokenize(text, special, True))

    def is_end(self, token: int) -> bool:
        """Return True if a token ends generation."""
        return bool(self._vocab.is_eog(token))

    def logits(self, tokens: Sequence[int], positions: Sequence[int], past: int = 0) -> np.ndarray:
        """Return the logits of these tokens, float32 [positions, vocabulary]; they follow ``past`` cached ones."""
        places = self._decode(tokens, positions, past)
        # Row by row: a row arrives as a list of Python floats, eight times as large.
        return np.stack([np.array(self._context.get_logits_ith(i), dtype=np.float32) for i in places])

    def top(self, tokens: Sequence[int], past: int = 0) -> int:
        """Return the top-1 token after these, without the list of all logits."""
        self._decode(tokens, [len(tokens) - 1], past)
        return int(self._greedy.sample(self._context, -1))

    def _decode(self, tokens: Sequence[int], positions: Sequence[int], past: int) -> Sequence[int]:
        """Compute tokens, and return the places of the wanted logits in the batch."""
        if past:
            self._read += tokens
        else:
            # The common prefix with the previous text is still in the cache.
            past = min(common_length(self._read, tokens), min(positions))
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
        return positions


class LlamaCppPython:
    """Model in llama-cpp-python, the best-known binding, compiled at installation."""

    def __init__(self, model: str, context: int, lora: str | None) -> None:
        import llama_cpp

        self._api, self._file, self._lora = llama_cpp, model, lora
        self.resize(context)
        self.vocabulary = int(self._llama.n_vocab())
        self.trained_context = int(llama_cpp.llama_model_n_ctx_train(self._llama.model))

    def resize(self, context: int) -> None:
        """Make room for so many tokens."""
        model = self._file
        self._llama = self._api.Llama(
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
            lora_path=self._lora,
            verbose=False,
        )

    def template(self) -> str | None:
        """Return the chat template."""
        return self._llama.metadata.get(TEMPLATE)

    def special_texts(self) -> dict[str, str]:
        """Return the texts of the BOS and EOS tokens, by the names that templates use."""
        vocabulary = self._api.llama_model_get_vocab(self._llama.model)
        ids = {"bos_token": self._llama.token_bos(), "eos_token": self._llama.token_eos()}
        read = self._api.llama_vocab_get_text
        return {name: read(vocabulary, token).decode() for name, token in ids.items() if token >= 0}

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self._llama.detokenize(list(tokens), special=False).decode(errors="replace")

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Return the token ids of a text, special tokens parsed; ``special``: with those that the file says to add."""
        return list(self._llama.tokenize(text.encode(), add_bos=special, special=True))

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

    def top(self, tokens: Sequence[int], past: int = 0) -> int:
        """Return the top-1 token after these."""
        return int(self.logits(tokens, [len(tokens) - 1], past)[0].argmax())


BINDINGS: dict[str, Any] = {"cyllama": Cyllama, "llama-cpp-python": LlamaCppPython}
