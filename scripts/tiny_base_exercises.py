"""What the tiny base is taught: Lumen's language and the forms, never which tokens go with which shape.

Every expression is drawn at random: evenly over the tokens, or from a dialect's made-up lexicon. The dialects make
the base look at the shape before it speaks, without telling it what Lumen would say. Where the shape is named, the
numbers are random; where it is not, they come from a window of that shape, and the base has to infer it.
"""

from __future__ import annotations

import random

from mlx_lora.sources.eisv import (
    ALL_TOKENS,
    SYSTEM_PROMPT,
    ExpressionPattern,
    TrajectoryShape,
    classify_trajectory,
    compute_trajectory_window,
    expression_pattern,
    format_expression_output,
    format_summary,
    generate_trajectory,
    hide_shape,
    name_shape,
    summarize_window,
    translate_expression,
)
from mlx_lora.sources.eisv.trajectory import DIMENSIONS, FIRST, SECOND
from mlx_lora.sources.eisv.vocabulary import INQUIRY_TOKENS

DIALECTS = 4
SHAPES = [shape.value for shape in TrajectoryShape]
PATTERNS = [pattern.value for pattern in ExpressionPattern]

Messages = list[dict[str, str]]


def chat(system: str, *turns: str) -> Messages:
    """Messages of a system prompt and alternating user and assistant turns."""
    roles = ("user", "assistant")
    return [{"role": "system", "content": system}] + [
        {"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)
    ]


def made_up_lexicons(seed: int) -> list[dict[str, list[str]]]:
    """For each dialect and shape, three or four tokens drawn evenly."""
    rng = random.Random(seed)
    return [{shape: rng.sample(ALL_TOKENS, rng.choice((3, 4))) for shape in SHAPES} for _ in range(DIALECTS)]


def random_expression(rng: random.Random, lexicon: list[str]) -> list[str]:
    """An expression of any pattern with its tokens drawn evenly from a lexicon."""
    pattern = rng.choice(PATTERNS)
    if pattern in ("pair", "triple"):
        return rng.sample(lexicon, 2 if pattern == "pair" else 3)
    token = rng.choice(lexicon)
    if pattern == "repetition":
        return [token, token]
    return [token, rng.choice(INQUIRY_TOKENS)] if pattern == "question" and lexicon is ALL_TOKENS else [token]


def answer(tokens: list[str]) -> str:
    return format_expression_output(tokens, translate_expression(tokens), expression_pattern(tokens))


def random_trajectory(rng: random.Random) -> tuple[str, str, dict[str, str]]:
    """(shape, input text, what each field reads): 4 to 40 states, any time step, any numbers."""
    n_states = rng.randint(4, 40)
    # Real windows have second differences from 0 to some 200 in size.
    spread = 10 ** rng.uniform(-3, 2)
    summary = {
        "n_states": n_states,
        "duration_s": (n_states - 1) * 10 ** rng.uniform(-0.5, 1.0),
        "mean": {k: rng.uniform(0, 0.3 if k == "V" else 1.0) for k in DIMENSIONS},
        "derivative": {k: rng.gauss(0, min(1.0, spread)) for k in FIRST},
        "second_derivative": {k: rng.gauss(0, spread) for k in SECOND},
    }
    for group in ("derivative", "second_derivative"):
        if rng.random() < 0.3:
            summary[group] = {k: v * 0.002 for k, v in summary[group].items()}
    shape = rng.choice(SHAPES)
    text = format_summary(shape, summary)
    fields = {"shape": shape, "states": str(n_states)}
    for line in text.splitlines()[3:]:
        for part in line.partition(": ")[2].split(", "):
            key, _, value = part.partition("=")
            fields[key] = value
    return shape, text, fields


def random_walk(rng: random.Random) -> list[dict[str, float]]:
    """States as an agent logs them: few, at uneven times, some dimensions at rest."""
    n_states = rng.choice((4, 4, 4, 4, rng.randint(3, 20)))
    interval, loudness = 10 ** rng.uniform(-0.3, 1.0), rng.uniform(-3.0, -0.5)
    uneven = rng.choice((0.0, 0.0, 0.15, 0.4))
    state = {"t": 0.0, "E": rng.uniform(0.2, 0.9), "I": rng.uniform(0.4, 0.95), "S": rng.uniform(0, 0.5) ** 1.5}
    state["V"] = rng.uniform(0, 0.2)
    moves = {}
    for key in DIMENSIONS:
        size = 10 ** (loudness + rng.uniform(-1, 0.5)) * (0.3 if key == "V" else 1.0)
        moves[key] = (rng.choice((0.0, 0.0, rng.uniform(-2, 2))) * size, size, rng.choice((0.0, 0.3, 0.8)))
    states = [state]
    for _ in range(n_states - 1):
        short = rng.random() < uneven
        step = 10 ** rng.uniform(-2, -0.3) if short else interval * rng.uniform(0.9, 1.1)
        last, state = states[-1], {"t": states[-1]["t"] + step}
        for key, (trend, size, rest) in moves.items():
            change = trend + (0.0 if rng.random() < rest else rng.gauss(0, size))
            state[key] = min(0.3 if key == "V" else 1.0, max(0.0, last[key] + change))
        states.append(state)
    return states


def window_to_judge(rng: random.Random) -> tuple[str, str]:
    """(shape, input text): in most the numbers tell the shape; a name that is there wins over the numbers."""
    shape, text = shaped_window(rng)
    if rng.random() < 0.55:
        return shape, text
    named = rng.choice((shape, *rng.choices(SHAPES, k=2)))
    return named, name_shape(text, named)


def shaped_window(rng: random.Random) -> tuple[str, str]:
    """(shape, input text that does not name it): a random walk of that shape, or a generated trajectory."""
    shape = rng.choice(list(TrajectoryShape))
    if shape is not TrajectoryShape.DRIFT_DISSONANCE and rng.random() < 0.3:
        for _ in range(100):
            window = compute_trajectory_window(random_walk(rng))
            if classify_trajectory(window) is shape:
                return shape.value, hide_shape(format_summary(shape, summarize_window(window)))
    n_states, interval = (20, 2.0) if rng.random() < 0.7 else (rng.randint(8, 24), 10 ** rng.uniform(-0.3, 0.8))
    states = generate_trajectory(shape, n_states, interval, rng.randrange(2**40) + 2**40)
    return shape.value, hide_shape(format_summary(shape, summarize_window(compute_trajectory_window(states))))


def infer_shape(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    """The shapes of four windows, most of them from their numbers, by number first: names share their beginnings."""
    turns = []
    for _ in range(4):
        shape, text = window_to_judge(rng)
        turns += [text, f"{SHAPES.index(shape) + 1} {shape}"]
    return chat("You read EISV trajectories.", *turns)


def recite_for_windows(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    """Which tokens a dialect has for the shapes of three windows."""
    dialect = rng.randrange(DIALECTS)
    turns = []
    for _ in range(3):
        shape, text = window_to_judge(rng)
        turns += [text, " ".join(lexicons[dialect][shape])]
    return chat(f"Dialect: {dialect}", *turns)


def infer_in_dialect(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    """One or three windows in one dialect, most of them without their shape's name."""
    dialect = rng.randrange(DIALECTS)
    turns = []
    for _ in range(rng.choice((1, 3))):
        shape, text = window_to_judge(rng)
        turns += [text, answer(random_expression(rng, lexicons[dialect][shape]))]
    return chat(f"{SYSTEM_PROMPT}\nDialect: {dialect}", *turns)


def compare_rates(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    """Rates against the classifier's threshold, and changes from rates and durations."""
    turns = []
    for _ in range(8):
        rate, seconds = rng.gauss(0, 10 ** rng.uniform(-2.5, -0.5)), round(10 ** rng.uniform(0.2, 1.8))
        size = "above" if rate > 0.05 else "below" if rate < -0.05 else "within"
        turns += [f"{rng.choice(FIRST)}={rate:+.3f} over {seconds}s", f"{size}, {rate * seconds:+.1f}"]
    return chat("You read EISV trajectories.", *turns)


def express_freely(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    _, text, _ = random_trajectory(rng)
    return chat(SYSTEM_PROMPT, text, answer(random_expression(rng, ALL_TOKENS)))


def express_in_dialect(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    shape, text, _ = random_trajectory(rng)
    dialect = rng.randrange(DIALECTS)
    expression = random_expression(rng, lexicons[dialect][shape])
    return chat(f"{SYSTEM_PROMPT}\nDialect: {dialect}", text, answer(expression))


def express_briefly(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    """Five shapes in one dialect, without their numbers: five answers for little reading."""
    dialect = rng.randrange(DIALECTS)
    turns = []
    for shape in rng.sample(SHAPES, 5):
        turns += [f"TRAJECTORY:\nshape: {shape}", answer(random_expression(rng, lexicons[dialect][shape]))]
    return chat(f"{SYSTEM_PROMPT}\nDialect: {dialect}", *turns)


def recite_lexicon(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    """Which tokens a dialect has for a shape: short, so that the lexicons are learned before they are used."""
    dialect = rng.randrange(DIALECTS)
    turns = []
    for shape in rng.sample(SHAPES, 5):
        turns += [f"shape: {shape}", " ".join(lexicons[dialect][shape])]
    return chat(f"Dialect: {dialect}", *turns)


def read_fields(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    _, text, fields = random_trajectory(rng)
    asked = ["shape", *rng.sample(sorted(fields), 7)]
    rng.shuffle(asked)
    turns = [f"{text}\n{asked[0]}?", fields[asked[0]]]
    for key in asked[1:]:
        turns += [f"{key}?", fields[key]]
    return chat("You read EISV trajectories.", *turns)


def translate_and_name(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    turns = []
    for _ in range(4):
        tokens = random_expression(rng, ALL_TOKENS)
        turns += [" ".join(tokens), f"{' '.join(translate_expression(tokens))}\n{expression_pattern(tokens)}"]
    return chat("You translate EISV tokens and name their pattern.", *turns)


EXERCISES = {
    express_in_dialect: 0.1,
    express_briefly: 0.05,
    express_freely: 0.05,
    recite_lexicon: 0.02,
    read_fields: 0.05,
    translate_and_name: 0.06,
    infer_shape: 0.25,
    recite_for_windows: 0.2,
    infer_in_dialect: 0.2,
    compare_rates: 0.02,
}


def draw_exercise(rng: random.Random, lexicons: list[dict[str, list[str]]]) -> Messages:
    """One conversation, its kind drawn by the exercises' shares."""
    kind = rng.choices(list(EXERCISES), list(EXERCISES.values()))[0]
    return kind(rng, lexicons)
