"""GGUF verification in llama.cpp: vocabulary, chat template, logits and greedy text against the adapter in MLX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ...data.chat_template import render
from ...engines.llamacpp.run import Answer, LlamaCppFailed, Request, evaluated
from ..logit_metrics import Agreement, ExportLimits, compare_logits, limits_of, same_greedy
from ..reference import GREEDY, TEXTS, Questions
from ..verification import ExportCheck, at_least, at_most, equal
from .tokenizer import CONTROL, Vocabulary

# llama.cpp rounds activations to 8 bits before it multiplies them with quantized weights.
OWN_LIMIT = 0.2
# Tokens that are enough to detect any other difference.
OWN_TOKENS = 48
# llama.cpp tokenizes some odd texts differently from Hugging Face's form of SentencePiece tokenizers, and computes GELU
# and others from float16 tables. The run's own conversations must have the tokenizer's ids in any case.
PROBES = 0.8
# Special tokens per probe text, and how many of the vocabulary's control tokens are tested.
SPECIALS, LONGEST = 8, 64
# Below this top-1 agreement a larger type is worth its bytes.
FAIR_TOP1 = 0.9


def probe_texts(vocabulary: Vocabulary) -> list[str]:
    """Return the probe texts, and texts with the tokenizer's special tokens between words and next to each other."""
    special = [text for number, text in vocabulary.tokens.items() if vocabulary.types[number] == CONTROL][:LONGEST]
    named = [vocabulary.tokens[number] for number in vocabulary.ids.values()]
    ordered = list(dict.fromkeys([*named, *special]))
    groups = [ordered[i : i + SPECIALS] for i in range(0, len(ordered), SPECIALS)]
    return [*TEXTS, *("".join(group) for group in groups), *(" a ".join(["", *group, ""]) for group in groups)]


# Logits of prompts at positions, float32 [positions, vocabulary] each.
Ask = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], list[np.ndarray]]


def run_checks(
    file: Path,
    kind: str,
    questions: Questions,
    vocabulary: Vocabulary,
    tokenizer: Any,
    template: str | None,
    adapter: Ask,
    own: Ask | None = None,
    others: bool = False,
) -> tuple[list[ExportCheck], list[str]]:
    """Load the file in llama.cpp and compare it with the adapter; return the checks and the notes for the user.

    llama.cpp runs first, so that one forward pass of the adapter's model covers its greedy answer as well.

    Args:
        template: the chat template in the file.
        adapter: computes the adapter's logits in MLX.
        own: computes the logits of a quantized file's own weights in MLX.
        others: the file has an architecture or tokenizer that the writer here does not support.
    """
    probes = probe_texts(vocabulary)
    chats = [_rendered(tokenizer, chat, template) for chat in questions.conversations] if template else []
    # The check of the file's own weights needs no answer: the beginning of a prompt is enough.
    short = questions.prompts[0][:OWN_TOKENS]
    first = sorted({*range(len(short)), *questions.positions[0]})
    request = Request(
        str(file),
        texts=[*probes, *chats],
        prompts=questions.prompts,
        positions=[first, *questions.positions[1:]],
        greedy=questions.greedy_prompt,
        greedy_tokens=GREEDY,
    )
    try:
        with evaluated(request) as answer:
            ids = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in probes]
            checks = [ExportCheck("runs in llama.cpp", "yes", "yes", True)]
            checks += _vocabulary(answer, vocabulary, ids, PROBES if others else 1.0)
            checks += _template(answer, questions, answer.tokens[len(probes) :]) if chats else []
            if own is not None:
                expected = own([short], [list(range(len(short)))])
                gap = compare_logits(expected, [answer.logits(0)[: len(short)]]).relative
                checks.append(at_most("difference of logits from the same weights in MLX (RMS)", gap, OWN_LIMIT))
            expected = adapter(*questions.with_answer(answer.greedy))
            logits = [answer.logits(i) for i in range(len(expected))]
            logits[0] = logits[0][[first.index(position) for position in questions.positions[0]]]
            found = compare_logits(expected, logits)
            limits = limits_of("f16" if others and kind == "f32" else kind)
            notes = [*_other_tokens(probes, ids, answer), *_notes(kind, found, questions)]
            return [*checks, *_answers(answer, expected[-1], found, limits)], notes
    except LlamaCppFailed as error:
        return [ExportCheck("runs in llama.cpp", str(error), "yes", False)], []


