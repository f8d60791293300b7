"""Seeded mutations of a base's files: loading and encoding succeed or raise UserError, and nothing else."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from mlx_lora.backends import load_backend
from mlx_lora.data.chat_template import encode_prompt, serving_notes
from mlx_lora.data.encode import encode_example
from mlx_lora.data.example import Example
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN, resolve_model
from mlx_lora.models.tokenizer import load_tokenizer

TINY = BUILT_IN["builtin/tiny-lumen"]
FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json", "model.safetensors")
EXAMPLE = Example(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "shape: convergence"},
        {"role": "assistant", "content": "EISV_TOKENS: ~stillness~"},
    ]
)
ODD = [
    *(None, True, 0, -1, 3, 2**31, 2**70, 1.5, float("nan"), "", "x", "\ud800", "{{ 1 / 0 }}", "{% raise %}", "llama"),
    *([], {}, [[]], [None], {"a": None}, [1019, "x"], "{{ messages[9].content.x }}", "{% for a in range(9) %}{{ a }}"),
]
SEEDS = 150


def places(value, path=()):
    """Return the paths of all values of a JSON document; of a long list only its ends."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    kept = list(items)
    for key, inner in kept if len(kept) < 40 else [*kept[:5], *kept[-5:]]:
        found += places(inner, (*path, key))
    return found


def mutate_json(content, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 2))):
        path = rng.choice(places(content))
        if not path:
            content = rng.choice(ODD) if rng.random() < 0.1 else content
            continue
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        if rng.random() < 0.25:
            del holder[path[-1]]
        else:
            holder[path[-1]] = rng.choice(ODD)
        if not isinstance(content, dict):
            break
    return json.dumps(content)


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    way, place = rng.randrange(4), rng.randrange(min(len(content), 6000))
    if way == 0:
        return content[:place]
    if way == 1:
        return content[:place] + rng.randbytes(rng.choice((1, 8))) + content[place + 1 :]
    if way == 2:
        return b"[" * 100_000
    return content[:place] + content[place + rng.choice((1, 4)) :]


def mutated(folder, rng: random.Random) -> str:
    """Change one file of the base in ``folder``; returns its name."""
    name = rng.choices(FILES, weights=(4, 4, 4, 1, 2))[0]
    file = folder / name
    if name == "generation_config.json":
        file.write_text(json.dumps({"eos_token_id": [1019, 1022], "bos_token_id": 1018}))
    original = file.read_bytes()
    file.unlink()
    if name == "model.safetensors" or rng.random() < 0.15:
        file.write_bytes(mutate_bytes(original, rng))
    else:
        file.write_text(mutate_json(json.loads(original), rng))
    return name


def use(folder) -> None:
    serving_notes(load_tokenizer(str(folder)), "Be brief.")
    backend = load_backend(resolve_model(str(folder)), "mlx")
    encode_example(backend.tokenizer, EXAMPLE, 512)
    backend.generate([encode_prompt(backend.tokenizer, EXAMPLE.messages[:2])], 2, 0.0, 0)
    assert all(isinstance(number, int) for number in backend.base.ends)


def outcome(folder) -> str:
    try:
        use(folder)
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"refused in several lines: {error}"
    return "used"


@pytest.mark.parametrize("part", range(3))
def test_a_broken_base_is_refused_in_one_sentence_or_used(tmp_path, part):
    outcomes = []
    for seed in range(part, SEEDS, 3):
        rng = random.Random(seed)
        folder = tmp_path / f"base{seed}"
        shutil.copytree(TINY, folder)
        name = mutated(folder, rng)
        try:
            outcomes.append(outcome(folder))
        except BaseException as error:
            raise AssertionError(f"seed {seed} ({name}): {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    assert set(outcomes) == {"refused", "used"}, outcomes
    # Both happen, so that neither everything is refused at the door nor nothing is broken.
    assert outcomes.count("refused") >= 10, outcomes
    assert outcomes.count("used") >= 10, outcomes
