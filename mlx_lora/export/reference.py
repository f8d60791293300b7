"""What the model with its adapter says in MLX: the measure of everything that is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Backend, load_backend
from ..data.chat_template import encode_prompt
from ..data.encode import EncodedExample, encode_example
from ..data.example import Example, read_split
from ..errors import UserError
from .architectures import heads_of, unpermute_rows
from .convert import Plan
from .probes import TEXTS, conversations
from .reopen import Opened
from .source import Source

# Enough positions to tell a good file from a bad one, few enough to keep in memory with any vocabulary.
PROMPTS, POSITIONS, LONGEST, GREEDY = 8, 24, 512, 24
UNCUT = 10**9


@dataclass
class Reference:
    """Answers of the adapter in MLX.

    Attributes:
        conversations: where the prompts come from, with their answers.
        encoded: the same as training saw them; empty where the model has no chat template.
        prompts, positions: token ids, and the tokens after which logits were taken; of conversations that are not too
            long.
        logits: float32 [positions, vocabulary], one a prompt; the last is the greedy answer's.
        greedy_prompt, greedy: token ids of a prompt and of the greedy answer to it.
        end_of_turn: the special token that ends an answer in training, if one does.
        held_out: the prompts are the run's own, which it was not trained on.
        float32: everything was computed in it.
    """

    conversations: list[list[dict[str, Any]]]
    encoded: list[EncodedExample]
    prompts: list[list[int]]
    positions: list[list[int]]
    logits: list[np.ndarray]
    greedy_prompt: list[int]
    greedy: list[int]
    end_of_turn: int | None
    held_out: bool
    float32: bool = False


def reference_of(source: Source, backend: Backend) -> Reference:
    """Ask the model with its adapter; in float32 where that fits into memory, so that only the export is measured.

    Raises:
        UserError: its logits are not finite, or all the same: nothing can be compared with them.
    """
    reference = _reference(source, backend)
    reference.float32 = fits_float32(backend)
    check_usable(source.name, reference.logits)
    return reference


def check_usable(name: str, logits: Sequence[np.ndarray]) -> None:
    """Raises UserError if a model's logits are not finite, or all the same, as they are where numbers overflowed."""
    for values in logits:
        if not np.isfinite(values).all() or not (values.max(axis=1) > values.min(axis=1)).all():
            raise UserError(
                f"{name}: in MLX this model's logits are not finite or all the same, since numbers in it are too "
                "large; look at how the adapter was trained"
            )


def _reference(source: Source, backend: Backend) -> Reference:
    model = in_float32(backend)
    tokenizer = backend.tokenizer
    rows = held_out(source)
    if getattr(tokenizer, "chat_template", None) is None:
        return _without_template(model, tokenizer)
    chats = conversations(rows)
    encoded = [encode_example(tokenizer, Example(chat), UNCUT) for chat in chats]
    prompts, positions = [], []
    for example in encoded:
        answered = np.flatnonzero(example.supervised)[:POSITIONS]
        prompts.append(example.ids[: answered[-1] + 1].tolist())
        positions.append((answered - 1).tolist())
    by_length = sorted(range(len(chats)), key=lambda i: len(prompts[i]))
    used = [i for i in by_length if len(prompts[i]) <= LONGEST] or by_length[:1]
    shortest = chats[used[0]]
    start = encode_prompt(tokenizer, shortest[: _last_answer(shortest)])[-LONGEST:]
    last = int(encoded[0].ids[encoded[0].supervised][-1])
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    asked = [prompts[i] for i in used], [positions[i] for i in used]
    end_of_turn = last if last in special or last in backend.base.ends else None
    return _ask(model, Reference(chats, encoded, *asked, [], start, [], end_of_turn, held_out=bool(rows)))


