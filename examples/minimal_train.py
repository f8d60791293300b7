"""Train a LoRA adapter with the pieces of mlx-lora: what `mlx-lora train` does, without resume, checks and reports.

    python examples/minimal_train.py my-adapter
    mlx_lm.generate --model BASE --adapter-path my-adapter --prompt "..."

The same steps, seed and order as `mlx-lora train` takes; the adapter is in mlx-lm's own format.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mlx_lora.backends import load_backend
from mlx_lora.config import TrainingConfig
from mlx_lora.data.chat_template import encode_prompt
from mlx_lora.data.dataset import read_split
from mlx_lora.data.tokenize import encode_examples
from mlx_lora.models.resolve import resolve_model
from mlx_lora.sources.eisv import make_eisv_dataset
from mlx_lora.training.schedule import learning_rate
from mlx_lora.training.trainer import training_steps, validation_loss

STEPS = 40


def main(out: Path) -> None:
    """Make data, train, evaluate, save, and ask once."""
    config = TrainingConfig(
        model_name="builtin/tiny-lumen",
        learning_rate=2e-3,
        warmup_steps=5,
        batch_size=8,
        gradient_accumulation_steps=1,
        lora_dropout=0.0,
        max_steps=STEPS,
    )
    # 1. A dataset: a directory of train.jsonl, valid.jsonl and test.jsonl, each row {"messages": [...]}.
    with TemporaryDirectory() as directory:
        data = Path(directory) / "eisv"
        make_eisv_dataset(data, min_per_shape=20)
        rows = {split: read_split(data, split) for split in ("train", "valid")}

    # 2. A base, on MLX or torch, and LoRA layers on it.
    model = resolve_model(config.model_name)
    backend = load_backend(model)
    parameters = backend.attach_lora(config)
    print(f"{model.name} on {backend.name}: {parameters:,} trained parameters ({backend.coverage})")

    # 3. Chat template → token ids and the mask of what the assistant says.
    train, valid = (
        encode_examples(backend.tokenizer, rows[split], config.max_seq_length, split) for split in ("train", "valid")
    )

    # 4. The loop. The order is a function of seed and step: any step can be computed again.
    steps = training_steps(config, train)
    for step in range(1, STEPS + 1):
        _, _, micro_batches = next(steps)
        result = backend.train_step(micro_batches, step, learning_rate(config, step, STEPS))
        if step % 10 == 0:
            held_out = validation_loss(backend, valid, config.batch_size)
            print(f"step {step}: loss {result.loss:.3f}, validation {held_out:.3f}")

    # 5. The adapter, and one answer.
    out.mkdir(parents=True, exist_ok=True)
    backend.save_adapter(out, model)
    question = rows["valid"][0].messages[:-1]
    answer = backend.generate([encode_prompt(backend.tokenizer, question)], 64, 0.0, 0)[0]
    print(f"\n{question[-1]['content']}\n→ {answer}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give a directory for the adapter: python examples/minimal_train.py my-adapter")
    main(Path(sys.argv[1]))
