"""Broken bases: whatever a file of a base holds, loading and using it succeeds or ends in one sentence.

``MLX_LORA_MUTATIONS`` sets how many are tried.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from pathlib import Path

import pytest

from mlx_lora.data.chat_template import encode_prompt
from mlx_lora.data.dataset import Example
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN, resolve_model
from mlx_lora.models.tokenizer import load_tokenizer

TINY = BUILT_IN["builtin/tiny-lumen"]
MUTATIONS = int(os.environ.get("MLX_LORA_MUTATIONS", "300"))
CHAT = [{"role": "user", "content": "shape: convergence"}, {"role": "assistant", "content": "~stillness~"}]
DEEP = "[" * 100_000 + "]" * 100_000
# Wrong types, signs and sizes; "__deep__" is nesting that no JSON parser takes.
VALUES = [None, True, -1, 0, 1, 10**9, 10**30, 1.5, 1e308, "", "x", "Infinity", [], [1], {}, {"a": 1}, [[None]]]
VALUES += ["__deep__", "\ud800", "é" * 3, "../../x", "{{", "{% for %}", "{{ 1 / 0 }}", "<|eot_id|>", "__missing__"]
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


def places(content, prefix=()):
    """Every path to a value within JSON; of long lists only the first few."""
    yield prefix
    if isinstance(content, dict):
        items = list(content.items())[:40]
    elif isinstance(content, list):
        items = list(enumerate(content))[:3]
    else:
        items = []
    for key, value in items:
        yield from places(value, (*prefix, key))


def change_json(draw: random.Random, file: Path) -> str:
    content = json.loads(file.read_text()) if file.exists() else {"eos_token_id": 1022, "bos_token_id": 1018}
    path = draw.choice([p for p in places(content) if p] or [()])
    value = draw.choice(VALUES)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    if value == "__missing__":
        del holder[path[-1]]
    elif draw.random() < 0.15 and isinstance(holder, dict):
        holder[draw.choice(["auto_map", "model_file", "quantization", "rope_scaling", "text_config", "num_layers"])] = (
            value
        )
    else:
        holder[path[-1]] = value
    file.write_text(json.dumps(content).replace('"__deep__"', DEEP))
    return f"{file.name} {path} {value!r}"


def change_bytes(draw: random.Random, file: Path) -> str:
    data = bytearray(file.read_bytes() if file.exists() else b"") or bytearray(b"{}")
    kind = draw.choice(["cut", "empty", "flip", "not utf-8", "text", "deep"])
    if kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "empty":
        data = bytearray()
    elif kind == "flip":
        for _ in range(3):
            data[draw.randrange(min(len(data), 4000))] = draw.randrange(256)
    else:
        data = bytearray({"not utf-8": b"\xff\xfe\x00\x80", "text": b"<html>", "deep": DEEP.encode()}[kind])
    file.write_bytes(bytes(data))
    return f"{file.name} {kind}"


def change_header(draw: random.Random, file: Path) -> str:
    """The header of the weights: another shape, type, place or length."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = draw.choice([key for key in header if key != "__metadata__"])
    kind = draw.choice(["shape", "dtype", "data_offsets", "rename", "remove", "length", "swap"])
    if kind in ("shape", "dtype", "data_offsets"):
        header[name][kind] = draw.choice(
            [*VALUES[:-1], [1, 2], [-1, 4], [2**40, 2**40], "F16", "BF16", "I64", "F8_E4M3"]
        )
    elif kind == "rename":
        header["x." + name] = header.pop(name)
    elif kind == "remove":
        del header[name]
    elif kind == "swap":
        header[name]["shape"] = list(reversed(header[name]["shape"]))
    text = json.dumps(header).replace('"__deep__"', DEEP).encode()
    said = len(text) if kind != "length" else draw.choice([0, 3, 2**31, 2**63, 2**64 - 1])
    file.write_bytes(struct.pack("<Q", said) + text + body)
    return f"{file.name} {name} {kind} {header.get(name)!r}"


def mutate(draw: random.Random, directory: Path) -> str:
    """Change one or two things in a copy of the base; returns what was changed."""
    done = []
    for _ in range(draw.choice([1, 1, 2])):
        kind, file = draw.random(), directory / draw.choice(FILES)
        if kind < 0.2:
            done.append(change_header(draw, directory / "model.safetensors") if not done else "")
        elif kind < 0.35 or file.suffix == ".jinja":
            done.append(change_bytes(draw, draw.choice([file, directory / "model.safetensors"])))
        else:
            try:
                done.append(change_json(draw, file))
            except (ValueError, RecursionError):  # it is broken already
                continue
    return "; ".join(done)


def load(backend: str, directory: Path):
    if backend == "mlx":
        from mlx_lora.backends.mlx.backend import MLXBackend as Loaded
    else:
        from mlx_lora.backends.torch.backend import TorchBackend as Loaded
    return Loaded(resolve_model(str(directory)))


def use(backend: str, directory: Path) -> None:
    """Load the tokenizer alone, then the model, as check and train do."""
    tokenizer = load_tokenizer(str(directory))
    encode_example(tokenizer, Example(CHAT), 512)
    encode_prompt(tokenizer, CHAT[:1])
    loaded = load(backend, directory)
    loaded.generate([encode_prompt(loaded.tokenizer, CHAT[:1])], 2, 0.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_broken_base_is_one_sentence(tmp_path, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    first = int(os.environ.get("MLX_LORA_FIRST_MUTATION", "0"))
    failed, refused = [], 0
    for seed in range(first, first + MUTATIONS):
        directory = tmp_path / "base"
        shutil.copytree(TINY, directory)
        changed = mutate(random.Random(seed), directory)
        try:
            use(backend, directory)
        except UserError as error:
            refused += 1
            if "\n" in str(error):
                failed.append(f"{seed}: {changed[:200]}: several lines: {str(error)[:200]}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(f"{seed}: {changed[:200]}: {type(error).__name__}: {str(error)[:200]}")
        shutil.rmtree(directory)
    assert failed == []
    assert refused > MUTATIONS / 4
