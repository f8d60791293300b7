"""Labels, splits and prompts of the published EISV project for the same seed."""

import random
from dataclasses import replace

import pytest

from mlx_lora.sources.eisv import (
    ExpressionGenerator,
    TrajectoryShape,
    build_training_dataset,
    build_training_example,
    compute_trajectory_window,
    expression_trajectory_coherence,
    fill_missing_shapes,
    format_eisv_prompt,
    format_trajectory_input,
    generate_dataset,
    generate_trajectory,
    name_shape,
    prepare_training_data,
    split_dataset,
)

# spec, section 6: no real records, 5 a shape, seed 42; the shapes in alphabetical order.
GOLDEN = [
    "boundary threshold",
    "ripple reaching emergence",
    "resonance resonance",
    "boundary resonance emergence",
    "return resonance boundary",
    "resonance",
    "stillness reaching return",
    "threshold return deep_listening",
    "questioning curiosity",
]


def test_the_golden_test_labels():
    _, _, test = split_dataset(build_training_dataset([], min_per_shape=5, seed=42), seed=42)
    assert [" ".join(t.strip("~") for t in e.eisv_tokens) for e in test] == GOLDEN
    assert [e.shape for e in test] == sorted(s.value for s in TrajectoryShape)
    scores = [expression_trajectory_coherence(e.shape, e.eisv_tokens) for e in test]
    assert sum(scores) / 9 == pytest.approx(0.5185, abs=5e-5)
    rows = prepare_training_data([], min_per_shape=5, seed=42)[2]
    assert [r["messages"][2]["content"] for r in rows] == [e.output_text for e in test]


def test_seeds_of_trajectories_and_labels():
    real = generate_dataset({"convergence": 3}, base_seed=1)
    examples = build_training_dataset(real, min_per_shape=4, seed=7)
    for i, example in enumerate(examples[:3]):
        assert example.eisv_tokens == ExpressionGenerator(7 + i).generate("convergence")
    # The only synthetic convergence is its shape's first, though three real ones are there.
    for k, shape in enumerate(TrajectoryShape):
        count = 1 if shape is TrajectoryShape.CONVERGENCE else 4
        made = [e for e in examples[3:] if e.shape == shape.value]
        assert len(made) == count
        for i, example in enumerate(made):
            seed = 7 + 10_000 * (k + 1) + i
            window = compute_trajectory_window(generate_trajectory(shape, 20, 2.0, seed))
            assert example == build_training_example(shape, window, seed + 50_000)


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (1, (1, 0, 0)),
        (2, (2, 0, 0)),
        (3, (2, 0, 1)),
        (4, (3, 0, 1)),
        (7, (6, 0, 1)),
        (8, (6, 1, 1)),
        (10, (8, 1, 1)),
        (57, (46, 6, 5)),
    ],
)
def test_split_sizes_and_order(n, sizes):
    window = compute_trajectory_window(generate_trajectory("convergence", 5, seed=1))
    example = build_training_example("convergence", window, 1)
    examples = [replace(example, input_text=str(i)) for i in range(n)]
    splits = split_dataset(examples, seed=9)
    assert tuple(map(len, splits)) == sizes
    random.Random(9).shuffle(examples)
    assert [e for split in splits for e in split] == examples


def test_one_generator_shuffles_all_shapes():
    examples = build_training_dataset([], min_per_shape=10, seed=3)
    train, val, test = split_dataset(examples, seed=5)
    rng = random.Random(5)
    for shape in sorted(s.value for s in TrajectoryShape):
        group = [e for e in examples if e.shape == shape]
        rng.shuffle(group)
        drawn = [[e for e in split if e.shape == shape] for split in (train, val, test)]
        assert drawn == [group[:8], group[8:9], group[9:]]


@pytest.mark.parametrize("seed", range(20))
def test_identical_inputs_lie_in_the_first_of_their_splits(seed):
    examples = build_training_dataset([], min_per_shape=10, seed=seed)
    rng = random.Random(seed)
    # Copies within a shape and, without the shape's name, between shapes.
    examples = [replace(e, input_text=f"window {rng.randrange(60)}") for e in examples]
    splits = split_dataset(examples, seed=seed)
    texts = [{e.input_text for e in split} for split in splits]
    assert sum(map(len, splits)) == len(examples)
    assert len(set.union(*texts)) == sum(map(len, texts))
    drawn = split_dataset([replace(e, input_text=str(i)) for i, e in enumerate(examples)], seed=seed)
    first: dict[str, int] = {}
    for number, split in enumerate(drawn):
        for e in split:
            first.setdefault(examples[int(e.input_text)].input_text, number)
    assert all(number == first[text] for number, found in enumerate(texts) for text in found)


def test_the_published_prompt():
    state = {"E": 0.7, "I": 1, "S": 0.25}
    assert format_eisv_prompt(state, TrajectoryShape.VOID_RISING) == (
        "EISV State: E=0.7 I=1 S=0.25 V=0.0\nTrajectory: void_rising\nExpress this state using primitive tokens."
    )


WINDOW = compute_trajectory_window(generate_trajectory("convergence", 5, seed=1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: format_eisv_prompt({}, "spiral"),
        lambda: format_trajectory_input("spiral", WINDOW),
        lambda: name_shape("TRAJECTORY:", "spiral"),
        lambda: build_training_example("spiral", WINDOW),
        lambda: build_training_dataset([{"shape": "spiral", **WINDOW}], 0),
        lambda: generate_trajectory("spiral"),
        lambda: generate_dataset({"spiral": 1}),
        lambda: fill_missing_shapes([{"shape": "spiral"}]),
    ],
)
def test_an_unknown_shape_is_said_first(call):
    with pytest.raises(ValueError, match=r"^Unknown shape 'spiral': it must be one of settled_presence, "):
        call()
