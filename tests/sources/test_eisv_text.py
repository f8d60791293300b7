import json
from collections import Counter

import pytest

from mlx_lora.sources.eisv import (
    SYSTEM_PROMPT,
    ExpressionPattern,
    build_training_dataset,
    build_training_example,
    compute_trajectory_window,
    dataset_stats,
    expression_pattern,
    format_chat_messages,
    format_expression_output,
    format_for_tokenizer,
    format_trajectory_input,
    generate_dataset,
    generate_trajectory,
    hide_shape,
    make_eisv_dataset,
    name_shape,
    parse_model_output,
    prepare_training_data,
    split_dataset,
    validate_output,
)


def test_input_text():
    states = [{"t": 2.0 * i, "E": 0.72, "I": 0.65, "S": 0.2, "V": 0.08} for i in range(20)]
    assert format_trajectory_input("settled_presence", compute_trajectory_window(states)) == (
        "TRAJECTORY:\n"
        "shape: settled_presence\n"
        "window: 20 states over 38s\n"
        "eisv_mean: E=0.72, I=0.65, S=0.20, V=0.08\n"
        "derivatives: dE=+0.000, dI=+0.000, dS=+0.000, dV=+0.000\n"
        "second_derivatives: d2E=+0.000, d2I=+0.000, d2S=+0.000, d2V=+0.000"
    )
    bare = format_trajectory_input("convergence", {"states": states[:1], "derivatives": [], "second_derivatives": []})
    assert "window: 1 states over 0s" in bare
    assert "dE=+0.000" in bare


def test_output_text_and_back():
    text = format_expression_output(["~warmth~", "~stillness~"], ["warm", "quiet"], ExpressionPattern.PAIR)
    assert text == "EISV_TOKENS: ~warmth~ ~stillness~\nLUMEN_TOKENS: warm quiet\nPATTERN: PAIR"
    assert validate_output(parse_model_output(text))
    for broken in (text.replace("PAIR", "DUET"), text.replace("quiet", "loud"), text.replace("~warmth~", "warmth")):
        assert parse_model_output(broken).valid
        assert not validate_output(parse_model_output(broken))


@pytest.mark.parametrize(
    ("tokens", "pattern"),
    [
        (["~warmth~"], "SINGLE"),
        (["~warmth~", "~warmth~"], "REPETITION"),
        (["~curiosity~", "~curiosity~"], "REPETITION"),
        (["~warmth~", "~questioning~"], "QUESTION"),
        (["~questioning~", "~warmth~"], "PAIR"),
        (["~warmth~", "~ripple~", "~questioning~"], "TRIPLE"),
    ],
)
def test_patterns(tokens, pattern):
    assert expression_pattern(tokens) == pattern


def test_examples():
    window = compute_trajectory_window(generate_trajectory("void_rising", seed=1))
    example = build_training_example("void_rising", window, seed=4)
    assert example == build_training_example("void_rising", window, seed=4)
    assert example.shape == "void_rising"
    assert validate_output(parse_model_output(example.output_text))
    messages = format_chat_messages(example)
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[0]["content"] == SYSTEM_PROMPT
    row = format_for_tokenizer(example)
    assert set(row) == {"text", "shape", "pattern", "messages"}
    assert example.output_text in row["text"]
    assert all(line in SYSTEM_PROMPT for line in ("EISV_TOKENS:", "LUMEN_TOKENS:", "PATTERN:"))


def test_dataset_keeps_real_records_and_fills_up():
    real = [{**r, "provenance": "lumen_real"} for r in generate_dataset({"convergence": 7}, base_seed=1)]
    examples = build_training_dataset(iter(real), min_per_shape=5, seed=1)
    assert [e.shape for e in examples[:7]] == ["convergence"] * 7
    assert Counter(e.shape for e in examples) == {
        **dict.fromkeys(Counter(e.shape for e in examples), 5),
        "convergence": 7,
    }
    assert "20 states" in examples[-1].input_text
    stats = dataset_stats(examples, 7)
    assert (stats.total, stats.real_count, stats.synthetic_count) == (47, 7, 40)
    assert stats.per_shape["convergence"] == 7
    assert examples == build_training_dataset(real, min_per_shape=5, seed=1)


@pytest.mark.parametrize("per_shape", [20, 50])
def test_split_is_stratified_and_leaks_nothing(per_shape):
    examples = build_training_dataset([], min_per_shape=per_shape)
    examples += examples[::per_shape]  # one input text of each shape once more
    splits = split_dataset(examples, seed=3)
    assert sum(map(len, splits)) == len(examples)
    for split in splits:
        assert len({e.shape for e in split}) == 9
    texts = [{e.input_text for e in split} for split in splits]
    assert len(set.union(*texts)) == sum(map(len, texts))
    assert splits == split_dataset(examples, seed=3)
    assert splits != split_dataset(examples, seed=4)
    if per_shape == 50:
        assert len(splits[0]) == pytest.approx(0.8 * len(examples), abs=9)


def test_the_shape_can_be_left_unnamed():
    text = format_trajectory_input("void_rising", compute_trajectory_window(generate_trajectory("void_rising", seed=1)))
    hidden = hide_shape(text)
    assert hidden.splitlines() == [line for line in text.splitlines() if not line.startswith("shape")]
    assert "void" not in hidden
    assert name_shape(hidden, "void_rising") == name_shape(text, "void_rising") == text


@pytest.mark.slow
@pytest.mark.parametrize(("share", "hidden"), [(0.0, 0), (0.5, 43), (1.0, 90)])
def test_a_share_of_a_dataset_hides_the_shape(tmp_path, share, hidden):
    card = make_eisv_dataset(tmp_path / "d", min_per_shape=10, hide_shape=share)
    plain = make_eisv_dataset(tmp_path / "e", min_per_shape=10)
    assert card["hide_shape"] == share
    assert card["splits"] == plain["splits"]
    found = 0
    for split in ("train", "valid", "test"):
        rows, named = (
            [json.loads(line) for line in (tmp_path / d / f"{split}.jsonl").read_text().splitlines()] for d in "de"
        )
        for row, whole in zip(rows, named, strict=True):
            text, full = (r["messages"][1]["content"] for r in (row, whole))
            assert text in (full, hide_shape(full))
            found += text != full
            assert (row["meta"], row["messages"][2]) == (whole["meta"], whole["messages"][2])
    assert found == pytest.approx(hidden, abs=8 if 0 < share < 1 else 0)


def test_split_refuses_shares_that_do_not_add_up():
    with pytest.raises(ValueError, match="at most 1"):
        split_dataset([], train_ratio=0.9, val_ratio=0.2)


def test_prepared_data():
    train, val, test = prepare_training_data([], min_per_shape=5)
    assert len(train) + len(val) + len(test) == 45
    assert train[0]["messages"][2]["content"].startswith("EISV_TOKENS: ")
