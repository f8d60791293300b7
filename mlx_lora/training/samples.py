"""Sample answers to a few held-out examples, before the first step and after the last."""

from __future__ import annotations

from contextlib import suppress

from ..data.chat_template import encode_prompt
from ..data.dataset import Example
from ..errors import UserError, first_line
from ..runs.directory import SAMPLES_FILE
from ..runs.samples import Sample, read_samples, write_samples
from .setup import TrainingSetup

SAMPLES, SAMPLE_TOKENS = 3, 128


def write_before(ready: TrainingSetup) -> None:
    """Write the answers of the untrained adapter; a failed generation only costs them."""
    with suppress(Exception):
        rows = [(prompt, reference, answer, None) for prompt, reference, answer in _answers(ready)]
        write_samples(ready.out / SAMPLES_FILE, [_sample(*row) for row in rows])


def write_after(ready: TrainingSetup) -> tuple[list[tuple[str, str, str]], str | None]:
    """Write and return (prompt, reference, answer) of the trained adapter, or none and the reason."""
    try:
        answers = _answers(ready)
        known = {(row["prompt"], row["reference"]): row["before"] for row in read_samples(ready.out / SAMPLES_FILE)}
        rows = [(prompt, reference, known.get((prompt, reference)), answer) for prompt, reference, answer in answers]
        write_samples(ready.out / SAMPLES_FILE, [_sample(*row) for row in rows])
        return answers, None
    except Exception as error:
        return [], f"the adapter's answers are missing here: {first_line(error)}"


def _sample(prompt: str, reference: str, before: str | None, after: str | None) -> Sample:
    return {"prompt": prompt, "reference": reference, "before": before, "after": after}


def _answers(ready: TrainingSetup) -> list[tuple[str, str, str]]:
    """Return (prompt, reference, answer) of a few validation examples, or training ones where there are none."""
    rows = (ready.held_out or ready.examples)[:SAMPLES]
    chats, prompts = [], []
    for row in rows:
        chat = row.messages[: _last_answer(row)]
        # A conversation that the template only renders as a whole has no prompt to generate from.
        with suppress(UserError):
            prompts.append(encode_prompt(ready.backend.tokenizer, chat, tools=row.tools, **row.template_kwargs))
            chats.append((chat[-1]["content"] if chat else "", row.messages[len(chat)]["content"] or ""))
    answers = ready.backend.generate(prompts, SAMPLE_TOKENS, 0.0, 0) if prompts else []
    return [(*chat, text) for chat, text in zip(chats, answers, strict=True)]


def _last_answer(example: Example) -> int:
    return max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
