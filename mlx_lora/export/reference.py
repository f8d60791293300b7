"""Reference logits: prompts for comparing an export, and the adapter's logits for them in MLX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch_encoding import common_length
from ..data.chat_template import encode_prompt
from ..data.dataset import Example, read_split
from ..data.tokenize import EncodedExample, encode_example
from ..engines.llamacpp.run import Request, evaluated
from ..errors import UserError
from ..models.tokenizer import open_tokenizer
from .source import Source
from .tensors import stored_tensors

# Enough positions to distinguish a good file from a bad one, few enough to keep in memory with any vocabulary.
PROMPTS, POSITIONS, LONGEST, GREEDY = 8, 24, 512, 24
# Multiplications allowed for the prompts, and tokens allowed in any case: a large model gets fewer prompts.
MULTIPLICATIONS, TOKENS = 2.5e11, 512
UNCUT = 10**9

# Probe texts of every export, independent of its training data.
# In Unicode's composed form (NFC): llama.cpp does not compose characters, and Qwen's own tokenizer does. Without </s>,
# which is ordinary text to Qwen, and which llama.cpp takes for a special token in any vocabulary.
TEXTS = (
    "The quick brown fox jumps over the lazy dog. It's what they'd've said, isn't it?",
    "  leading spaces,\ttabs,\n\n\nline ends \r\n and trailing ones   ",
    "1234567890 12 345 6,789.01 3.14159e-10 0xDEADBEEF 2026-11-22T12:00:00Z",
    "def f(x: int) -> str:\n    return f'{x!r}'  # 'quoted' \"twice\"\n\n\nclass A: ...\n",
    "Größe, naïve façade, œuvre, smørrebrød, żółć, Ħal Għargħur, ĲSSEL",
    "Съешь же ещё этих мягких французских булок. Ґрунт, її.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία· ὁ λόγος",
    "敏捷的棕色狐狸跳过懒狗。繁體字：龍龜鬱。",
    "いろはにほへと ちりぬるを、カタカナｶﾀｶﾅ。",
    "다람쥐 헌 쳇바퀴에 타고파.",
    "نص عربي مع تَشكيل و١٢٣٤ ثم English ثم فارسی‌ها",
    "עברית עם נִקּוּד 1948",
    "हिन्दी में लिखा हुआ वाक्य १२३, বাংলা বাক্য, தமிழ் வாக்கியம்",
    "ภาษาไทยไม่มีวรรค ลาว ລາວ မြန်မာ ខ្មែរ",
    "ქართული ენა, հայերեն, አማርኛ, ᏣᎳᎩ",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ❤️ and ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ≈ ½",
    "zero\u200bwidth\u200djoiners, no\u00a0break, \u2028line, \ufeffmark, \u0000nul, \u0007bell",
    "<not a token> <b> [INST] <|nonsense|> {{ braces }} {% tag %}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!!!!!!!!!!! ----------",
    "",
)
CONVERSATION = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
]


@dataclass
class Questions:
    """Prompts for comparing an export; they are built without a model.

    Attributes:
        conversations: source of the prompts, with their answers.
        encoded: the conversations tokenized as in training; empty if the model has no chat template.
        prompts, positions: token ids, and the tokens after which logits are taken; the shortest conversations.
        greedy_prompt: token ids of the prompt for greedy decoding.
        end_of_turn: the special token that ends an answer in training, if there is one.
        held_out: the prompts are held-out examples of the run.
    """

    conversations: list[list[dict[str, Any]]]
    encoded: list[EncodedExample]
    prompts: list[list[int]]
    positions: list[list[int]]
    greedy_prompt: list[int]
    end_of_turn: int | None
    held_out: bool

    def with_answer(self, greedy: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Return prompts and positions, followed by those of the greedy prompt with its answer."""
        start = len(self.greedy_prompt)
        if not greedy:
            return self.prompts, self.positions
        tokens = [*self.greedy_prompt, *greedy[:-1]]
        return [*self.prompts, tokens], [*self.positions, list(range(start - 1, len(tokens)))]


@dataclass
class Reference:
    """Reference logits: the adapter's in MLX, float32 [positions, vocabulary] of each prompt."""

    prompts: list[list[int]]
    positions: list[list[int]]
    logits: list[np.ndarray]


def reference_of(source: Source) -> Reference:
    """Compute the reference logits of the model with its adapter.

    Raises:
        UserError: it cannot be loaded, or see ``adapter_logits``.
    """
    tokenizer = open_tokenizer(source.model)
    parameters = sum(tensor.size for tensor in stored_tensors(source.model.path).values())
    questions = questions_of(source, tokenizer, parameters)
    return Reference(
        questions.prompts, questions.positions, adapter_logits(source, questions.prompts, questions.positions)
    )


