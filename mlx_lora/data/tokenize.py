"""Tokenization: conversations → token ids and supervised mask, through the base model's own chat template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError
from .answer_spans import Answers, find_answers
from .batch_encoding import encode_text, encode_texts
from .chat_template import check_ids
from .dataset import Example
from .truncation import kept_tokens

# Examples that are tokenized in one call, on all cores.
CHUNK = 256


@dataclass
class EncodedExample:
    """One example as the model sees it.

    Attributes:
        ids: int32 [length], token ids.
        supervised: bool [length], true where the token is one the model is to produce.
        weight: multiplies the example's loss.
        token_weights: float32 [length], a further factor of each token's loss: its message's weight times its
            span's, the latter with mean 1 over the supervised tokens; ``None`` where all are 1.
        span_tokens: the number of supervised tokens that a span touches.
        truncated: prompt tokens that were truncated to fit ``max_seq_length``.
        dropped: the number of messages that the template does not print in full, by part, e.g. ``{"thoughts": 2}``.
    """

    ids: np.ndarray
    supervised: np.ndarray
    weight: float = 1.0
    truncated: int = 0
    token_weights: np.ndarray | None = None
    span_tokens: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class TokenizedConversation:
    """A conversation's tokens before truncation, and the answer that each belongs to.

    Attributes:
        ids: int32 [length].
        offsets: int64 [length, 2], the characters of each token.
        owner: int32 [length], index into ``answers.spans``, or −1 outside of answers.
    """

    answers: Answers
    ids: np.ndarray
    offsets: np.ndarray
    owner: np.ndarray


def tokenize(tokenizer: Any, example: Example) -> TokenizedConversation:
    """Render and tokenize an example, and find its answers.

    Raises:
        UserError: see :func:`~mlx_lora.data.answer_spans.find_answers` and ``check_ids``.
    """
    answers = find_answers(tokenizer, example.messages, example.tools, example.template_kwargs)
    return _with_owners(tokenizer, answers, *encode_text(tokenizer, answers.text))


def _with_owners(tokenizer: Any, answers: Answers, ids: np.ndarray, offsets: np.ndarray) -> TokenizedConversation:
    """Return a conversation's tokens with the answer that each belongs to."""
    check_ids(tokenizer, ids)
    begins, ends = offsets[:, 0], offsets[:, 1]
    owner = np.full(len(offsets), -1, dtype=np.int32)
    for number, span in enumerate(answers.spans):
        for start, end in span.parts:
            owner[(begins >= start) & (ends <= end) & (ends > begins)] = number
    return TokenizedConversation(answers, ids, offsets, owner)


def _span_weights(
    example: Example, tokens: TokenizedConversation, supervised: np.ndarray
) -> tuple[np.ndarray | float, int]:
    """Return (float32 [length], tokens touched): weights of the overlapping spans, with mean 1 where supervised."""
    if not example.spans:
        return 1.0, 0
    weights = np.ones(len(supervised), dtype=np.float32)
    touched = np.zeros(len(supervised), dtype=bool)
    content = {span.message: span.content for span in tokens.answers.spans}
    for span in example.spans:
        # Characters of the content, piece by piece, to characters of the rendered text.
        printed = [
            (start + max(0, span.start - offset), min(end, start + span.end - offset))
            for offset, start, end in content.get(span.message, ())
            if offset < span.end and offset + end - start > span.start
        ]
        if printed:
            begin, end = printed[0][0], printed[-1][1]
            inside = supervised & (tokens.offsets[:, 0] < end) & (tokens.offsets[:, 1] > begin)
            weights[inside], touched = span.weight, touched | inside
    return weights / weights[supervised].mean(), int(touched.sum())


def _message_weights(tokens: TokenizedConversation) -> np.ndarray:
    """Return float32 [length]: the weight of the message that each token belongs to, 1 outside of answers."""
    # The index −1 takes the last.
    return np.array([*(span.weight for span in tokens.answers.spans), 1.0], dtype=np.float32)[tokens.owner]


def _open_ends(tokens: TokenizedConversation) -> np.ndarray:
    """Return bool [length], True for tokens after the text of answers that stop before their end (``open_end``)."""
    last = len(tokens.answers.text)
    open_from = [last if span.open_from is None else span.open_from for span in tokens.answers.spans]
    return tokens.offsets[:, 1] > np.array([*open_from, last])[tokens.owner]


def learned_tokens(tokens: TokenizedConversation) -> np.ndarray:
    """Return bool [length], True for the tokens of answers whose weight is above 0, but for open ends.

    Raises:
        UserError: there is none.
    """
    learned = (tokens.owner >= 0) & (_message_weights(tokens) > 0) & ~_open_ends(tokens)
    if not learned.any():
        if any(span.weight == 0 for span in tokens.answers.spans):
            raise UserError("every answer of this example has the weight 0, so there is nothing to learn from it")
        raise UserError("no token of this example is the assistant's, so there is nothing to learn from it")
    return learned


