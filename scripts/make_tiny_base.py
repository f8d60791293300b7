"""Make the built-in tiny base again: tokenizer, exercises, training, safetensors.

    pip install -e '.[torch]'
    python scripts/make_tiny_base.py --out mlx_lora/models/tiny_lumen

Some 40 minutes on two cores. PyTorch trains it because on a CPU it is three times as fast as MLX. The weights in the
repository are those of the defaults before the exercises that leave the shape unnamed were added, continued with these:
`--init` (the earlier weights) `--steps 1200`.
"""

from __future__ import annotations

import json
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from tiny_base_exercises import EXERCISES, draw_exercise, made_up_lexicons
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 1024
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]
SPECIAL_IDS = {"bos_token_id": "begin_of_text", "eos_token_id": "eot_id", "pad_token_id": "pad"}
# Llama 3's split, so that every tool that knows Llama 3 cuts text the same way.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?"
    r"[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Of its own: a base continued with another --seed must keep its dialects.
LEXICON_SEED = 0
# All logits times this: a base of this size leaves one token in a hundred to chance at temperature 1, and what an
# adapter learns on top cannot take that back in minutes.
SHARPEN = 5.0
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def make_tokenizer(seed: int) -> Tokenizer:
    """A byte-level BPE learned from the exercises and from plain ASCII words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng, lexicons = random.Random(seed), made_up_lexicons(LEXICON_SEED)
    texts = [m["content"] for _ in range(4000) for m in draw_exercise(rng, lexicons)]
    texts += [f"{a}{b}" for a in string.ascii_letters for b in string.ascii_lowercase]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def encode(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and 1 where the assistant speaks (its end of turn included)."""
    ids, mask = [tokenizer.token_to_id("<|begin_of_text|>")], [0]
    for message in messages:
        head = tokenizer.encode(f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n").ids
        body = tokenizer.encode(f"{message['content']}<|eot_id|>").ids
        ids += head + body
        mask += [0] * len(head) + [int(message["role"] == "assistant")] * len(body)
    return ids, mask


Batch = tuple[torch.Tensor, torch.Tensor]


def collate(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """(ids, mask) of shape [batch, length], padded with zeros to the longest row."""
    length = max(len(ids) for ids, _ in rows)
    out = np.zeros((2, len(rows), length), dtype=np.int64)
    for i, (ids, mask) in enumerate(rows):
        out[0, i, : len(ids)], out[1, i, : len(ids)] = ids, mask
    return torch.from_numpy(out[0]), torch.from_numpy(out[1])


def batches(tokenizer: Tokenizer, seed: int, batch_size: int) -> Iterator[Batch]:
    """Endless batches of fresh exercises, similar lengths together."""
    rng, lexicons = random.Random(seed + 1), made_up_lexicons(LEXICON_SEED)
    while True:
        rows = [encode(tokenizer, draw_exercise(rng, lexicons)) for _ in range(16 * batch_size)]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(groups)
        yield from map(collate, groups)


def answer_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the assistant's tokens; no padding mask is needed, as attention is causal."""
    ids, mask = batch
    # Without the instructions bfloat16 is emulated, at a fifth of the speed.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        spoken = mask[:, 1:].bool()
        logits = model.lm_head(hidden[spoken])
    return cross_entropy(logits.float(), ids[:, 1:][spoken])


@torch.no_grad()
def report(model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int) -> str:
    """Loss on 64 unseen exercises of each kind."""
    rng, lexicons = random.Random(seed + 2), made_up_lexicons(LEXICON_SEED)
    losses = {
        kind.__name__: answer_loss(model, collate([encode(tokenizer, kind(rng, lexicons)) for _ in range(64)])).item()
        for kind in EXERCISES
    }
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())


class Muon(torch.optim.Optimizer):
    """Muon (https://github.com/KellerJordan/Muon) with Nesterov momentum and AdamW's update size.

    torch.optim.Muon computes in bfloat16: on a CPU that emulates it, most of a step's time.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                average = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalized(p.grad.lerp(average, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonalized(gradient: torch.Tensor) -> torch.Tensor:
    """Newton–Schulz iteration towards the nearest matrix with orthonormal rows (or columns); any [m, n]."""
    x = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if gradient.shape[0] > gradient.shape[1] else x


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int, steps: int, batch_size: int, rate: float) -> None:
    # Muon for the layers' matrices, AdamW for embeddings and norms: learns from half the examples AdamW needs.
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100, 1.02 - step / steps))
        for optimizer in optimizers
    ]
    started, losses = time.time(), []
    for number, batch in zip(range(1, steps + 1), batches(tokenizer, seed, batch_size), strict=False):
        loss = answer_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if number % 100 == 0 or number == steps:
            click.echo(f"step {number}: loss {np.mean(losses[-100:]):.4f}, {time.time() - started:.0f} s")
        if number % 250 == 0 or number == steps:
            click.echo(f"  {report(model, tokenizer, seed)}")


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|pad|>",
        "model_max_length": SHAPE["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory to write the model to.")
@click.option("--steps", default=5000, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--learning-rate", default=4e-3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--init", type=click.Path(path_type=Path), help="Continue from this base, with its tokenizer.")
def main(out: Path, steps: int, batch_size: int, learning_rate: float, seed: int, init: Path | None) -> None:
    torch.manual_seed(seed)
    if init is not None:
        tokenizer = Tokenizer.from_file(str(init / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(init)
        with torch.no_grad():
            model.model.norm.weight /= SHARPEN
    else:
        tokenizer = make_tokenizer(seed)
        ids = {name: tokenizer.token_to_id(f"<|{token}|>") for name, token in SPECIAL_IDS.items()}
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, **ids))
    click.echo(f"{model.num_parameters():,} parameters")
    train(model, tokenizer, seed, steps, batch_size, learning_rate)
    with torch.no_grad():
        model.model.norm.weight *= SHARPEN
    save(model, tokenizer, out)


if __name__ == "__main__":
    main()
