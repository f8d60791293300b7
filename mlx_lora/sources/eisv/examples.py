"""Training examples: labels for trajectory records, and the splits."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from .generator import ExpressionGenerator, feedback_generator, translate_expression
from .prompt_format import (
    SYSTEM_PROMPT,
    expression_pattern,
    format_expression_output,
    format_trajectory_input,
    hide_shape,
)
from .synthetic import generate_trajectory
from .trajectory import TrajectoryShape, compute_trajectory_window, known_shape
from .vocabulary import GATE1_COHERENCE, expression_trajectory_coherence

SYNTHETIC_POINTS, SYNTHETIC_DT = 20, 2.0
# Seeds of the published project: the k-th shape's trajectories, and the labels of synthetic examples.
SHAPE_SEED_STRIDE, LABEL_SEED_OFFSET = 10_000, 50_000
FEEDBACK_DRAWS = 16

Labeller = Callable[[str], list[str]]


@dataclass
class TrainingExample:
    """Labelled training example: shape, tokens in both vocabularies, pattern, input and output text."""

    shape: str
    eisv_tokens: list[str]
    lumen_tokens: list[str]
    pattern: str
    input_text: str
    output_text: str


@dataclass
class DatasetStats:
    """Counts of a dataset's examples: in total, per shape, real and synthetic."""

    total: int
    per_shape: dict[str, int]
    real_count: int
    synthetic_count: int


def feedback_labeller(seed: int) -> Labeller:
    """Return a labeller: the generator after its feedback loop, with redraws of incoherent expressions.

    An expression that Gate 1 would fail (a question, say, in a shape without questions) is drawn again, at most
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
    """Build the example whose answer is ``tokens`` with their translation and pattern."""
    lumen, pattern = translate_expression(tokens), expression_pattern(tokens)
    return TrainingExample(
        shape=known_shape(shape).value,
        eisv_tokens=list(tokens),
        lumen_tokens=lumen,
        pattern=pattern,
        input_text=format_trajectory_input(shape, window),
        output_text=format_expression_output(tokens, lumen, pattern),
    )


def build_training_example(
    shape: TrajectoryShape | str, window: Mapping[str, Any], seed: int | None = None
) -> TrainingExample:
    """Build an example labelled by ``ExpressionGenerator(seed)``."""
    return label_example(shape, window, ExpressionGenerator(seed).generate(shape))


def build_training_dataset(
    real_records: Iterable[Mapping[str, Any]],
    min_per_shape: int = 50,
    seed: int = 42,
    *,
    label: Labeller | None = None,
) -> list[TrainingExample]:
    """Return one example per real record, then synthetic ones until each shape has ``min_per_shape``.

    Trajectories and labels are those of the published project for the same seed.

    Args:
        real_records: records with "shape" and a window; read once, so they may be a stream.
        label: draws the tokens for a shape; by default each example's own ``ExpressionGenerator``.

    Raises:
        ValueError: a record of an unknown shape.
    """
    examples: list[TrainingExample] = []

    def add(shape: TrajectoryShape, window: Mapping[str, Any], label_seed: int) -> None:
        tokens = label(shape.value) if label else ExpressionGenerator(label_seed).generate(shape)
        examples.append(label_example(shape, window, tokens))

    for i, record in enumerate(real_records):
        add(known_shape(record["shape"]), record, seed + i)
    real = Counter(example.shape for example in examples)
    for k, shape in enumerate(TrajectoryShape):
        for i in range(min_per_shape - real[shape.value]):
            trajectory_seed = seed + SHAPE_SEED_STRIDE * (k + 1) + i
            states = generate_trajectory(shape, SYNTHETIC_POINTS, SYNTHETIC_DT, trajectory_seed)
            add(shape, compute_trajectory_window(states), trajectory_seed + LABEL_SEED_OFFSET)
    return examples


def dataset_stats(examples: Sequence[TrainingExample], real_count: int) -> DatasetStats:
    """Return the counts of a dataset whose first ``real_count`` examples come from real records."""
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
    """Return (train, val, test), stratified by shape, as the published project draws them for the same seed.

    An example whose input text is already in an earlier split moves there: identical inputs lie in one split.
    With the default ratios a shape needs 8 examples to be in every split; fewer leave the validation split out.

    Raises:
        ValueError: the ratios are not shares of one whole.
    """
    if train_ratio <= 0 or val_ratio < 0 or train_ratio + val_ratio > 1:
        raise ValueError(f"train_ratio {train_ratio} and val_ratio {val_ratio} must be shares that add up to at most 1")
    rng = random.Random(seed)
    groups: dict[str, list[TrainingExample]] = defaultdict(list)
    for example in examples:
        groups[example.shape].append(example)
    drawn: tuple[list[TrainingExample], ...] = ([], [], [])
    for shape in sorted(groups):
        group = groups[shape]
        rng.shuffle(group)
        n_train, n_val = _split_sizes(len(group), train_ratio, val_ratio)
        bounds = (0, n_train, n_train + n_val, len(group))
        for split, (start, end) in zip(drawn, pairwise(bounds), strict=True):
            split += group[start:end]
    return _without_leaks(drawn)


def _split_sizes(n: int, train_ratio: float, val_ratio: float) -> tuple[int, int]:
    """Return the training and validation sizes of a shape that has ``n`` examples; the published rule."""
    n_train = max(1, round(n * train_ratio))
    n_val = max(1, round(n * val_ratio)) if n > 2 else 0
    if n_train + n_val >= n:
        n_val = max(0, n - n_train - 1) if n > 1 else 0
    return n_train, n_val


def _without_leaks(
    splits: Sequence[Sequence[TrainingExample]],
) -> tuple[list[TrainingExample], list[TrainingExample], list[TrainingExample]]:
    """Move each example whose input text is in an earlier split to the end of that split."""
    kept: tuple[list[TrainingExample], list[TrainingExample], list[TrainingExample]] = ([], [], [])
    home: dict[str, int] = {}
    for number, split in enumerate(splits):
        for example in split:
            kept[home.setdefault(example.input_text, number)].append(example)
    return kept


def hide_shapes(examples: Sequence[TrainingExample], share: float, seed: int) -> list[TrainingExample]:
    """Return the examples with the shape's name removed from the input text of about ``share`` of them."""
    rng = random.Random(seed)
    return [
        replace(example, input_text=hide_shape(example.input_text)) if rng.random() < share else example
        for example in examples
    ]


def format_chat_messages(example: TrainingExample) -> list[dict[str, str]]:
    """Return the system, user and assistant messages of an example."""
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": example.input_text},
        {"role": "assistant", "content": example.output_text},
    ]


def format_for_tokenizer(example: TrainingExample) -> dict[str, Any]:
    """Return ``{"text", "shape", "pattern", "messages"}``; the text is the three messages joined by blank lines."""
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
    """Return (train, val, test) of :func:`format_for_tokenizer`'s dicts."""
    examples = build_training_dataset(real_records, min_per_shape, seed)
    train, val, test = split_dataset(examples, seed=seed)
    return tuple([format_for_tokenizer(e) for e in split] for split in (train, val, test))  # type: ignore[return-value]