def _rendered(tokenizer: Any, chat: list[dict[str, Any]], template: str) -> str:
    """Render a conversation with the file's template, in the template engine that training used."""

    class Carrier:
        chat_template = template

        def apply_chat_template(self, messages: Any, **options: Any) -> str:
            return tokenizer.apply_chat_template(messages, chat_template=template, **options)

    return render(Carrier(), chat)


def _vocabulary(
    answer: Answer, vocabulary: Vocabulary, ids: Sequence[Sequence[int]], needed: float
) -> list[ExportCheck]:
    same = sum(list(ours) == theirs for ours, theirs in zip(ids, answer.tokens, strict=False))
    return [
        equal("vocabulary in llama.cpp", answer.vocabulary, vocabulary.rows),
        at_least("probe texts with the tokenizer's own ids", same, ceil(needed * len(ids))),
    ]


def _other_tokens(texts: Sequence[str], ids: Sequence[Sequence[int]], answer: Answer) -> list[str]:
    """Return a note on the probe texts that llama.cpp tokenizes differently."""
    triples = zip(texts, ids, answer.tokens, strict=False)
    other = [text for text, ours, theirs in triples if list(ours) != theirs]
    if not other:
        return []
    counted = f"{len(other)} of {len(ids)} probe texts, such as {other[0][:40]!r}"
    return [f"llama.cpp makes other tokens than the tokenizer of {counted}"]


def _template(answer: Answer, questions: Questions, tokens: list[list[int]]) -> list[ExportCheck]:
    """Check that file template and llama.cpp tokenizer give training's token ids, and its end token ends generation."""
    pairs = zip(questions.encoded, tokens, strict=True)
    same = sum(example.ids.tolist() == theirs for example, theirs in pairs)
    last = {int(example.ids[example.supervised][-1]) for example in questions.encoded}
    stops = sum(token in answer.ends for token in last)
    return [
        equal("conversations with training's own ids", same, len(tokens)),
        ExportCheck("tokens trained to end an answer that end it", stops, len(last), stops == len(last) > 0),
    ]


def _answers(answer: Answer, logits: np.ndarray, found: Agreement, limits: ExportLimits) -> list[ExportCheck]:
    """Compare logits and greedy text; ``logits`` are the adapter's before each token of llama.cpp's greedy answer."""
    expected = logits.argmax(axis=1).tolist()
    total = len(expected)
    same = same_greedy(expected, answer.greedy, logits, 0.0)
    # Given the largest logit difference, tokens may only differ where two logits were that close.
    explained = same_greedy(expected, answer.greedy, logits, 2 * found.largest)
    return [
        ExportCheck("largest difference of a logit", _number(found.largest), "reported", True),
        at_most("difference of logits (RMS, in their spread)", found.relative, limits.relative),
        at_most("KL divergence (nats)", found.divergence, limits.divergence),
        at_least("same likeliest token", found.top1, limits.top1),
        ExportCheck("greedy text", f"{same} of {total} tokens", "the same, or until a near tie", explained == total),
    ]


def _number(value: float) -> float | str:
    return value if value < float("inf") else str(value)


def _notes(kind: str, found: Agreement, questions: Questions) -> list[str]:
    notes = []
    if not questions.held_out:
        notes.append("no held-out prompts of a run were at hand: a conversation of ours was compared instead")
    if found.top1 < FAIR_TOP1 and kind not in ("f32", "f16", "bf16"):
        notes.append(
            f"{kind} finds another top-1 token than the adapter in {1 - found.top1:.0%} of places; "
            "q5_k_m or q8_0 would be nearer"
        )
    return notes
