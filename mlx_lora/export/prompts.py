"""Probe prompts: texts and a conversation on which every export is tested, independent of its training data."""

from __future__ import annotations

from typing import Any

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


def conversations(rows: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Return the run's own held-out conversations, or a built-in one if there are none."""
    return rows or [CONVERSATION]
