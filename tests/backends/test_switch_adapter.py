"""Adapters that are switched on one base, and answers that grow together, on both backends."""

from __future__ import annotations

import pytest
from backend_fixtures import BACKENDS, sharp_model
from run_fixtures import SEVEN, make_run

from mlx_lora.backends.answering import Sampling
from mlx_lora.models.resolve import resolve_model

PROMPTS = [[5, 9, 2, 700, 31], [88, 3, 17], [5, 9, 2, 701, 4, 6, 90]]
KINDS = {
    "lora": {"lora_target_modules": SEVEN},
    "small": {"lora_rank": 2, "num_layers": 1, "lora_target_modules": ["v_proj"]},
    "dora": {"fine_tune_type": "dora"},
    "full": {"fine_tune_type": "full", "num_layers": 1},
}


@pytest.fixture(scope="module")
def runs(make_model, tmp_path_factory):
    base, out = sharp_model(make_model("llama")), tmp_path_factory.mktemp("runs")
    return base, {name: make_run(base, out / name, **config) for name, config in KINDS.items()}


def answers(backend, sampling):
    """The texts of a batch that the prompts join one after the other."""
    batch, texts = backend.open_batch(), {}
    for prompt in PROMPTS:
        texts[batch.join(prompt, sampling)] = []
        for new in batch.step():
            texts[new.row].append(new)
    while len(batch):
        for new in batch.step():
            texts[new.row].append(new)
    return [backend.tokenizer.decode([n.token for n in row if n.finish != "stop"]) for row in texts.values()]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_switched_adapter_answers_as_a_fresh_one(runs, name):
    base, made = runs

    def fresh(adapter):
        backend = BACKENDS[name](resolve_model(str(base)))
        if adapter:
            backend.load_adapter(made[adapter])
        return backend.generate(PROMPTS, 8, 0.0, 0)

    expected = {adapter: fresh(adapter) for adapter in (*made, None)}
    assert len({tuple(texts) for texts in expected.values()}) == len(expected)
    backend = BACKENDS[name](resolve_model(str(base)))
    for adapter in ("full", "lora", None, "dora", "lora", "small", "full", "dora", None, "full"):
        backend.switch_adapter(made.get(adapter))
        assert backend.generate(PROMPTS, 8, 0.0, 0) == expected[adapter], adapter
        assert answers(backend, Sampling(8)) == expected[adapter], adapter


def test_both_give_the_same_scores(runs):
    base, made = runs
    scores = []
    for kind in BACKENDS.values():
        backend = kind(resolve_model(str(base)))
        backend.switch_adapter(made["lora"])
        batch, given = backend.open_batch(), []
        batch.join(PROMPTS[0], Sampling(3, top=4), given)
        assert given == backend.score_tokens(PROMPTS[0], 4)
        scores.append([*backend.score_tokens(PROMPTS[2], 4), *(batch.step()[0].score for _ in range(3))])
        batch.join(PROMPTS[0], Sampling(3, top=4))
        assert [batch.step()[0].token for _ in range(3)] == [score.token for score in scores[-1][-3:]]
    for one, other in zip(*scores, strict=True):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]


def test_a_seed_draws_on_torch_what_it_drew(runs):
    backend = BACKENDS["torch"](resolve_model(str(runs[0])))
    drawn = [answers(backend, Sampling(8, temperature=1.0, top_p=0.9, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert answers(backend, Sampling(8, temperature=1.0, top_p=1e-9)) == answers(backend, Sampling(8))
