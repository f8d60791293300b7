"""Answers after a common prefix that is computed once, beside those of prompts answered one by one."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper
from test_loss import examples

from mlx_lora.backends.mlx import generation
from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.models.resolve import resolve_model

COMMON = [(7 * i * i + 3) % 1000 for i in range(40)]
PROMPTS = [COMMON + [(11 * i * k + k) % 1000 for i in range(1, 5 + 3 * k)] for k in range(1, 7)]
TOKENS = 10
# batches, shares: mlx-lm's jamba and nemotron_h are wrong for rows of different lengths, plamo3 beyond its window.
KINDS = {
    "llama": (True, True),
    "qwen3": (True, True),
    "deepseek_v3": (True, True),
    "qwen3_next": (True, True),
    "gemma3_text": (True, True),
    "cohere2": (True, True),
    "plamo3": (True, False),
    "jamba": (False, True),
    "nemotron_h": (False, True),
    "mamba": (False, True),
}


@pytest.fixture(scope="module")
def architecture(realdata, make_model):
    """A function from a name to a model directory."""
    configs = json.loads((realdata / "architectures.json").read_text())
    return lambda name, **config: make_model(**{**configs[name], **config})


@pytest.fixture
def counted(monkeypatch):
    """The lengths of the prefixes that are computed."""
    lengths = []
    real = generation.after_prefix

    def counting(model, tokens, *kept):
        lengths.append(len(tokens))
        return real(model, tokens, *kept)

    monkeypatch.setattr(generation, "after_prefix", counting)
    return lengths


def load(path, adapter=None):
    """A backend, with a fresh adapter if asked; random weights so large that the answers depend on the prompt."""
    backend = MLXBackend(resolve_model(str(path)))
    weights = tree_flatten(backend.model.parameters())
    backend.model.update(tree_unflatten([(name, 6 * value if "proj" in name else value) for name, value in weights]))
    if adapter is not None:
        backend.attach_lora(adapter)
    return backend


def train(backend):
    for number in range(1, 4):
        backend.train_step([collate(examples())], number, 0.1)


def plainly(backend, prompts, answer=generation.answer_in_turn, temperature=0.0, seed=0, tokens=TOKENS):
    """The answers without a prefix, by mlx-lm alone."""
    tokenizer = TokenizerWrapper(backend.tokenizer)
    tokenizer.eos_token_ids = backend.base.ends
    backend.model.eval()
    mx.random.seed(seed)
    return answer(backend.model, tokenizer, prompts, tokens, make_sampler(temp=temperature))


@pytest.mark.parametrize("name", KINDS)
def test_greedy_answers_are_those_of_one_by_one(architecture, counted, name):
    # The windows of gemma3 end within the common prefix, those of the others within the prompts or after them.
    backend = load(architecture(name, **({"sliding_window": 24} if name == "gemma3_text" else {})))
    answers = backend.generate(PROMPTS, TOKENS, 0.0, 0)
    assert (backend._generation.batches, backend._generation.shares) == KINDS[name]
    assert answers == plainly(backend, PROMPTS)
    assert len(set(answers)) >= len(PROMPTS) - 1
    assert (len(COMMON) in counted) == backend._generation.shares


def test_a_suite_in_groups_computes_its_prefix_once(architecture, counted):
    backend = load(architecture("llama"))
    expected = plainly(backend, PROMPTS)
    alike = [[*COMMON, 5, 6, 7, k, 8] for k in range(4)]
    answers = [backend.generate(part, TOKENS, 0.0, 0) for part in (PROMPTS[:3], PROMPTS[3:], alike, PROMPTS[:1])]
    assert counted.count(len(COMMON)) == 1
    assert len(counted) == 1 + len(backend._generation._probed)
    assert answers == [expected[:3], expected[3:], plainly(backend, alike), expected[:1]]
    # Half of the prompts' common tokens are no longer in the kept prefix: it is replaced.
    longer = [[*COMMON, *range(100, 150), k, k] for k in range(3)]
    assert backend.generate(longer, TOKENS, 0.0, 0) == plainly(backend, longer)
    assert counted[-1] == 90


def test_the_tokens_of_the_prefix_go_through_the_model_once(architecture, monkeypatch):
    backend = load(architecture("llama"))
    backend.generate([[1, 2], [2, 1]], 1, 0.0, 0)
    tokens = []
    real = type(backend.model).__call__

    def counting(self, inputs, *given, **options):
        tokens.append(inputs.shape)
        return real(self, inputs, *given, **options)

    monkeypatch.setattr(type(backend.model), "__call__", counting)
    backend.generate(PROMPTS, 1, 0.0, 0)
    own = max(map(len, PROMPTS)) - len(COMMON)
    assert sum(length for rows, length in tokens if rows == 1) == len(COMMON)
    # All rows at once, with one step more than the answers have tokens.
    assert sum(length for rows, length in tokens if rows == len(PROMPTS)) == own + 1


@pytest.mark.parametrize(
    "prompts",
    [[[1, 2]], [[7], [9]], [COMMON] * 3, [COMMON, [*COMMON, 5]], [[*COMMON[:5], 1], [*COMMON[:5], 2, 3]]],
    ids=["single", "one token each", "identical", "one begins with the other", "short prefix"],
)
def test_prompts_at_the_edges(architecture, prompts):
    backend = load(architecture("qwen3"))
    assert backend.generate(prompts, TOKENS, 0.0, 0) == plainly(backend, prompts)


def test_the_same_seed_draws_what_mlx_lm_draws_without_a_prefix(architecture, counted):
    backend = load(architecture("llama"))
    prompts = [[*COMMON, k, *range(k % 5)] for k in range(2, 21)]
    one, again, other = (backend.generate(prompts, TOKENS, 1.0, seed) for seed in (1, 1, 2))
    # The shortest prompts keep two tokens.
    assert counted[1:] == [len(COMMON) - 1]
    assert one == again != other
    assert one == plainly(backend, prompts, generation.answer_together, temperature=1.0, seed=1)


@pytest.mark.parametrize("change", ["train", "load_state", "load_adapter", "attach"])
def test_a_prefix_is_dropped_when_the_parameters_change(architecture, tmp_path, change):
    path, adapter = architecture("llama"), TrainingConfig(lora_rank=4, lora_dropout=0.0)
    learned = load(path, adapter)
    train(learned)
    learned.save_state(tmp_path / "state.safetensors")
    learned.save_adapter(tmp_path, resolve_model(str(path)))
    backend = load(path, adapter if change in ("train", "load_state") else None)
    before = backend.generate(PROMPTS, TOKENS, 0.0, 0)
    stale = backend._generation._prefix
    {
        "train": lambda: train(backend),
        "load_state": lambda: backend.load_state(tmp_path / "state.safetensors"),
        "load_adapter": lambda: backend.load_adapter(tmp_path),
        "attach": lambda: backend.attach_lora(replace(adapter, init_adapter=str(tmp_path))),
    }[change]()
    answers = backend.generate(PROMPTS, TOKENS, 0.0, 0)
    assert before != answers == plainly(backend, PROMPTS)
    # The old caches would have given other answers.
    backend._generation._prefix = stale
    assert backend.generate(PROMPTS, TOKENS, 0.0, 0) != answers


def test_a_prompt_beyond_a_window_does_not_follow_a_prefix_that_was_kept_before_it(architecture):
    backend = load(architecture("plamo3", window_size=64))
    short = [[*COMMON[:20], k, k + 1, 5] for k in range(3)]
    backend.generate(short, 3, 0.0, 0)
    assert backend._generation.shares
    long = COMMON[:20] + [(13 * i + 5) % 1000 for i in range(70)]
    assert backend.generate([long], TOKENS, 0.0, 0) == plainly(backend, [long])
    assert not backend._generation.shares


def test_a_long_prefix_is_computed_in_parts(architecture, monkeypatch):
    backend = load(architecture("llama"))
    expected = backend.generate(PROMPTS, TOKENS, 0.0, 0)
    backend._generation.forget()
    monkeypatch.setattr(generation, "PREFILL_TOKENS", 16)
    assert backend.generate(PROMPTS, TOKENS, 0.0, 0) == expected


def test_prompts_are_processed_together_as_far_as_mlx_lms_default_holds_their_tokens():
    rows = generation.Generation._prefill_rows
    assert [rows([[0] * n, [1]]) for n in (1, 512, 1024, 2048, 9999)] == [32, 32, 16, 8, 8]
