"""From trajectory records to labelled training examples and their splits."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .expression import ExpressionGenerator, feedback_generator, translate_expression
from .judging import GATE1_COHERENCE, expression_trajectory_coherence
from .synthetic import generate_dataset
from .text import SYSTEM_PROMPT, expression_pattern, format_expression_output, format_trajectory_input
from .trajectory import TrajectoryShape, shape_name

SYNTHETIC_POINTS, SYNTHETIC_DT = 20, 2.0
FEEDBACK_DRAWS = 16

Labeller = Callable[[str], list[str]]


@dataclass
class TrainingExample:
    shape: str
    eisv_tokens: list[str]
    lumen_tokens: list[str]
    pattern: str
    input_text: str
    output_text: str


@dataclass
class DatasetStats:
    total: int
    per_shape: dict[str, int]
    real_count: int
    synthetic_count: int


def feedback_labeller(seed: int) -> Labeller:
    """Labels from the generator after its feedback loop, by the rule the loop itself follows.

    An expression that Gate 1 would fail (a question, say, in a shape that asks none) is drawn again, at most
    16 times, so the labels are varied and coherent at once.
    """
    generator = feedback_generator(seed)

    def label(shape: str) -> list[str]:
        draws = [generator.generate(shape)]
        while expression_trajectory_coherence(shape, draws[-1]) <= GATE1_COHERENCE and len(draws) < FEEDBACK_DRAWS:
            draws.append(generator.generate(shape))
        return max(draws, key=lambda tokens: expression_trajectory_coherence(shape, tokens))

    return label


def label_example(shape: TrajectoryShape | str, window: Mapping[str, Any], tokens: Sequence[str]) -> TrainingExample:
    """The example whose answer is ``tokens`` with their translation and pattern."""
    lumen, pattern = translate_expression(tokens), expression_pattern(tokens)
    return TrainingExample(
        shape=shape_name(shape),
        eisv_tokens=list(tokens),
        lumen_tokens=lumen,
        pattern=pattern,
        input_text=format_trajectory_input(shape, window),
        output_text=format_expression_output(tokens, lumen, pattern),
    )


def build_training_example(
    shape: TrajectoryShape | str, window: Mapping[str, Any], seed: int | None = None
) -> TrainingExample:
    """An example labelled by ``ExpressionGenerator(seed)``."""
    return label_example(shape, window, ExpressionGenerator(seed).generate(shape))


def build_training_dataset(
    real_records: Iterable[Mapping[str, Any]],
    min_per_shape: int = 50,
    seed: int = 42,
    *,
    label: Labeller | None = None,
) -> list[TrainingExample]:
    """One example a real record, then synthetic ones until each shape has ``min_per_shape``.

    Args:
        real_records: records with "shape" and a window; read once, so they may be a stream.
        label: draws the tokens for a shape; by default each example's own ``ExpressionGenerator``.
    """
    examples: list[TrainingExample] = []

    def add(record: Mapping[str, Any]) -> None:
        shape = shape_name(record["shape"])
        tokens = label(shape) if label else ExpressionGenerator(seed + len(examples)).generate(shape)
        examples.append(label_example(shape, record, tokens))

    for record in real_records:
        add(record)
    real = Counter(example.shape for example in examples)
    missing = {shape: max(0, min_per_shape - real[shape.value]) for shape in TrajectoryShape}
    for record in generate_dataset(missing, SYNTHETIC_POINTS, SYNTHETIC_DT, seed):
        add(record)
    return examples


def dataset_stats(examples: Sequence[TrainingExample], real_count: int) -> DatasetStats:
    """Counts of a dataset whose first ``real_count`` examples come from real records."""
    per_shape = Counter(example.shape for example in examples)
    return DatasetStats(
        total=len(examples),
        per_shape={shape.value: per_shape[shape.value] for shape in TrajectoryShape},
        real_count=real_count,
        synthetic_count=len(examples) - real_count,
    )


def split_dataset(
    examples: Sequence[TrainingExample], train_ratio: float = 0.8, val_ratio: float = 0.1, seed: int = 42
) -> tuple[list[TrainingExample], list[TrainingExample], list[TrainingExample]]:
    """(train, val, test), stratified by shape; the same seed gives the same split.

    Examples with one input text stay together, and a shape with at least three distinct texts is in every split.
    """
    if train_ratio <= 0 or val_ratio < 0 or train_ratio + val_ratio > 1:
        raise ValueError(f"train_ratio {train_ratio} and val_ratio {val_ratio} must be shares that add up to at most 1")
    rng = random.Random(seed)
    groups: dict[str, dict[str, list[TrainingExample]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        groups[example.shape][example.input_text].append(example)
    splits: tuple[list[TrainingExample], ...] = ([], [], [])
    for shape in sorted(groups):
        texts = sorted(groups[shape])
        rng.shuffle(texts)
        held = [round(len(texts) * val_ratio), round(len(texts) * (1 - train_ratio - val_ratio))]
        if len(texts) >= 3:
            held = [max(1, count) for count in held]
            held[0] = min(held[0], len(texts) - 1 - held[1])
        train_end = max(1, len(texts) - sum(held))
        bounds = [0, train_end, train_end + held[0], len(texts)]
        for split, start, end in zip(splits, bounds, bounds[1:], strict=False):
            split += [example for text in texts[start:end] for example in groups[shape][text]]
    for split in splits:
        rng.shuffle(split)
    return splits[0], splits[1], splits[2]


def format_chat_messages(example: TrainingExample) -> list[dict[str, str]]:
    """System, user and assistant messages of an example."""
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": example.input_text},
        {"role": "assistant", "content": example.output_text},
    ]


def format_for_tokenizer(example: TrainingExample) -> dict[str, Any]:
    """``{"text", "shape", "pattern", "messages"}``; the text is the three messages, a blank line between."""
    messages = format_chat_messages(example)
    return {
        "text": "\n\n".join(message["content"] for message in messages),
        "shape": example.shape,
        "pattern": example.pattern,
        "messages": messages,
    }


def prepare_training_data(
    real_records: Iterable[Mapping[str, Any]], min_per_shape: int = 50, seed: int = 42
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """(train, val, test) of :func:`format_for_tokenizer`'s dicts."""
    examples = build_training_dataset(real_records, min_per_shape, seed)
    train, val, test = split_dataset(examples, seed=seed)
    return tuple([format_for_tokenizer(e) for e in split] for split in (train, val, test))  # type: ignore[return-value]
