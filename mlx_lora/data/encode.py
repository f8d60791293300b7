"""Conversations → token ids with the supervised ones marked, through the base model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from .chat_template import render
from .example import Example


@dataclass
class EncodedExample:
    """One example as the model sees it.

    Attributes:
        ids: int32 [length], token ids.
        supervised: bool [length], true where the token is one the model is to produce.
        weight: multiplies the example's loss.
        token_weights: float32 [length], what each token's loss is multiplied by besides; mean 1 over the supervised
            ones, or ``None`` where all are 1.
        span_tokens: how many supervised tokens a span touches.
        cut: prompt tokens that were left out to fit ``max_seq_length``.
    """

    ids: np.ndarray
    supervised: np.ndarray
    weight: float = 1.0
    cut: int = 0
    token_weights: np.ndarray | None = None
    span_tokens: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def _common_prefix(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def supervised_spans(tokenizer: Any, messages: Sequence[dict[str, Any]], text: str) -> list[tuple[int, int]]:
    """Character ranges of ``text`` that the assistant produces: each answer with its end-of-turn token.

    Templates may render a turn differently once others follow (Qwen3 drops earlier thoughts), so each answer is
    looked up after the place where the prompt before it ends.
    """
    spans, position = [], 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        after = render(tokenizer, messages[: i + 1])
        start = max(position, _common_prefix(render(tokenizer, messages[:i], generate=True), text))
        if text.startswith(after):
            end = len(after)
        else:
            content = (message.get("content") or "").strip()
            ending = after[after.rfind(content) + len(content) :]
            found = text.find(content, start)
            end = found + len(content) + _common_prefix(ending, text[found + len(content) :]) if found >= 0 else start
        # A template's newline after the end-of-turn token is never generated.
        position = len(text[:end].rstrip())
        spans.append((start, position))
    return spans


def _token_weights(
    example: Example, text: str, spans: Sequence[tuple[int, int]], offsets: np.ndarray, supervised: np.ndarray
) -> tuple[np.ndarray, int]:
    """(float32 [length], tokens touched): weights of the spans that tokens overlap, with mean 1 where supervised."""
    weights = np.ones(len(offsets), dtype=np.float32)
    touched = np.zeros(len(offsets), dtype=bool)
    answers = [i for i, message in enumerate(example.messages) if message["role"] == "assistant"]
    for span in example.spans:
        content = example.messages[span.message]["content"]
        # Templates strip contents; what stands before the span is looked for without its leading white space.
        stripped = len(content) - len(content.lstrip())
        begin = text.find(content.strip(), spans[answers.index(span.message)][0])
        if begin >= 0:
            start, end = begin + span.start - stripped, begin + span.end - stripped
            inside = supervised & (offsets[:, 0] < end) & (offsets[:, 1] > start)
            weights[inside], touched = span.weight, touched | inside
    return weights / weights[supervised].mean(), int(touched.sum())


def encode_example(
    tokenizer: Any, example: Example, max_seq_length: int, train_on_prompt: bool = False
) -> EncodedExample:
    """Token ids and supervised mask of an example; a prompt that is too long loses its middle, an answer nothing.

    Args:
        train_on_prompt: supervise every token, not only the assistant's.

    Raises:
        UserError: the answer alone does not fit, or no token would be supervised.
    """
    text = render(tokenizer, example.messages, tools=example.tools, **example.template_kwargs)
    # The tokenizers library's own encoding, since mlx-lm's wrapper of a tokenizer gives no offsets.
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ids = np.asarray(encoding.ids, dtype=np.int32)
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    supervised = np.zeros(len(ids), dtype=bool)
    spans = supervised_spans(tokenizer, example.messages, text)
    for start, end in spans:
        supervised |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
    if not supervised.any():
        raise UserError("no token of this example is the assistant's, so there is nothing to learn from it")
    prompt = int(supervised.argmax())
    if train_on_prompt:
        supervised[:] = True
    weights, touched = _token_weights(example, text, spans, offsets, supervised) if example.spans else (None, 0)
    cut = max(0, len(ids) - max_seq_length)
    if cut:
        keep = prompt - cut
        if keep < 2:
            raise UserError(
                f"the answer takes {len(ids) - prompt} tokens and max_seq_length is {max_seq_length}; "
                "raise max_seq_length or shorten the answer"
            )
        kept = np.r_[0 : (keep + 1) // 2, prompt - keep // 2 : len(ids)]
        ids, supervised = ids[kept], supervised[kept]
        weights = None if weights is None else weights[kept]
    return EncodedExample(ids, supervised, example.weight, cut, weights, touched)


def encode_examples(
    tokenizer: Any, examples: Sequence[Example], max_seq_length: int, source: str, train_on_prompt: bool = False
) -> list[EncodedExample]:
    """Encode a split; an error names ``source`` and which example it is (counted from 1)."""
    encoded = []
    for number, example in enumerate(examples, 1):
        try:
            encoded.append(encode_example(tokenizer, example, max_seq_length, train_on_prompt))
        except UserError as error:
            raise UserError(f"{source}, example {number}: {error}") from error
    return encoded
