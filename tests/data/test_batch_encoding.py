"""Texts encoded together have the tokens and places that each has alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import AddedToken

from mlx_lora.data import batch_encoding
from mlx_lora.data.batch_encoding import encode_text, encode_texts
from mlx_lora.models.tokenizer import load_tokenizer

PIECES = (
    *("a", "B", " ", "  ", "\n", "\n\n", "é", "😀", "e\u0301", "0123456", "don't", "<", "|", ">", "im_start", "user"),
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<think>", "</think>", "\u2028", "\t"),
)


def tokenizers(realdata):
    yield load_tokenizer("builtin/tiny-lumen")
    for name in ("qwen2.5", "llama3", "qwen2-from-gguf"):
        yield load_tokenizer(str(realdata / "tokenizers" / name))


def texts_of(rng, tokenizer):
    def text(most):
        special = [token.content for token in tokenizer.added_tokens_decoder.values()]
        return "".join(rng.choice(PIECES if rng.random() < 0.8 else special) for _ in range(rng.randint(0, most)))

    common = text(30)
    return [common + text(12) for _ in range(6)]


def same(tokenizer, texts):
    together = list(encode_texts(tokenizer, texts))
    assert len(together) == len(texts)
    for text, (ids, offsets) in zip(texts, together, strict=True):
        alone = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        assert ids.tolist() == alone.ids
        assert list(map(tuple, offsets.tolist())) == alone.offsets
        assert (ids.dtype, offsets.dtype, offsets.shape) == (np.int32, np.int64, (len(ids), 2))


def test_generated_texts(realdata, monkeypatch):
    divided = []
    real = batch_encoding._last_divider
    monkeypatch.setattr(batch_encoding, "_last_divider", lambda *given: divided.append(real(*given)) or divided[-1])
    for tokenizer in tokenizers(realdata):
        rng = random.Random(5)
        for _ in range(150):
            same(tokenizer, texts_of(rng, tokenizer))
    assert sum(end >= batch_encoding.MIN_PREFIX for _, end in divided) > 200


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("<|im_start|>user", special=True, normalized=False),
        AddedToken("e<|im_start|>", special=False, normalized=False),
        AddedToken("\n<|im_", special=True, normalized=False),
        AddedToken("|>u", special=True, normalized=False),
    ],
)
def test_tokens_that_overlap_the_divider(realdata, token):
    tokenizer = load_tokenizer(str(realdata / "tokenizers" / "qwen2.5"))
    tokenizer.add_tokens([token])
    common = "<|im_start|>system\nYou are a helpful one<|im_end|>\n<|im_start|>"
    same(tokenizer, [common + rest for rest in ("user\nA", "user B", "", "x", "\nuser")])
    same(tokenizer, [common[:-1] + rest for rest in (">user\nA", ">user", ">", "x")])


def test_no_texts():
    assert list(encode_texts(load_tokenizer("builtin/tiny-lumen"), [])) == []
    ids, offsets = encode_text(load_tokenizer("builtin/tiny-lumen"), "")
    assert (ids.shape, offsets.shape) == ((0,), (0, 2))
