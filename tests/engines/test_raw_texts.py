"""Raw texts of a model whose tokenizer begins every text with a token: the same in this process and in llama.cpp."""

from __future__ import annotations

import json

import mlx_lora.backends.mlx  # noqa: F401  first: it loads a fast BLAS before MLX

# isort: split
import pytest

from mlx_lora.engines.reply import Opening
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import open_target
from mlx_lora.evaluation.targets.raw_texts import raw_texts

BOS = "<|begin_of_text|>"
ASKED = "<|start_header_id|>user<|end_header_id|>\n\nwarm<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.fixture
def both(changed_base, gguf_file, tmp_path):
    """The built-in base with a tokenizer that adds its beginning-of-text token, on MLX and as a GGUF file."""
    from mlx_lora.export.gguf.export import export_gguf

    base = changed_base()
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    number = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == BOS)
    first, text = {"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [number], "tokens": [BOS]}},
    }
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert export_gguf(str(base), tmp_path / "base.gguf", "f32").verdict == "verified"
    return raw_texts(open_target(str(base), "mlx")), raw_texts(open_target(str(tmp_path / "base.gguf")))


def test_the_opening_is_added_once(both):
    ours, theirs = both
    assert theirs.target.opening() == Opening(BOS, True)
    pairs = [("shape: warm", "~warmth~"), ("", "~warmth~"), (f"{BOS}shape: warm", "~warmth~")]
    one, two = ([found.total for found in texts.likelihoods(pairs)] for texts in both)
    assert one == pytest.approx(two, rel=1e-5)
    assert one[0] == pytest.approx(one[2], rel=1e-5)
    assert ours.whole(["warm light"]) == pytest.approx(theirs.whole(["warm light"]), rel=1e-5)
    answers = [texts.complete([ASKED], Generation(8), []) for texts in both]
    assert answers[0] == answers[1] != [""]
    assert ours.complete([ASKED], Generation(8), [answers[0][0][2:]]) == [answers[0][0][:2]]