def check_usable(name: str, logits: Sequence[np.ndarray]) -> None:
    """Raise UserError if a model's logits are non-finite, or all the same, as after an overflow."""
    for values in logits:
        if not np.isfinite(values).all() or not (values.max(axis=1) > values.min(axis=1)).all():
            raise UserError(
                f"{name}: in MLX this model's logits are not finite or all the same, since numbers in it are too "
                "large; look at how the adapter was trained"
            )


def questions_of(source: Source, tokenizer: Any, parameters: int) -> Questions:
    """Build prompts from the run's held-out conversations, or from built-in texts and a conversation.

    Args:
        parameters: number of the model's parameters, which limits the number of prompts.
    """
    rows = held_out(source)
    budget = max(TOKENS, int(MULTIPLICATIONS / max(1, parameters)))
    if getattr(tokenizer, "chat_template", None) is None:
        return _without_template(tokenizer, budget)
    chats = rows or [CONVERSATION]
    encoded = [encode_example(tokenizer, Example(chat), UNCUT) for chat in chats]
    prompts, positions = [], []
    for example in encoded:
        answered = np.flatnonzero(example.supervised)[:POSITIONS]
        prompts.append(example.ids[: answered[-1] + 1].tolist())
        positions.append((answered - 1).tolist())
    by_length = sorted(range(len(chats)), key=lambda i: len(prompts[i]))
    short = [i for i in by_length if len(prompts[i]) <= LONGEST] or by_length[:1]
    shortest = chats[short[0]]
    start = encode_prompt(tokenizer, shortest[: _last_answer(shortest)])[-LONGEST:]
    # The greedy answer uses the shortest prompt, so that one is left out first.
    used = _within(budget - len(start), [*short[1:], short[0]], prompts)
    last = int(encoded[0].ids[encoded[0].supervised][-1])
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    chosen = [prompts[i] for i in used], [positions[i] for i in used]
    end_of_turn = last if last in special or last in tokenizer.base_facts.ends else None
    return Questions(chats, encoded, *chosen, start, end_of_turn, held_out=bool(rows))


def _within(budget: int, order: list[int], prompts: list[list[int]]) -> list[int]:
    """Return the first prompts of ``order`` whose tokens fit the budget together; at least one."""
    tokens = np.cumsum([len(prompts[i]) for i in order])
    return order[: max(1, int(np.searchsorted(tokens, budget, side="right")))]


def held_out(source: Source) -> list[list[dict[str, Any]]]:
    """Return conversations of the run's test split, or its validation split, if its datasets still exist."""
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
            # Evenly spaced over the whole split, which may be sorted.
            return [rows[i * len(rows) // PROMPTS] for i in range(PROMPTS)] if len(rows) > PROMPTS else rows
    return []


def adapter_logits(
    source: Source, prompts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Compute the logits of the base with its adapter in MLX: float32 [positions, vocabulary] of each prompt.

    Raises:
        UserError: the logits are non-finite, or all the same, so that nothing can be compared with them.
    """
    from ..backends.mlx.layer_streaming import load_lazily, streamed_logits

    found = streamed_logits(lambda: load_lazily(source.model, source.adapter), prompts, positions)
    check_usable(source.name, found)
    return found


def drafted_answer(source: Source, gguf: Path, prompt: list[int], count: int, ends: set[int]) -> list[int]:
    """Decode the adapter's greedy answer in MLX speculatively, for a model that does not fit in memory.

    llama.cpp drafts it from the exported file; a pass over the weights keeps the draft up to the first mismatch. The
    end token is included.

    Raises:
        LlamaCppFailed: llama.cpp rejected the file, or crashed.
    """
    answer: list[int] = []
    while len(answer) < count and not (answer and answer[-1] in ends):
        known = [*prompt, *answer]
        with evaluated(Request(str(gguf), greedy=known, greedy_tokens=count - len(answer))) as drafted:
            draft = drafted.greedy
        places = list(range(len(known) - 1, len(known) + len(draft) - 1))
        own = adapter_logits(source, [[*known, *draft[:-1]]], [places])[0].argmax(axis=1).tolist()
        answer += own[: common_length(own, draft) + 1]
    return answer


def _last_answer(chat: list[dict[str, Any]]) -> int:
    return max(i for i, message in enumerate(chat) if message["role"] == "assistant")


def _without_template(tokenizer: Any, budget: int) -> Questions:
    """Build prompts of plain texts for a base model without a chat template."""
    prompts = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS[:PROMPTS]]
    used = [prompts[i] for i in _within(budget, list(range(len(prompts))), prompts)]
    positions = [list(range(min(POSITIONS, len(prompt)))) for prompt in used]
    return Questions([], [], used, positions, used[0], None, False)