def truncate(tokens: TokenizedConversation, max_seq_length: int) -> np.ndarray:
    """Return bool [length], True for the tokens that stay: of answers all, unless they weigh 0 and space is short.

    Raises:
        UserError: the answers do not fit.
    """
    if len(tokens.ids) <= max_seq_length:
        return np.ones(len(tokens.ids), dtype=bool)
    learned = (tokens.owner >= 0) & (_message_weights(tokens) > 0)
    for protected in (tokens.owner >= 0, learned):
        kept = kept_tokens(protected, max_seq_length)
        if kept is not None:
            return kept
    count, said = int(learned.sum()), sum(span.weight > 0 for span in tokens.answers.spans)
    what = "the answer takes" if said == 1 else f"the {said} answers take"
    raise UserError(
        f"{what} {count} tokens and max_seq_length is {max_seq_length}, which leaves too few for the prompt; raise "
        "max_seq_length or shorten the answer"
    )


def encode_example(
    tokenizer: Any, example: Example, max_seq_length: int, train_on_prompt: bool = False
) -> EncodedExample:
    """Return token ids and supervised mask of an example; long prompts are truncated in the middle, answers never.

    Args:
        train_on_prompt: supervise every token, not only the assistant's.

    Raises:
        UserError: the answers do not fit, no token would be supervised, or see :func:`tokenize`.
    """
    return _supervise(example, tokenize(tokenizer, example), max_seq_length, train_on_prompt)


def _supervise(
    example: Example, tokens: TokenizedConversation, max_seq_length: int, train_on_prompt: bool
) -> EncodedExample:
    supervised, by_message = learned_tokens(tokens), _message_weights(tokens)
    kept = slice(None) if len(tokens.ids) <= max_seq_length else truncate(tokens, max_seq_length)
    if train_on_prompt:
        supervised = (by_message > 0) & ~_open_ends(tokens)
    by_span, touched = _span_weights(example, tokens, supervised)
    weights = by_span * by_message if example.spans or (by_message[supervised] != 1).any() else None
    dropped = Counter(what for what, _ in tokens.answers.dropped) if tokens.answers.dropped else {}
    return EncodedExample(
        tokens.ids[kept],
        supervised[kept],
        example.weight,
        0 if isinstance(kept, slice) else int((~kept).sum()),
        None if weights is None else weights[kept],
        touched,
        dict(dropped),
    )


def encode_examples(
    tokenizer: Any, examples: Sequence[Example], max_seq_length: int, source: str, train_on_prompt: bool = False
) -> list[EncodedExample]:
    """Encode a split; an error names ``source`` and which example it is (counted from 1)."""
    encoded: list[EncodedExample] = []
    try:
        for start in range(0, len(examples), CHUNK):
            for example, tokens in _tokenize_all(tokenizer, examples[start : start + CHUNK]):
                encoded.append(_supervise(example, tokens, max_seq_length, train_on_prompt))
    except UserError as error:
        raise UserError(f"{source}, example {len(encoded) + 1}: {error}") from error
    return encoded


def _tokenize_all(tokenizer: Any, examples: Sequence[Example]) -> Iterator[tuple[Example, TokenizedConversation]]:
    """Yield each example's tokens, all tokenized in one call; an error is that of the next example."""
    found: list[Answers] = []
    failed = None
    try:
        for example in examples:
            found.append(find_answers(tokenizer, example.messages, example.tools, example.template_kwargs))
    except UserError as error:
        failed = error
    encoded = encode_texts(tokenizer, [answers.text for answers in found])
    for example, answers, tokens in zip(examples, found, encoded, strict=False):
        yield example, _with_owners(tokenizer, answers, *tokens)
    if failed:
        raise failed


@dataclass
class Segment:
    """Neighbouring tokens with one weight.

    Attributes:
        weight: the factor of their loss, the example's weight included; 0 for unsupervised tokens.
    """

    text: str
    tokens: int
    supervised: bool
    weight: float


def segments(tokenizer: Any, example: EncodedExample) -> Iterator[Segment]:
    """Yield the example's tokens in order, special ones as text."""
    by_token = np.ones(len(example)) if example.token_weights is None else example.token_weights
    weights = np.where(example.supervised, by_token * example.weight, 0.0)
    changes = np.flatnonzero((np.diff(weights) != 0) | (np.diff(example.supervised.astype(int)) != 0)) + 1
    for run in np.split(np.arange(len(example)), changes):
        text = tokenizer.decode(example.ids[run].tolist(), skip_special_tokens=False)
        yield Segment(text, len(run), bool(example.supervised[run[0]]), float(weights[run[0]]))
