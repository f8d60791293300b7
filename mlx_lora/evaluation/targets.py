"""Evaluation targets: a base model, or a run's adapter on its base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backends import Backend, load_backend
from ..backends.adapter_format import published
from ..data.chat_template import encode_prompt
from ..errors import UserError
from ..models.resolve import resolve_model
from ..runs.directory import base_of, check_exists, is_run, other_base, read_trained

# Batch size of generation: large enough to use the hardware, small enough to show progress.
GROUP = 32

Messages = list[dict[str, Any]]


@dataclass
class Target:
    """Model loaded for generation.

    Attributes:
        system_prompt: the one its run was trained with, if any.
        warnings: what a reader of the answers should know, a sentence each.
    """

    name: str
    backend: Backend
    system_prompt: str | None = None
    warnings: list[str] = field(default_factory=list)


def load_target(name: str, asked: str = "auto") -> Target:
    """Load a run directory (base and adapter), or a base model by name or directory.

    Args:
        asked: the backend; see ``load_backend``.

    Raises:
        UserError: there is no such run or model, or the run has no adapter yet.
    """
    directory = Path(name)
    if not is_run(directory):
        check_exists(name)
        return Target(name, load_backend(resolve_model(name), asked, wide=True))
    directory = published(directory)
    run = read_trained(directory)
    in_4bit = bool(run.get("learned_from", {}).get("load_in_4bit"))
    model = base_of(run, directory)
    backend = load_backend(model, asked, in_4bit, wide=True)
    backend.load_adapter(directory)
    other = other_base(run, directory, model)
    return Target(name, backend, run.get("system_prompt"), [f"{name}: {other}"] if other else [])


def answer(
    target: Target,
    prompts: Sequence[Messages],
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Generate one answer per prompt, batched; temperature 0 is greedy, the same seed gives the same answers.

    Raises:
        UserError: see ``encode_prompt``, or a prompt fills the model's context.
    """
    encoded = [encode_prompt(target.backend.tokenizer, messages) for messages in prompts]
    context = target.backend.base.context
    for number, ids in enumerate(encoded):
        if context is not None and len(ids) >= context:
            raise UserError(
                f"prompt {number + 1} has {len(ids):,} tokens, and {target.name} has a context of {context:,} "
                "(max_position_embeddings); shorten it, or use a model with a longer context"
            )
    answers: list[str] = []
    for start in range(0, len(encoded), GROUP):
        answers += target.backend.generate(encoded[start : start + GROUP], max_tokens, temperature, seed + start)
        advance(len(answers))
    return answers
