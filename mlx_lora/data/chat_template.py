"""Chat template rendering: conversations → the text the model is trained on, or served with."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ..errors import UserError, first_line

# The date that templates print: a run must not depend on the day it is made. Llama 3 asks for ``date_string``, others
# call ``strftime_now``.
TEMPLATE_DATE = "26 Jul 2024"
# Keys of a message that decide what is supervised; a template never sees them.
TRAINING_KEYS = {"weight", "open_end"}
NO_TEMPLATE = (
    "its tokenizer has no chat template; set the config key chat_template (--chat-template of `data check` and "
    "`data show`) to chatml or to a template's file, or use an instruction-tuned model (often named -Instruct)"
)
SYSTEM_PROBE, USER_PROBE = "mlx0system", "mlx1user"

SystemSupport = Literal["kept", "refused", "dropped"]
_support: dict[str, SystemSupport] = {}
# Templates that did not terminate, and why.
_endless: dict[str, str] = {}
_clock = threading.RLock()
# message.thinking, message['thinking'], message.get("thinking"), 'thinking' in message
_THOUGHT_KEY = re.compile(r"""(?:\w\.|['"])(reasoning_content|reasoning|thinking)\b(?!['"]?\s*=)""")


def render(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    generate: bool = False,
    tools: Sequence[dict[str, Any]] | None = None,
    **template_kwargs: Any,
) -> str:
    """Render a conversation with the chat template, with the generation prompt at the end if ``generate``.

    System messages that the template has no place for are put before the next user message, or refused: see
    ``system_role`` of the config.

    Args:
        tools: JSON schemas of the functions the model may call, as OpenAI writes them.
        template_kwargs: further variables of the template, e.g. ``enable_thinking``.

    Raises:
        UserError: the tokenizer has no chat template, or the template refuses the conversation.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(f"{getattr(tokenizer, 'name_or_path', 'this model')}: {NO_TEMPLATE}")
    shown = [{key: value for key, value in m.items() if key not in TRAINING_KEYS} for m in messages]
    shown = _with_thoughts_as_read(template_text(tokenizer, tools) or "", shown)
    if any(message.get("role") == "system" for message in shown):
        shown = _with_system_role(tokenizer, shown, tools)
    return _apply(tokenizer, shown, generate, tools, template_kwargs)


def encode_prompt(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    **template_kwargs: Any,
) -> list[int]:
    """Return the token ids of a prompt, ending with the generation prompt.

    Raises:
        UserError: see ``render`` and ``check_ids``.
    """
    text = render(tokenizer, messages, generate=True, tools=tools, **template_kwargs)
    # As training encodes: a tokenizer's own encode may do more.
    ids = list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    check_ids(tokenizer, ids)
    return ids


def check_ids(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> None:
    """Raise UserError if a token has no row in the model's embedding, as far as ``base_facts`` knows its size."""
    rows = getattr(getattr(tokenizer, "base_facts", None), "embedding_rows", None)
    largest = int(np.max(ids, initial=0))
    if rows is not None and largest >= rows:
        raise UserError(
            f"the tokenizer has the token {tokenizer.convert_ids_to_tokens(largest)!r} ({largest}) and the model's "
            f"embedding {rows} rows; take the token out of the text, or use a base whose embedding was resized for it"
        )


def system_support(tokenizer: Any, tools: Sequence[dict[str, Any]] | None = None) -> SystemSupport:
    """Return the chat template's support for a system prompt, found by rendering one; cached by the template's text.

    ``dropped``: it renders the conversation without the system prompt and says nothing.
    """
    template = template_text(tokenizer, tools) or ""
    if template not in _support:
        user = {"role": "user", "content": USER_PROBE}
        try:
            text = _apply(tokenizer, [{"role": "system", "content": SYSTEM_PROBE}, user], True, tools, {})
            _support[template] = "kept" if SYSTEM_PROBE in text or USER_PROBE not in text else "dropped"
        except UserError:
            try:
                _apply(tokenizer, [user], True, tools, {})
                _support[template] = "refused"
            except UserError:
                _support[template] = "kept"  # it is not the system prompt that it refuses
    return _support[template]


def template_text(tokenizer: Any, tools: Sequence[dict[str, Any]] | None = None) -> str | None:
    """Return the template that transformers would use: of several by name, ``tool_use`` for tools, or ``default``."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") if tools and "tool_use" in template else template.get("default")
    return template


def _with_thoughts_as_read(template: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy thoughts to the key that the template reads, e.g. ``thinking`` in gpt-oss's; the rows have one key."""
    read = set(_THOUGHT_KEY.findall(template))
    if not read or "reasoning_content" in read:
        return messages
    return [
        message | dict.fromkeys(read - message.keys(), message["reasoning_content"])
        if "reasoning_content" in message
        else message
        for message in messages
    ]


def asks_clock(tokenizer: Any) -> bool:
    """Return True if the template reads the current date."""
    template = getattr(tokenizer, "chat_template", None)
    texts = template.values() if isinstance(template, dict) else [template or ""]
    return any("strftime_now" in text for text in texts)


def _with_system_role(
    tokenizer: Any, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    support = system_support(tokenizer, tools)
    if support == "kept":
        return messages
    if getattr(getattr(tokenizer, "base_facts", None), "system_role", "merge") == "refuse":
        does = "refuses a system role" if support == "refused" else "leaves the system prompt out"
        raise UserError(
            f"the model's chat template {does}; take the system prompt out, or set system_role: merge, which puts it "
            "before the first user message"
        )
    return merge_system(messages)


def merge_note(tokenizer: Any) -> str | None:
    """Return a sentence saying that system prompts are merged into the first user message, or None if they are not."""
    does = {"refused": "refuses a system role", "dropped": "leaves system prompts out"}.get(system_support(tokenizer))
    return f"the chat template {does}: they are put before the first user message (system_role)" if does else None


def serving_notes(tokenizer: Any, system_prompt: str | None) -> list[str]:
    """Return the differences between other programs' use of the chat template and training's, a sentence each."""
    if getattr(tokenizer, "chat_template", None) is None:
        return []
    notes = []
    if asks_clock(tokenizer):
        notes.append(
            f"the chat template prints the day's date: in training it was {TEMPLATE_DATE}, elsewhere it is today's"
        )
    if system_prompt and system_support(tokenizer) != "kept":
        notes.append(
            "the chat template has no system role: training put the system prompt and two newlines before the first "
            "user message, which other programs must do themselves"
        )
    return notes


def merge_system(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge each system text into the next user message, two newlines between; without one make it a user message."""
    merged: list[dict[str, Any]] = []
    waiting: list[str] = []
    for message in messages:
        if message.get("role") == "system":
            waiting.append(str(message.get("content") or ""))
            continue
        if waiting and message.get("role") == "user":
            message = {**message, "content": _joined([text for text in waiting if text], message.get("content"))}
            waiting = []
        elif waiting and message.get("role") == "assistant":
            merged.append({"role": "user", "content": "\n\n".join(waiting)})
            waiting = []
        merged.append(message)
    return [*merged, *([{"role": "user", "content": "\n\n".join(waiting)}] if waiting else [])]


def _joined(texts: list[str], content: Any) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": text + "\n\n"} for text in texts] + content
    return "\n\n".join([*texts, content or ""])


def _apply(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    generate: bool,
    tools: Sequence[dict[str, Any]] | None,
    template_kwargs: dict[str, Any],
) -> str:
    from .template_meter import TooMuch

    options = {"date_string": TEMPLATE_DATE, **template_kwargs}
    template = template_text(tokenizer, tools) or ""
    try:
        if template in _endless:
            raise TooMuch(_endless[template])
        with fixed_clock():
            return tokenizer.apply_chat_template(
                messages,
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=generate,
                **options,
            )
    except TooMuch as error:
        # Once is enough: a dataset has many rows.
        _endless[template] = str(error)
        raise UserError(f"the model's chat template refuses this conversation: {error}") from error
    except Exception as error:  # Jinja raises whatever a template's author chose
        raise UserError(f"the model's chat template refuses this conversation: {first_line(error)}") from error


class _TemplateDay(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> _TemplateDay:
        return cls.strptime(TEMPLATE_DATE, "%d %b %Y").replace(tzinfo=tz)


@contextmanager
def fixed_clock() -> Iterator[None]:
    """Fix the date that chat templates see, and limit their time and memory, within the block.

    ``strftime_now`` is a global of transformers' own Jinja environment, which no argument overrides: callables are not
    passed on to templates. So its module's clock is replaced, for the block only.
    """
    # Transformers warns at import that without torch only tokenizers work.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers.utils.chat_template_utils as utils

    with _clock:
        before = utils.datetime, utils._compile_jinja_template
        utils.datetime, utils._compile_jinja_template = _TemplateDay, _compile
        try:
            yield
        finally:
            utils.datetime, utils._compile_jinja_template = before


@lru_cache(maxsize=64)
def _compile(template: str) -> Any:
    """Compile a template as transformers does, in an environment that bounds every rendering."""
    import transformers.utils.chat_template_utils as utils

    from .template_sandbox import BoundedEnvironment

    compile_ = getattr(utils, "_cached_compile_jinja_template", utils._compile_jinja_template)
    before = utils.ImmutableSandboxedEnvironment
    utils.ImmutableSandboxedEnvironment = BoundedEnvironment
    try:
        # Kept outside the library's cache, which holds the environments of others.
        return getattr(compile_, "__wrapped__", compile_)(template)
    finally:
        utils.ImmutableSandboxedEnvironment = before
