"""Log-probabilities of supervised tokens: of both backends, exact, whatever is shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from backend_fixtures import BACKENDS, examples, fresh, sharp_model, steps

from mlx_lora.data.chat_template import encode_prompt
from mlx_lora.data.collate import collate
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.models.resolve import resolve_model


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_they_sum_to_the_loss_with_and_without_a_shared_prefix(make_model, name, architecture):
    backend = fresh(name, sharp_model(make_model(architecture), 3.0))
    steps(backend, range(2))
    rows = examples()
    found, whole = (backend.log_probabilities(collate(rows, share_prefix=shared)) for shared in (True, False))
    batch = collate(rows)
    assert len(batch.prefix) == 16
    assert len(found[0]) == len(found[1]) == batch.tokens == sum(int(row.supervised.sum()) for row in rows)
    assert -sum(found[0]) == pytest.approx(backend.evaluate(batch), rel=1e-5)
    np.testing.assert_allclose(found[0], whole[0], atol=2e-4)
    assert found[1] == whole[1]
    backend.path = replace(backend.path, plain=True, narrow=False, share_prefix=False)
    plain = backend.log_probabilities(batch)
    np.testing.assert_allclose(found[0], plain[0], atol=2e-4)
    assert found[1] == plain[1]


def test_both_backends_agree(make_model):
    path = sharp_model(make_model("llama"), 3.0)
    one, two = (BACKENDS[name](resolve_model(str(path))).log_probabilities(collate(examples())) for name in BACKENDS)
    np.testing.assert_allclose(one[0], two[0], atol=2e-4)
    assert one[1] == two[1]
    assert min(one[0]) < -5


@pytest.mark.parametrize("name", BACKENDS)
def test_a_greedy_answer_is_top_1(name):
    backend = BACKENDS[name](resolve_model("builtin/tiny-lumen"))
    encode = backend.tokenizer.backend_tokenizer.encode
    prompt = encode_prompt(backend.tokenizer, [{"role": "user", "content": "shape: warm"}])
    (text,) = backend.generate([prompt], 8, 0.0, 0)
    answer = encode(text, add_special_tokens=False).ids
    assert answer
    for last, expected in ((answer[-1], True), ((answer[-1] + 1) % 1000, False)):
        ids = np.array([*prompt, *answer[:-1], last], dtype=np.int32)
        supervised = np.arange(len(ids)) >= len(prompt)
        _, top = backend.log_probabilities(collate([EncodedExample(ids, supervised)]))
        assert top == [True] * (len(answer) - 1) + [expected]
