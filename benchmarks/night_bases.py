"""Bases for benchmarks/nights.py that know a store's language, but not what the agent says about what."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from night_stores import CODE, SAYINGS
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mlx_lora.config import TrainingConfig
from mlx_lora.data.dataset import write_dataset
from mlx_lora.data.schema import Example
from mlx_lora.export.fuse import fuse
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.training.train import train

LANGUAGE_STEPS = 300
SETTINGS: dict[str, Any] = {
    "fine_tune_type": "full",
    "learning_rate": 3e-3,
    "lr_schedule": "cosine",
    "warmup_steps": 20,
    "max_steps": LANGUAGE_STEPS,
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
    "num_epochs": 1000,
    "max_seq_length": 512,
    "waive_checks": ["contradictory_answers", "mostly_copies"],
}


def make_base(out: Path, like: str, rows: Sequence[Example], seed: int) -> str:
    """Return a base of the size of another, with fresh weights, trained on every prompt with another topic's answers.

    It reads the topic and knows the words, and each of its answers is wrong.
    """
    answers = _by_topic(rows)
    topics = sorted(answers)
    draw = random.Random(seed)
    wrong = []
    for row in rows:
        others = answers[topics[(topics.index(_topic(row)) + 1) % len(topics)]]
        wrong.append(replace(row, messages=[*row.messages[:-1], draw.choice(others)], meta={}))
    write_dataset(out / "language", {"train": wrong}, {"source": "benchmark"})
    texts = [message["content"] for row in rows for message in row.messages]
    fresh = _fresh_model(out / "fresh", BUILT_IN[like], texts, seed)
    places = {"data": str(out / "language"), "output_dir": str(out / "language-run"), "model_name": str(fresh)}
    train(TrainingConfig(**places, **SETTINGS, seed=seed), quiet=True)
    fuse(str(out / "language-run"), out / "base")
    return str(out / "base")


def _topic(row: Example) -> str:
    answer = row.messages[-1]["content"]
    return next(topic for topic, text in {**SAYINGS, **CODE}.items() if text in answer)


def _by_topic(rows: Sequence[Example]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(_topic(row), []).append(row.messages[-1])
    return found


def _fresh_model(place: Path, like: Path, texts: Sequence[str], seed: int) -> Path:
    """Copy a model with weights that have learned nothing, and a tokenizer of these texts."""
    shutil.copytree(like, place)
    tokens = _tokenizer(place / "tokenizer.json", texts)
    for file in (place / "config.json", place / "generation_config.json"):
        if file.exists():
            content = json.loads(file.read_text())
            old = Tokenizer.from_file(str(like / "tokenizer.json"))
            ids = {
                key: tokens.token_to_id(old.id_to_token(value)) for key, value in content.items() if _is_id(key, value)
            }
            file.write_text(json.dumps({**content, **ids}))
    file = next(place.glob("*.safetensors"))
    draw = np.random.default_rng(seed)
    weights = {}
    for name, value in load_file(file).items():
        # The embeddings are the head too: small ones could not make a word likely in so few steps.
        scale = 0.1 if "embed" in name else 0.06
        drawn = np.ones_like(value) if value.ndim == 1 else draw.normal(scale=scale, size=value.shape)
        weights[name] = drawn.astype(value.dtype)
    save_file(weights, file, metadata={"format": "pt"})
    return place


def _is_id(key: str, value: Any) -> bool:
    return key.endswith("_token_id") and isinstance(value, int)


def _tokenizer(file: Path, texts: Sequence[str]) -> Tokenizer:
    """Replace a tokenizer by one of the same kind that was learned from texts, so that most words are one token."""
    old = Tokenizer.from_file(str(file))
    special = [token.content for _, token in sorted(old.get_added_tokens_decoder().items())]
    new = Tokenizer(models.BPE())
    new.pre_tokenizer, new.decoder = old.pre_tokenizer, old.decoder
    if old.post_processor is not None:
        new.post_processor = old.post_processor
    size = old.get_vocab_size() - len(special)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    roles = ["system", "user", "assistant", "\n\n"]
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    new.train_from_iterator([*texts, *roles * 100], trainer)
    new.add_special_tokens(special)
    new.save(str(file))
    return new
