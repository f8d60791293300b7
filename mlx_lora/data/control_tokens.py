"""Control token text, such as ``<|cit|>``: find it in messages, and strip it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# The forms that published tokenizers give their control tokens. Content tags such as <think> and <tool_call> are
# not included: models learn to write them.
CONTROL = re.compile(
    r"<\|[^\s<>|]{1,60}\|>"  # ChatML, Llama 3, Phi
    r"|<｜[^\s<>｜]{1,60}｜>"  # DeepSeek
    r"|\[/?INST\]|<</?SYS>>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"  # Llama 2, Mistral
    r"|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|mask)>|<extra_id_\d+>"  # SentencePiece, Gemma, T5
)
Intervals = list[tuple[int, int]]


def matching(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern that matches exactly these tokens, the longest first; ``None`` if there are none."""
    some = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, some))) if some else None


def strip_control_tokens(text: str, pattern: re.Pattern[str] = CONTROL) -> tuple[str, list[str], list[Intervals]]:
    """Strip control tokens from a text, with brackets that hold nothing else and the blank before them.

    Returns:
        The text, the tokens, and the (start, end) that each pass removed; the remainder of ``<|a<|b|>|>`` after
        one pass is a token again.
    """
    mark = f"(?:{pattern.pattern})"
    whole = re.compile(rf"[ \t]?[\[(]\s?{mark}(?:\s?[,;]?\s?{mark})*\s?[\])]|[ \t]{mark}(?=[\s.,;:!?)\]]|$)|{mark}")
    tokens: list[str] = []
    passes: list[Intervals] = []
    while pattern.search(text):
        tokens += pattern.findall(text)
        removed = [match.span() for match in whole.finditer(text)]
        text = _without(text, removed)
        passes.append(removed)
    return text, tokens, passes


def _without(text: str, removed: Intervals) -> str:
    kept, position = [], 0
    for start, end in removed:
        kept.append(text[position:start])
        position = end
    return "".join([*kept, text[position:]])


def moved(position: int, passes: Sequence[Intervals]) -> int:
    """Return the position of a character after the passes of :func:`strip_control_tokens`."""
    for removed in passes:
        position -= sum(max(0, min(end, position) - start) for start, end in removed if start < position)
    return position
