"""Experiences as an agent keeps them, each with words of its own."""

from __future__ import annotations

from mlx_lora.sources.salience import experience_id

WORDS = [
    *("lake", "boat", "stone", "river", "cloud", "lamp", "field", "house"),
    *("glass", "paper", "sound", "light", "winter", "bread", "horse", "tower"),
]


def exchange(number, total=0.6, prompt=None, response=None, **more):
    prompt = prompt or f"What about the {WORDS[number % 16]} and the {WORDS[number // 16]}?"
    response = response or (
        f"The {WORDS[number % 16]} of day {number} lay {number * 7} steps behind the {WORDS[number // 16]}."
    )
    scores = dict.fromkeys(("surprise", "novelty", "arousal", "reward", "conflict", "total"), total)
    return {
        "id": experience_id(prompt, response),
        "prompt": prompt,
        "response": response,
        "salience": scores,
        "session": 1,
        "phase": "x",
        "timestamp": f"2026-01-01T00:{number % 60:02}:00",
        "metadata": {},
        **more,
    }
