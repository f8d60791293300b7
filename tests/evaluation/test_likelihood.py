"""Log-probabilities of continuations: choices share their context, and the numbers are those of one by one."""

from __future__ import annotations

import mlx_lora.backends.mlx  # noqa: F401  first: it loads a fast BLAS before MLX

# isort: split
import pytest

from mlx_lora.evaluation.targets.likelihood import encode_pair, token_likelihoods
from mlx_lora.evaluation.targets.opening import load_target

CHOICES = (" warm", " cold and still", "~resonance~ ~warmth~", "")


@pytest.fixture(scope="module")
def backend():
    return load_target("builtin/tiny-lumen", "mlx").backend


@pytest.fixture
def batches(backend, monkeypatch):
    """The (prefix, rows, length) of each batch that the backend is given."""
    given, compute = [], backend.log_probabilities

    def spy(batch):
        given.append((len(batch.prefix), *batch.ids.shape))
        return compute(batch)

    monkeypatch.setattr(backend, "log_probabilities", spy)
    return given


def test_choices_share_their_context(backend, batches):
    few_shot = "warm light, quiet room. " * 10
    contexts = [few_shot + f"{text} " * 12 + "It is" for text in ("dark", "bright and loud", "slow")]
    pairs = [encode_pair(backend.tokenizer, context, choice) for context in contexts for choice in CHOICES]
    found = token_likelihoods(backend, pairs)
    computed = sum(prefix + rows * length for prefix, rows, length in batches)
    alone = sum(len(context) + len(choice) for context, choice in pairs if choice)
    assert all(prefix >= 100 for prefix, _, _ in batches)
    assert sum(rows for _, rows, _ in batches) == 9
    assert computed < alone / 2
    for pair, likelihood in zip(pairs, found, strict=True):
        assert len(likelihood.logprobs) == len(pair[1])
        (one,) = token_likelihoods(backend, [pair])
        assert likelihood.total == pytest.approx(one.total, rel=1e-5)
        assert likelihood.greedy == one.greedy


def own(model, context, continuation):
    """Log-probabilities from the model's logits of one whole row."""
    import mlx.core as mx

    logits = model(mx.array([[*context, *continuation]]))[0, len(context) - 1 : -1].astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return [float(row[token]) for row, token in zip(logprobs, continuation, strict=True)]


def test_against_the_models_own_logits(backend):
    context, continuation = encode_pair(backend.tokenizer, "shape: warm ", "~warmth~ ~stillness~")
    (found,) = token_likelihoods(backend, [(context, continuation)])
    assert found.logprobs == pytest.approx(own(backend.model, context, continuation), abs=1e-4)


@pytest.mark.parametrize("broken", [False, True])
def test_a_window_shorter_than_the_context(make_model, monkeypatch, broken):
    """Rows beyond a cache's window share a prefix only if that is exact."""
    from mlx_lm.models.cache import RotatingKVCache

    windows = {"sliding_window": 24, "sliding_window_pattern": 2, "head_dim": 16, "logit_scale": 0.5}
    backend = load_target(str(make_model("cohere2", **windows)), "mlx").backend
    if broken:
        trim = RotatingKVCache._trim
        monkeypatch.setattr(
            RotatingKVCache,
            "_trim",
            lambda self, size, v, append=None: trim(self, size, 0 * v if size > 0 else v, append),
        )
    context = [n * 7 % 900 for n in range(100)]
    pairs = [(context, [5, 6, 7]), (context, [8, 9]), ([*context[:90], 3, 4], [5, 6])]
    for (left, right), found in zip(pairs, token_likelihoods(backend, pairs), strict=True):
        assert found.logprobs == pytest.approx(own(backend.model, left, right), abs=1e-3)
    assert backend.path.share_prefix is not broken


def test_a_context_that_is_too_long_is_truncated_on_its_left(backend):
    limit = backend.base.context
    context, continuation = [n % 900 for n in range(limit + 50)], [5, 6, 7]
    (found,) = token_likelihoods(backend, [(context, continuation)])
    (fitting,) = token_likelihoods(backend, [(context[-(limit + 1 - 3) :], continuation)])
    assert found.logprobs == fitting.logprobs


def test_texts_are_split_where_their_tokens_are(backend):
    tokenizer = backend.tokenizer
    for context, continuation in (("a warm", "th comes"), ("The state is", " warm"), ("x", "")):
        left, right = encode_pair(tokenizer, context, continuation)
        assert left + right == tokenizer.encode(context + continuation)
        assert context.startswith(tokenizer.decode(left))
    assert encode_pair(tokenizer, "", "warm") == ([tokenizer.bos_token_id], tokenizer.encode("warm"))
    assert encode_pair(tokenizer, "", f"{tokenizer.bos_token}warm")[0] == [tokenizer.bos_token_id]


def test_nothing_to_score(backend, batches):
    (found,) = token_likelihoods(backend, [([1, 2], [])])
    assert (found.logprobs, found.total, found.greedy, batches) == ([], 0, True, [])
    assert token_likelihoods(backend, []) == []
