"""The citation weight, the published config and a run: through the true backend."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lora.config import TrainingConfig, load_config
from mlx_lora.data.dataset import Example
from mlx_lora.errors import UserError
from mlx_lora.sources.claims import (
    Document,
    Evidence,
    Sample,
    citation_weight,
    from_published,
    is_published,
    make_claims_dataset,
    to_example,
    validate,
)

PUBLISHED = {
    "name": "scifact claims/v1",
    "base_model": "meta-llama/Llama-3.1-8B-Instruct",
    "lora_rank": 16,
    "lora_alpha": 32,
    "learning_rate": "2.0e-4",
    "epochs": 3,
    "batch_size": 8,
    "warmup_steps": 100,
    "loss_fn_config": {"citation_validity_weight": 5.0},
}
SAMPLE = Sample(
    "1",
    "Stillness lowers risk.",
    [Evidence("12345", [0], "supports")],
    documents={"12345": Document("12345", "", ["Stillness lowers risk a lot."])},
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from mlx_lora.models.resolve import BUILT_IN

    return AutoTokenizer.from_pretrained(BUILT_IN["builtin/tiny-lumen"])


def test_the_weight_lies_on_the_tokens_of_the_id_with_mean_one(tokenizer):
    from mlx_lora.data.tokenize import encode_example

    encoded = encode_example(tokenizer, to_example(SAMPLE, 5.0), 2000)
    weights = encoded.token_weights
    assert weights[encoded.supervised].mean() == pytest.approx(1)
    heavy = weights == weights.max()
    assert weights.max() / weights[~heavy].max() == pytest.approx(5)
    assert tokenizer.decode(encoded.ids[heavy]) == "1234512345"
    assert encoded.supervised[heavy].all()


def test_the_weight_lies_on_the_id_with_a_real_tokenizer(realdata):
    from transformers import AutoTokenizer

    from mlx_lora.data.tokenize import encode_example

    folder = next(p.parent for p in sorted((realdata / "tokenizers").rglob("tokenizer_config.json")))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = encode_example(tokenizer, to_example(SAMPLE, 5.0), 2000)
    heavy = encoded.token_weights == encoded.token_weights.max()
    assert tokenizer.decode(encoded.ids[heavy]) == "1234512345"


def test_loss_and_gradient_are_those_of_a_hand_computation(make_model, tokenizer):
    """loss = Σ wᵢ ℓᵢ / N with wᵢ = c·5 on the id's tokens, c elsewhere, c such that the mean of w is 1."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    from mlx_lora.backends.mlx.backend import MLXBackend
    from mlx_lora.backends.mlx.loss import BatchArrays, loss_sums
    from mlx_lora.data.collate import collate
    from mlx_lora.data.tokenize import encode_example
    from mlx_lora.models.resolve import resolve_model

    example = to_example(SAMPLE, 5.0)
    encoded = encode_example(tokenizer, example, 2000)
    backend = MLXBackend(resolve_model(str(make_model("llama"))))
    backend.attach_lora(TrainingConfig(lora_rank=4, lora_dropout=0.0))

    # Where the id stands, from the tokens' own text: not from the encoder's weights.
    ids, targets = mx.array(encoded.ids[None]), np.flatnonzero(encoded.supervised)
    ends = np.cumsum([len(tokenizer.decode(encoded.ids[i : i + 1])) for i in targets])
    answer = example.messages[1]["content"]
    is_id = np.zeros(len(encoded.ids), dtype=bool)
    for place in (answer.index("12345"), answer.rindex("12345")):
        is_id[targets[(ends > place) & (ends <= place + 5)]] = True
    assert tokenizer.decode(encoded.ids[is_id]) == "1234512345"
    share = is_id[targets].mean()
    by_hand = np.where(is_id[targets], 5.0, 1.0) / (1 + 4 * share)

    def mean_loss(model, chosen):
        logits = model(ids)[0].astype(mx.float32)[mx.array(targets - 1)]
        losses = nn.losses.cross_entropy(logits, ids[0][mx.array(targets)])
        return (losses * mx.array(chosen.astype(np.float32))).sum() / len(targets)

    def gradient(loss):
        value, found = nn.value_and_grad(backend.model, loss)(backend.model)
        return float(value), {name: np.array(g) for name, g in tree_flatten(found)}

    on_ids, id_gradient = gradient(lambda m: mean_loss(m, is_id[targets]))
    elsewhere, other_gradient = gradient(lambda m: mean_loss(m, ~is_id[targets]))
    batch = collate([encoded])
    value, found = gradient(lambda m: loss_sums(m, backend.path, BatchArrays.of(batch))[0] / batch.tokens)
    c = by_hand.min()
    assert value == pytest.approx(c * (5 * on_ids + elsewhere), rel=1e-5)
    assert value != pytest.approx(on_ids + elsewhere, rel=1e-4)
    for name, g in found.items():
        np.testing.assert_allclose(g, c * (5 * id_gradient[name] + other_gradient[name]), rtol=1e-3, atol=1e-7)
    plain = encode_example(tokenizer, Example(example.messages), 2000)
    result = backend.train_step([batch], 1, 1e-3)
    assert result.loss == pytest.approx(value, rel=1e-5)
    assert result.plain_loss == pytest.approx(on_ids + elsewhere, rel=1e-5)
    assert plain.token_weights is None


