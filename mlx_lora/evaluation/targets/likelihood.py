"""Log-probabilities of given continuations from a base or a run; a context that several share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...backends import Backend
from ...data.chat_template import check_ids
from ...data.collate import collate, common_prefix, padded_length
from ...data.tokenize import EncodedExample
from ...engines.reply import Likelihood, continuation_start

# Most tokens of a batch, padding included.
BATCH_TOKENS = 8192
# Tokens whose computation takes as long as one more call of the model.
CALL_TOKENS = 64

Tokens = tuple[list[int], list[int]]


def encode_pair(tokenizer: Any, context: str, continuation: str) -> Tokens:
    """Return the token ids of a context and of its continuation, as they are when read together.

    The tokenizer's own special tokens are added in front. A token that spans the end of the context belongs to the
    continuation. Without a context, the continuation follows the beginning-of-text token, or the end-of-text token.
    """
    if not context:
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        ids = encode(tokenizer, continuation, special=False)
        return ([first], ids) if ids[:1] != [first] else (ids[:1], ids[1:])
    whole = encode(tokenizer, context + continuation)
    start = continuation_start(encode(tokenizer, context), whole)
    return whole[:start], whole[start:]


def encode(tokenizer: Any, text: str, special: bool = True) -> list[int]:
    """Return the token ids of a raw text.

    Args:
        special: add what the tokenizer adds to a text, such as a beginning-of-text token, unless it is there already.

    Raises:
        UserError: see ``check_ids``.
    """
    given = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    ids = list(tokenizer(text, add_special_tokens=special and not given)["input_ids"])
    check_ids(tokenizer, ids)
    return ids


def token_likelihoods(backend: Backend, pairs: Sequence[Tokens]) -> list[Likelihood]:
    """Return the log-probabilities of (context, continuation) pairs of token ids.

    A context is truncated on its left where the model's own ends; an empty continuation has no log-probability.
    """
    found = [Likelihood() for _ in pairs]
    examples = {n: _example(*pair, backend.base.context) for n, pair in enumerate(pairs) if pair[1]}
    for numbers in _batches(examples):
        batch = collate([examples[number] for number in numbers])
        logprobs, top = backend.log_probabilities(batch)
        place = 0
        for number in numbers:
            end = place + int(examples[number].supervised.sum())
            found[number] = Likelihood(logprobs[place:end], all(top[place:end]))
            place = end
    return found


def _example(context: Sequence[int], continuation: Sequence[int], limit: int | None) -> EncodedExample:
    # The last token is predicted, not read.
    ids = np.array([*context, *continuation], dtype=np.int32)[-(limit + 1 if limit else 0) :]
    supervised = np.zeros(len(ids), dtype=bool)
    supervised[max(1, len(ids) - len(continuation)) :] = True
    return EncodedExample(ids, supervised)


def _batches(examples: dict[int, EncodedExample]) -> Iterator[list[int]]:
    """Yield the numbers of examples that are computed together, where that is faster than apart.

    In the order of their tokens, the choices of one context are neighbours, and contexts with the same examples in
    front of them (few-shot) are too.
    """
    batch: list[int] = []
    for number in sorted(examples, key=lambda number: examples[number].ids.tolist()):
        joined = [*batch, number]
        apart = _cost([examples[n] for n in batch]) + _cost([examples[number]]) if batch else BATCH_TOKENS
        if batch and _cost([examples[n] for n in joined]) > min(apart, BATCH_TOKENS):
            yield batch
            joined = [number]
        batch = joined
    if batch:
        yield batch


def _cost(examples: Sequence[EncodedExample]) -> int:
    """Return the tokens that a batch computes, and those of one call."""
    prefix = common_prefix(examples) if len(examples) > 1 else 0
    return CALL_TOKENS + prefix + len(examples) * max(padded_length(example, prefix) for example in examples)
