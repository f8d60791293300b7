"""Prompt format: the specification, the attempts so far with their feedback, and the accepted artifact as answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .artifact import Artifact
from .predicates import retry_count

# Attempts shown, and characters of each: enough to see what went wrong.
ATTEMPTS, ATTEMPT_CHARACTERS = 3, 500
ALPACA_ATTEMPTS = 2


def fence(text: str) -> str:
    """Wrap text in fences longer than any in it, so that none of its own ends the block."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    marks = "`" * (longest + 1)
    return f"{marks}\n{text}\n{marks}"


def _section(title: str, body: str) -> str:
    return f"### {title}\n{body}\n\n"


def format_prompt(
    spec: str,
    history: Sequence[Mapping[str, Any]],
    *,
    action_pair: str | None = None,
    constraints: str = "",
    dependencies: Sequence[tuple[str, str]] = (),
    escalation: Sequence[str] = (),
) -> str:
    """Format ``### Specification``, optional sections, the last three attempts with feedback, ``### Solution``.

    Args:
        history: entries with "feedback" and, where the attempt's text is known, "artifact" or "content".
        action_pair: the step, named last, where truncation in the prompt's middle does not reach it.
        dependencies: (step, content) of the earlier steps.
        escalation: feedback from later steps.
    """
    prompt = _section("Specification", spec)
    if constraints.strip():
        prompt += _section("Constraints", constraints.strip())
    if dependencies:
        prompt += _section("Dependencies", "\n\n".join(f"**{step}:**\n{fence(text)}" for step, text in dependencies))
    if escalation:
        prompt += _section("Feedback from Later Steps", "\n".join(f"- {text}" for text in escalation))
    if history:
        prompt += "### Previous Attempts and Feedback\n"
        for entry in history[-ATTEMPTS:]:
            text = entry.get("artifact") or entry.get("content")
            if text:
                prompt += f"**Attempt:**\n{fence(text[:ATTEMPT_CHARACTERS])}\n\n"
            prompt += f"**Feedback:** {entry.get('feedback') or ''}\n\n"
    if action_pair:
        prompt += _section("Step", action_pair)
    return prompt + "### Solution\n"


def attempts_of(artifact: Artifact) -> list[dict[str, str]]:
    """Return the feedback history with each attempt's text by id; a generator's error text is not an attempt."""
    history = []
    for entry in artifact.context.feedback_history:
        attempt = artifact.store.get(entry.artifact_id) if artifact.store is not None else None
        known = attempt is not None and not attempt.is_generator_error
        history.append({"feedback": entry.feedback, "artifact": attempt.content if attempt and known else ""})
    return history


def dependencies_of(artifact: Artifact) -> list[tuple[str, str]]:
    """Return (step, content) of the steps it could see; those that are not in the store are missing."""
    found = []
    for pair, identity in artifact.context.dependencies:
        dependency = artifact.store.get(identity) if artifact.store is not None else None
        if dependency is not None:
            found.append((pair or dependency.action_pair_id, dependency.content))
    return found


def artifact_prompt(artifact: Artifact, context: bool = True) -> str:
    """Return the prompt that this artifact answered.

    Args:
        context: with the step, the constraints and the dependencies' contents; without them (specification and
            history alone) many different targets share one prompt.
    """
    told = artifact.context
    if not context:
        return format_prompt(told.specification, attempts_of(artifact))
    return format_prompt(
        told.specification,
        attempts_of(artifact),
        action_pair=artifact.action_pair_id,
        constraints=told.constraints,
        dependencies=dependencies_of(artifact),
        escalation=told.escalation_feedback,
    )


def format_alpaca(spec: str | Artifact, history: Sequence[Mapping[str, Any]] = (), output: str = "") -> dict[str, str]:
    """Return ``{"instruction", "input", "output"}``: specification, list of the last two rejections, answer.

    Args:
        spec: the specification, or an artifact, which brings all three.
    """
    if isinstance(spec, Artifact):
        return format_alpaca(spec.context.specification, attempts_of(spec), spec.content)
    entries = [f"- {entry.get('feedback') or ''}\n" for entry in history[-ALPACA_ATTEMPTS:]]
    return {
        "instruction": spec,
        "input": "Previous feedback:\n" + "".join(entries) if entries else "",
        "output": output,
    }


def training_example(artifact: Artifact, context: bool = True) -> dict[str, Any]:
    """Return ``{"prompt", "completion", "messages", "metadata"}`` of an accepted artifact."""
    prompt = artifact_prompt(artifact, context)
    return {
        "prompt": prompt,
        "completion": artifact.content,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": artifact.content}],
        "metadata": {
            "source": artifact.source,
            "action_pair_id": artifact.action_pair_id,
            "workflow_id": artifact.workflow_id,
            "retry_count": retry_count(artifact),
            "item_id": artifact.artifact_id,
        },
    }
