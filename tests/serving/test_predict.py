"""Entailment and embeddings: heuristics that say so, and real local models where torch is installed."""

from __future__ import annotations

import json
import math

import pytest
from chat_helpers import chat_service

from mlx_lora.errors import UserError
from mlx_lora.serving.chat.predictors import hashed_words


@pytest.fixture
def predictors(tmp_path):
    (tmp_path / "models").mkdir()
    with chat_service(tmp_path / "state", tmp_path / "models", start=False) as chat:
        yield chat.predictors


def test_without_a_model_the_answers_are_labelled(predictors):
    found = predictors.entailment("Aspirin reduces the risk of stroke.", "Aspirin reduces risk.", None)
    other = predictors.entailment("The sky is blue.", "Aspirin reduces risk.", "cross-encoder/nli")
    assert (found.method, other.method) == ("heuristic", "heuristic")
    assert (found.reason, other.reason) == ("no model is named", "the model is not on this machine")
    assert 0 <= other.value < found.value <= 1
    embedded = predictors.embedding("Aspirin reduces the risk of stroke.", "none")
    assert embedded.method == "heuristic"
    assert math.hypot(*embedded.value) == pytest.approx(1)


def test_hashed_words_are_near_for_like_texts():
    def near(one, other):
        return sum(a * b for a, b in zip(hashed_words(one), hashed_words(other), strict=True))

    text = "the model reduces the loss"
    assert near(text, "the models reduce the loss") > 0.5 > near(text, "Grüße aus Wien")
    assert hashed_words("…") == [0.0] * len(hashed_words(text))


@pytest.fixture
def bert(tmp_path, predictors):
    """A function that writes a tiny BERT with random weights below the directory of models."""
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "sky", "blue", "is", "the"]

    def make(name, labels):
        directory = tmp_path / "models" / name
        directory.mkdir()
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(directory)
        torch.manual_seed(1)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            id2label=dict(enumerate(labels)),
            initializer_range=1.0,
        )
        BertForSequenceClassification(config).eval().save_pretrained(directory)
        return directory

    return make


def test_a_local_model_judges_entailment_by_its_own_label(bert, predictors):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = bert("nli", ["contradiction", "neutral", "Entailment"])
    found = predictors.entailment("the sky is blue", "the sky", "nli")
    inputs = AutoTokenizer.from_pretrained(directory)("the sky is blue", "the sky", return_tensors="pt")
    logits = AutoModelForSequenceClassification.from_pretrained(directory)(**inputs).logits
    assert found.method == "nli"
    assert found.value == pytest.approx(torch.softmax(logits, -1)[0, 2].item(), abs=1e-5)
    bert("other", ["a", "b", "c"])
    with pytest.raises(UserError, match="none of its labels is entailment"):
        predictors.entailment("a", "b", "other")


def test_a_local_model_embeds(bert, predictors):
    from transformers import AutoModel, AutoTokenizer

    directory = bert("embed", ["a", "b"])
    found = predictors.embedding("the sky is blue", "embed")
    inputs = AutoTokenizer.from_pretrained(directory)("the sky is blue", return_tensors="pt")
    mean = AutoModel.from_pretrained(directory)(**inputs).last_hidden_state[0].mean(0)
    assert found.method == "embedding"
    assert found.value == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
    # Longer than its positions.
    assert len(predictors.embedding("the sky is blue " * 50, "embed").value) == 16
    pooled = bert("pooled", ["a", "b"])
    (pooled / "1_Pooling").mkdir()
    (pooled / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(UserError, match="its pooling is pooling_mode_max_tokens"):
        predictors.embedding("a", "pooled")
