"""Chat template rendering: a conversation → the text the model is trained on, or served with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError

# Llama 3's template prints today's date unless told one: a run must not depend on the day it is made.
TEMPLATE_DATE = "26 Jul 2024"
# Keys of a message that decide what is learned; a template never sees them.
TRAINING_KEYS = {"weight", "open_end"}


def render(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    generate: bool = False,
    tools: Sequence[dict[str, Any]] | None = None,
    **template_kwargs: Any,
) -> str:
    """Render a conversation with the chat template, with the assistant's header at the end if ``generate``.

    Args:
        tools: JSON schemas of the functions the model may call, as OpenAI writes them.
        template_kwargs: further variables of the template, e.g. ``enable_thinking``.

    Raises:
        UserError: the tokenizer has no chat template, or the template refuses the conversation.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            f"{getattr(tokenizer, 'name_or_path', 'this model')}: its tokenizer has no chat template; "
            "use an instruction-tuned model (its name often ends in -Instruct)"
        )
    shown = [{key: value for key, value in m.items() if key not in TRAINING_KEYS} for m in messages]
    options = {"date_string": TEMPLATE_DATE, **template_kwargs}
    try:
        return tokenizer.apply_chat_template(
            shown, tools=list(tools) if tools else None, tokenize=False, add_generation_prompt=generate, **options
        )
    except Exception as error:  # Jinja raises whatever a template's author chose
        raise UserError(f"the model's chat template refuses this conversation: {error}") from error


def encode_prompt(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    **template_kwargs: Any,
) -> list[int]:
    """Return token ids that end where the assistant begins to answer."""
    text = render(tokenizer, messages, generate=True, tools=tools, **template_kwargs)
    return tokenizer.encode(text, add_special_tokens=False)
