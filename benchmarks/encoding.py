"""CPU time of what `train` does before its first step: read, check and encode 100,000 short chats.

    python benchmarks/encoding.py [--rows 100000] [--tokenizer DIR] [--out benchmarks/encoding]

The base is a random model of one narrow layer with the tokenizer and chat template of DIR (default: the built-in
base's), so that loading it takes no time to speak of; CPU seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from record import record

from mlx_lora.config import TrainingConfig
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.training.setup import prepare

SYSTEM = "You are a helpful assistant. Answer in one or two sentences, and say so if you do not know."
TEXT = (
    "the a of to and in that is for on with as by at from which when where model adapter token weight layer training "
    "memory answer question river mountain winter garden letter window music number colour bridge engine harbour"
)
WORDS = TEXT.split()


def write_rows(file: Path, count: int, seed: int = 7) -> None:
    """Write chats with a common system prompt, a question of 8 to 30 words and an answer of 5 to 40."""
    rng = random.Random(seed)

    def text(low: int, high: int) -> str:
        words = [
            rng.choice(WORDS) if rng.random() < 0.95 else str(rng.randrange(1000))
            for _ in range(rng.randint(low, high))
        ]
        return " ".join(words).capitalize()

    with open(file, "w", encoding="utf-8") as lines:
        for _ in range(count):
            messages = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": text(8, 30) + "?"},
                {"role": "assistant", "content": text(5, 40) + "."},
            ]
            lines.write(json.dumps({"messages": messages}) + "\n")


def make_base(directory: Path, tokenizer: Path) -> Path:
    """Write a random model of one narrow layer beside a copy of a tokenizer's files."""
    shutil.copytree(tokenizer, directory, ignore=shutil.ignore_patterns("model*.safetensors", "adapter*"))
    given = json.loads((tokenizer / "tokenizer_config.json").read_text())
    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "vocab_size": 2**18,
        "tie_word_embeddings": True,
        "eos_token_id": given.get("eos_token_id"),
    }
    model = llama.Model(llama.ModelArgs.from_dict({k: v for k, v in config.items() if k != "eos_token_id"}))
    weights = {name: value.astype(mx.float16) for name, value in tree_flatten(model.parameters())}
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return directory


def fingerprint(examples: list[EncodedExample]) -> str:
    """Return the sha256 of all ids and masks: equal for two versions that encode the same."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.ids.tobytes() + example.supervised.tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tokenizer", type=Path, default=BUILT_IN["builtin/tiny-lumen"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        data.mkdir()
        write_rows(data / "train.jsonl", given.rows)
        base = make_base(Path(temporary) / "base", given.tokenizer)
        config = TrainingConfig(model_name=str(base), data=str(data), output_dir=str(Path(temporary) / "run"))
        cpu, wall = time.process_time(), time.perf_counter()
        ready = prepare(config)
        record(
            given.out,
            tokenizer=given.tokenizer.name,
            rows=given.rows,
            tokens=sum(map(len, ready.train)),
            cpu_seconds=round(time.process_time() - cpu, 1),
            seconds=round(time.perf_counter() - wall, 1),
            sha256=fingerprint(ready.train),
        )


if __name__ == "__main__":
    main()