def held_out(source: Source) -> list[list[dict[str, Any]]]:
    """Conversations of the run's test split, or its validation split, if its datasets are still there."""
    data = source.run.get("data") or []
    paths = [data] if isinstance(data, str) else [share["path"] for share in data]
    for split in ("test", "valid"):
        rows: list[list[dict[str, Any]]] = []
        for path in paths:
            try:
                rows += [example.messages for example in read_split(Path(path), split)]
            except UserError:
                continue
        if rows:
            # Evenly from the whole split, which may be sorted.
            return [rows[i * len(rows) // PROMPTS] for i in range(PROMPTS)] if len(rows) > PROMPTS else rows
    return []


def in_float32(backend: Backend) -> Any:
    """The backend's mlx model, its weights made float32 if they then take no more than half of the memory."""
    import mlx.core as mx

    model: Any = backend.model  # type: ignore[attr-defined]
    if fits_float32(backend):
        model.set_dtype(mx.float32)
    model.eval()
    return model


def fits_float32(backend: Backend) -> bool:
    """Return True if the backend's mlx model takes no more than half of the memory in float32."""
    from mlx.utils import tree_flatten

    model: Any = backend.model  # type: ignore[attr-defined]
    size = sum(4 * value.size for _, value in tree_flatten(model.parameters()))
    return size < backend.machine_memory() / 2


def logits_of(model: Any, tokens: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """float32 [positions, vocabulary] after some tokens of a prompt."""
    import mlx.core as mx

    return np.array(model(mx.array([list(tokens)]))[0, mx.array(list(positions))].astype(mx.float32))


def own_logits(plan: Plan, opened: Opened, reference: Reference) -> list[np.ndarray]:
    """What the very weights of a quantized file say in MLX: llama.cpp has to say the same of them."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    backend = load_backend(plan.source.model, "mlx")
    backend.model = dequantize_model(backend.model)  # type: ignore[attr-defined]
    for name, _, weight in plan.tensors:
        if weight is not None:
            values = np.concatenate(list(opened.tensors[name].pieces())).reshape(weight.shape)
            heads = heads_of(plan.architecture, plan.source.config, weight.name)
            values = values if heads is None else unpermute_rows(values, heads)
            backend.model.load_weights([(weight.name, mx.array(values))], strict=False)  # type: ignore[attr-defined]
    model = in_float32(backend)
    pairs = zip(reference.prompts, reference.positions, strict=True)
    return [logits_of(model, tokens, places) for tokens, places in pairs]


def _last_answer(chat: list[dict[str, Any]]) -> int:
    return max(i for i, message in enumerate(chat) if message["role"] == "assistant")


def _without_template(model: Any, tokenizer: Any) -> Reference:
    """A base model that was never taught a conversation: plain texts will do."""
    prompts = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS[:PROMPTS]]
    positions = [list(range(min(POSITIONS, len(prompt)))) for prompt in prompts]
    return _ask(model, Reference([], [], prompts, positions, [], prompts[0], [], None, False))


def _greedy(model: Any, reference: Reference) -> list[int]:
    """The likeliest tokens one after the other, up to the end of the turn."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    cache, unread = make_prompt_cache(model), reference.greedy_prompt
    answer: list[int] = []
    while len(answer) < GREEDY and (not answer or answer[-1] != reference.end_of_turn):
        answer.append(int(np.array(mx.argmax(model(mx.array([unread]), cache=cache)[0, -1]))))
        unread = answer[-1:]
    return answer


def _ask(model: Any, reference: Reference) -> Reference:
    reference.logits = [
        logits_of(model, tokens, places) for tokens, places in zip(reference.prompts, reference.positions, strict=True)
    ]
    tokens = [*reference.greedy_prompt, *_greedy(model, reference)]
    start = len(reference.greedy_prompt)
    reference.greedy = tokens[start:]
    # The greedy answer's own logits, so that a near tie can be told from a mistake.
    reference.prompts.append(tokens)
    reference.positions.append(list(range(start - 1, len(tokens) - 1)))
    reference.logits.append(logits_of(model, tokens, reference.positions[-1]))
    return reference
