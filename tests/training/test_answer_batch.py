"""Answers that join and leave a running batch, and adapters that are switched, on MLX."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from run_fixtures import SEVEN, make_run, sharpen
from test_generation import COMMON, KINDS, PROMPTS, load
from test_generation import architecture as architecture

from mlx_lora.backends.answering import Sampling
from mlx_lora.backends.mlx import answer_batch
from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.models.resolve import resolve_model

GREEDY = Sampling(max_tokens=8)


def alone(backend, prompt, sampling=GREEDY):
    """The tokens of an answer alone, from an empty batch and without a kept prefix."""
    backend.weights_change()
    return together(backend, [prompt], [sampling])[0]


def together(backend, prompts, samplings, apart=2):
    """The tokens of answers, each of which joins ``apart`` steps after the one before it."""
    batch, found, numbers = backend.open_batch(), {}, []

    def step():
        for new in batch.step():
            found[new.row].append(new.token)

    for prompt, sampling in zip(prompts, samplings, strict=True):
        numbers.append(batch.join(prompt, sampling))
        found[numbers[-1]] = []
        for _ in range(apart):
            step()
    while len(batch):
        step()
    return [found[number] for number in numbers]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name != "nemotron_h"])
def test_an_answer_in_a_running_batch_is_the_one_alone(architecture, name):
    backend = load(architecture(name))
    expected = [alone(backend, prompt) for prompt in PROMPTS]
    assert len(set(map(tuple, expected))) > 1
    assert together(backend, PROMPTS, [GREEDY] * len(PROMPTS)) == expected
    assert together(backend, PROMPTS[::-1], [GREEDY] * len(PROMPTS), apart=0) == expected[::-1]
    # The llama batch is a real one.
    assert backend._generation.joins or name != "llama"


def test_one_alone_is_what_the_backend_generates(architecture):
    backend = load(architecture("qwen3"))
    texts = backend.generate(PROMPTS, GREEDY.max_tokens, 0.0, 0)
    assert [backend.tokenizer.decode(tokens) for tokens in together(backend, PROMPTS, [GREEDY] * 6)] == texts


def test_a_model_that_the_probe_refuses_answers_in_turn(architecture, monkeypatch):
    backend = load(architecture("llama"))
    expected = together(backend, PROMPTS, [GREEDY] * 6)
    real = answer_batch._logits_joined
    monkeypatch.setattr(answer_batch, "_logits_joined", lambda *arguments: real(*arguments) + 1)
    other = load(architecture("llama"))
    batch = other.open_batch()
    batch.join(PROMPTS[0], GREEDY)
    assert not other._generation.joins
    assert batch._in_turn
    assert not batch._together
    assert together(other, PROMPTS, [GREEDY] * 6) == expected


def test_a_seed_draws_the_same_in_any_company(architecture):
    backend = load(architecture("llama"))
    drawn = [Sampling(8, temperature=1.0, top_p=0.9, seed=seed) for seed in (1, 2, 1)]
    first, second, again = together(backend, [PROMPTS[0]] * 3, drawn)
    assert first == again != second
    assert alone(backend, PROMPTS[0], drawn[0]) == first
    assert alone(backend, PROMPTS[0], replace(drawn[0], top_p=1e-9)) == alone(backend, PROMPTS[0])


def test_a_row_that_leaves_changes_no_other(architecture):
    backend = load(architecture("llama"))
    expected = alone(backend, PROMPTS[1])
    batch = backend.open_batch()
    gone, kept = (batch.join(prompt, GREEDY) for prompt in PROMPTS[:2])
    tokens = [new.token for new in batch.step() if new.row == kept]
    batch.leave(gone)
    while len(batch):
        new = batch.step()
        assert [one.row for one in new] == [kept]
        tokens += [one.token for one in new]
    assert tokens == expected


def test_answers_end_at_an_end_of_turn_token_or_their_length(architecture):
    backend = load(architecture("llama"))
    tokens = alone(backend, PROMPTS[0])
    backend.base.ends = [tokens[3]]
    batch = backend.open_batch()
    batch.join(PROMPTS[0], GREEDY)
    batch.join(PROMPTS[0], Sampling(2))
    steps = [[new.finish for new in batch.step()] for _ in range(4)]
    assert len(batch) == 0
    assert [one for row in steps for one in row if one] == ["length", "stop"]


def test_scores_are_those_of_the_whole_text(architecture, monkeypatch):
    import mlx.core as mx

    monkeypatch.setattr(answer_batch, "SCORES_AT_ONCE", 10_000)
    backend = load(architecture("llama"))
    logits = np.array(backend.model(mx.array([PROMPTS[2]]))[0].astype(mx.float32))
    logprobs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    scores = backend.score_tokens(PROMPTS[2], 3)
    assert [score.token for score in scores] == PROMPTS[2][1:]
    for place, score in enumerate(scores):
        assert score.logprob == pytest.approx(logprobs[place, score.token], abs=1e-4)
        assert [token for token, _ in score.top] == np.argsort(-logprobs[place])[:3].tolist()
    batch, given = backend.open_batch(), []
    batch.join(PROMPTS[2], replace(GREEDY, top=3), given)
    assert given == scores
    (new,) = batch.step()
    assert new.score.top[0] == (new.token, pytest.approx(logprobs[-1].max(), abs=1e-4))


def test_the_kept_prefix_follows_a_conversation(architecture):
    backend = load(architecture("llama"))
    turns = [COMMON[:12], COMMON[:30], COMMON]
    expected = [alone(backend, turn) for turn in turns]
    backend.weights_change()
    batch = backend.open_batch()
    kept = []
    for turn, answer in zip(turns, expected, strict=True):
        row = batch.join(turn, GREEDY)
        kept.append(len(backend._generation._prefix.tokens) if backend._generation._prefix else 0)
        assert [new.token for _ in range(8) for new in batch.step() if new.row == row] == answer
    assert kept == [0, 10, 28]


@pytest.fixture(scope="module")
def runs(make_model, tmp_path_factory):
    """A base, and runs of different kinds on it."""
    base, out = sharpen(make_model("llama")), tmp_path_factory.mktemp("runs")
    settings = {
        "lora": {"lora_target_modules": SEVEN},
        "small": {"lora_rank": 2, "num_layers": 1, "lora_target_modules": ["v_proj"]},
        "dora": {"fine_tune_type": "dora"},
        "full": {"fine_tune_type": "full", "num_layers": 1},
    }
    return base, {name: make_run(base, out / name, **config) for name, config in settings.items()}


def test_a_switched_adapter_answers_as_a_freshly_loaded_run(runs):
    base, made = runs
    expected = {name: load_target(str(run)).backend.generate(PROMPTS, 12, 0.0, 0) for name, run in made.items()}
    expected[None] = load_target(str(base)).backend.generate(PROMPTS, 12, 0.0, 0)
    assert len({tuple(answers) for answers in expected.values()}) == len(expected)
    backend = MLXBackend(resolve_model(str(base)), wide=True)
    order = ["full", "lora", None, "dora", "lora", "small", "full", "dora", None, "full"]
    for name in order:
        backend.switch_adapter(made[name] if name else None)
        assert backend.generate(PROMPTS, 12, 0.0, 0) == expected[name], name
        tokens = together(backend, PROMPTS, [Sampling(12)] * 6)
        ends = backend.base.ends
        assert [backend.tokenizer.decode([t for t in row if t not in ends]) for row in tokens] == expected[name]
