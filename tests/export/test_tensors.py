"""Numbers and names by themselves: bfloat16, pieces, reordered rows, positions."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.rope_utils import Llama3RoPE

from mlx_lora.export.gguf.architectures import architectures, gguf_name, heads_of, permute_rows, unpermute_rows
from mlx_lora.export.gguf.encoding import made_in_order
from mlx_lora.export.gguf.rope import rope_divisors
from mlx_lora.export.logit_metrics import compare_logits, same_greedy
from mlx_lora.export.tensors import from_float32, make_header, read_header, to_float32


def test_bfloat16_is_rounded_as_mlx_rounds_it():
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[:6] = [np.inf, -np.inf, np.nan, 3.4e38, 0.0, -1e-40]
    bits = from_float32(values, "BF16")
    expected = mx.array(values).astype(mx.bfloat16)
    np.testing.assert_array_equal(bits, np.array(expected.view(mx.uint16)))
    np.testing.assert_array_equal(to_float32(bits, "BF16"), np.array(expected.astype(mx.float32)))


def test_what_is_written_is_read(tmp_path):
    numbers = {"a": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.arange(5, dtype=np.float16)}
    file = tmp_path / "model.safetensors"
    shapes = {"a": ("F32", (4, 3)), "b": ("F16", (5,))}
    file.write_bytes(make_header(shapes, "pt") + numbers["a"].tobytes() + numbers["b"].tobytes())
    found = read_header(file)
    np.testing.assert_array_equal(found["a"].rows(1, 3), numbers["a"][1:3])
    np.testing.assert_array_equal(found["b"].read(), numbers["b"])
    np.testing.assert_array_equal(np.array(mx.load(str(file))["a"]), numbers["a"])


def test_rows_are_reordered_and_back():
    rows = np.arange(48).reshape(24, 2)
    assert permute_rows(rows, 3)[:4, 0].tolist() == [0, 8, 2, 10]
    np.testing.assert_array_equal(unpermute_rows(permute_rows(rows, 3), 3), rows)
    np.testing.assert_array_equal(permute_rows(rows[:, 0], 3), permute_rows(rows, 3)[:, 0])


def test_names_and_heads():
    llama, qwen = architectures()["mistral"], architectures()["qwen2"]
    assert gguf_name(llama, 2, "model.layers.1.mlp.down_proj.weight") == "blk.1.ffn_down.weight"
    config = {"num_attention_heads": 8, "num_key_value_heads": 2}
    assert heads_of(llama, config, "model.layers.0.self_attn.q_proj.weight") == 8
    assert heads_of(llama, config, "model.layers.0.self_attn.k_proj") == 2
    assert heads_of(llama, config, "model.layers.0.self_attn.v_proj.weight") is None
    assert heads_of(qwen, config, "model.layers.0.self_attn.q_proj.weight") is None


def test_llama3_divisors_are_mlx_lms():
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {
        "head_dim": 64,
        "rope_theta": 500000.0,
        "rope_scaling": {**scaling, "original_max_position_embeddings": 8192},
    }
    plain = 500000.0 ** (np.arange(0, 64, 2) / 64)
    theirs = np.array(Llama3RoPE(64, base=500000.0, scaling_config=config["rope_scaling"])._freqs)
    np.testing.assert_allclose(rope_divisors(config), theirs / plain, rtol=1e-4)


def test_agreement_of_a_shifted_and_a_broken_model():
    logits = np.random.default_rng(1).standard_normal((5, 50)).astype(np.float32)
    same = compare_logits([logits], [logits + 3])
    assert same.relative < 1e-6
    assert same.divergence < 1e-9
    assert same.top1 == 1
    broken = compare_logits([logits], [logits * np.nan])
    assert broken.divergence == float("inf")
    assert broken.top1 == 0


def test_a_near_tie_is_no_difference():
    logits = np.array([[0.0, 1.0, 0.999], [2.0, 0.0, 0.0]], dtype=np.float32)
    assert same_greedy([1, 0], [2, 1], logits, 0.01) == 2
    assert same_greedy([1, 0], [2, 0], logits, 1e-6) == 0
    assert same_greedy([1, 0], [1], logits, 0.01) == 1


@pytest.mark.parametrize("threads", [False, True])
def test_pieces_come_in_order_and_errors_with_them(threads):
    jobs = [lambda i=i: np.full(3, i) for i in range(50)]
    assert [int(piece[0]) for piece in made_in_order(jobs, threads)] == list(range(50))
    with pytest.raises(ZeroDivisionError):
        list(made_in_order([*jobs, lambda: 1 // 0], threads))