def test_a_published_config_trains_as_it_is(tmp_path):
    file = tmp_path / "claims.json"
    file.write_text(json.dumps(PUBLISHED))
    config = load_config(file)
    assert config.model_name == "meta-llama/Llama-3.1-8B-Instruct"
    assert (config.lora_rank, config.lora_alpha, config.learning_rate) == (16, 32, 2e-4)
    assert (config.num_epochs, config.batch_size, config.gradient_accumulation_steps) == (3, 8, 1)
    assert (config.warmup_steps, config.max_seq_length) == (100, 2048)
    assert config.output_dir == "adapters/scifact-claims-v1"
    yaml = tmp_path / "claims.yaml"
    yaml.write_text("name: a\nbase_model: m\nlearning_rate: 2e-4\nlora_dropout: 0.1\nmax_seq_length: 700\n")
    assert (load_config(yaml).lora_dropout, load_config(yaml).max_seq_length) == (0.1, 700)
    assert load_config(yaml, ["num_epochs=9"]).num_epochs == 9


@pytest.mark.parametrize(
    ("changed", "errors"),
    [
        ({}, []),
        ({"name": ""}, ["name_required"]),
        ({"name": None, "base_model": None}, ["name_required", "base_model_required"]),
        ({"base_model": 7}, ["base_model_required"]),
        ({"lora_rank": 0}, ["invalid_lora_rank"]),
        ({"lora_rank": True}, ["invalid_lora_rank"]),
        ({"learning_rate": 0}, ["invalid_learning_rate"]),
        ({"learning_rate": float("nan")}, ["invalid_learning_rate"]),
        ({"learning_rate": "fast", "lora_rank": -1}, ["invalid_lora_rank", "invalid_learning_rate"]),
    ],
)
def test_errors_of_a_published_config(tmp_path, changed, errors):
    settings = {**PUBLISHED, **changed}
    assert validate(settings) == errors
    if errors:
        file = tmp_path / "c.json"
        file.write_text(json.dumps(settings))
        with pytest.raises(UserError, match=", ".join(errors)) as error:
            load_config(file)
        assert str(file) in str(error.value)
    assert validate({}) == ["name_required", "base_model_required"]


def test_other_mistakes_in_a_published_config(tmp_path):
    file = tmp_path / "c.json"
    for changed, said in (
        ({"loss_fn_config": {"citation_weight": 5}}, "nothing else has an effect here"),
        ({"loss_fn_config": {"citation_validity_weight": 0}}, "a number above 0"),
        ({"epoch": 3}, "no config key 'epoch'"),
        ({"epochs": "three"}, "num_epochs must be a whole number"),
    ):
        file.write_text(json.dumps({**PUBLISHED, **changed}))
        with pytest.raises(UserError, match=said):
            load_config(file)
    file.write_text(json.dumps({"epochs": 3}))
    with pytest.raises(UserError, match="nearest is 'num_epochs'"):
        load_config(file)
    assert citation_weight(PUBLISHED) == 5.0
    assert citation_weight({"name": "a"}) is None


@given(st.dictionaries(st.sampled_from([*PUBLISHED, "x"]), st.none() | st.integers() | st.floats() | st.text()))
def test_any_published_config_is_translated_or_refused(settings):
    is_published(settings)
    try:
        ours = from_published(settings)
    except UserError:
        return
    assert not set(ours) & {"name", "base_model", "epochs", "loss_fn_config"}
    assert ours["output_dir"].startswith("adapters/")
    assert "/" not in ours["output_dir"].removeprefix("adapters/")


@pytest.mark.slow
def test_a_run_on_claims_learns(tmp_path, command):
    """Quickstart-sized, on the built-in base, with a published config: the loss falls."""
    drugs = ("stone", "water", "light", "warmth", "rest", "touch", "sound", "time")
    with open(tmp_path / "corpus.jsonl", "w") as corpus, open(tmp_path / "claims.jsonl", "w") as claims:
        for i, drug in enumerate(drugs):
            corpus.write(json.dumps({"doc_id": i, "title": "", "abstract": [f"More {drug} is {i} good."]}) + "\n")
            evidence = {str(i): [{"sentences": [0], "label": "SUPPORT" if i % 2 else "REFUTE"}]}
            claims.write(json.dumps({"id": i, "claim": f"{drug} is {i} good.", "evidence": evidence}) + "\n")
    make_claims_dataset(tmp_path / "data", claims=[tmp_path / "claims.jsonl"], corpus=[tmp_path / "corpus.jsonl"])
    config = {**PUBLISHED, "name": "claims", "base_model": "builtin/tiny-lumen", "batch_size": 2, "epochs": 4}
    (tmp_path / "c.json").write_text(json.dumps({**config, "learning_rate": 5e-3, "warmup_steps": 2}))
    done = command("train", "--config", "c.json", "--data", "data", "--set", "log_steps=1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "adapters/claims/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
