"""Message normalization: the dialects of OpenAI, ShareGPT, Axolotl and others → one normal form.

A message of the normal form has ``role`` (one of ``ROLES``) and ``content`` (text, or ``None`` with tool calls), and
where they are not empty ``name``, ``tool_calls``, ``tool_call_id``, ``reasoning_content``, ``weight`` and
``open_end``. The table of keys is in docs/data.md.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import UserError
from .jsonl import check_surrogates
from .schema import ROLES, check_depth, kind_of, parse_weight, shortened

# Every name of a role → (role, kind of content).
ROLE_NAMES = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human",), "user"),
    **dict.fromkeys(("gpt", "bing", "chatgpt", "bard", "model"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "tool_response", "function_response", "ipython"), "tool"),
    "developer": "system",
}
# Roles whose content is the JSON text of tool calls.
CALL_ROLES = ("function_call", "tool_call")
# True: supervised. Axolotl's and ms-swift's names for it.
TRAINING_FLAGS = ("train", "training", "loss")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
MEDIA = ("images", "videos", "audios", "image", "video", "audio")
TEXT_PARTS = ("text", "input_text", "output_text")
# Keys that would change what is supervised or shown, and that are not supported.
REFUSED_KEYS = {
    "refusal": "an answer under refusal is not read; put its text into content",
    "train_detail": "train_detail is not read; mark parts of an answer with spans",
    "training_detail": "training_detail is not read; mark parts of an answer with spans",
    **dict.fromkeys(MEDIA, "images, videos and audio are not read; only text is trained on"),
}
_PLAIN_KEYS = {"role", "content"}
EMPTY_ANSWER = "the assistant's answer is empty; fill it in or remove the row"


def parse_messages(value: Any, key: str = "messages") -> tuple[list[dict[str, Any]], list[str]]:
    """Return a list of messages in the normal form, and the keys in it that have no known meaning.

    Args:
        value: the list, or its JSON text.
        key: its name in the row, for the error.

    Raises:
        UserError: it is not a list of messages, or a message holds something that cannot be used.
    """
    rows = parse_json_text(value, key)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{key} must be a list of at least one message; correct or remove the row")
    unknown: dict[str, None] = {}
    return [_message(row, unknown) for row in rows], list(unknown)


def parse_json_text(value: Any, key: str) -> Any:
    """Return the value that a JSON text holds, and any other value as it is: CSV and TRL write lists as text.

    Raises:
        UserError: it is text that is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
        check_surrogates(value, parsed)
    except (ValueError, RecursionError):
        raise UserError(f"{key} is text that is not JSON; correct or remove the row") from None
    check_depth(parsed)
    return parsed


def check_messages(messages: list[dict[str, Any]]) -> None:
    """Raise UserError if there is no text in a message, or no answer to train on.

    The order of roles is the template's to accept or refuse.
    """
    for message in messages:
        role, content = message["role"], message["content"]
        if not isinstance(content, str) and not (role == "assistant" and message.get("tool_calls")):
            raise UserError(f"the {role} message has no text in content; correct or remove the row")
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise UserError("there is no assistant message, so there is nothing to learn; add one or remove the row")
    if all(message.get("weight", 1) == 0 for message in answers):
        raise UserError("every answer has the weight 0, so there is nothing to learn; remove the row")


def has_empty_answer(messages: list[dict[str, Any]]) -> bool:
    """Return True if an answer is only white space, with no tool call."""
    return any(
        m["role"] == "assistant" and not (m.get("content") or "").strip() and not m.get("tool_calls") for m in messages
    )


def parse_content(value: Any, role: str) -> str | None:
    """Return the text of a message's content: itself, or the text parts of a list, joined.

    Raises:
        UserError: it is neither, or a part is not text (an image).
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise UserError(f"the {role} message has no text in content, but {kind_of(value)}; correct or remove the row")
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if not (isinstance(kind, str) and kind in TEXT_PARTS and isinstance(text, str)):
            raise UserError(
                f"the content of the {role} message has a part of the type {shortened(kind)} that is not text; only "
                "text is trained on, so remove the part or the row"
            )
        texts.append(text)
    return "".join(texts)


def _message(row: Any, unknown: dict[str, None]) -> dict[str, Any]:
    if isinstance(row, dict) and row.keys() == _PLAIN_KEYS:
        role, text = row["role"], row["content"]
        if isinstance(role, str) and role in ROLES and isinstance(text, str):
            return {"role": role, "content": text}  # nearly every message, and nothing to look for in it
    rest = {k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else {}
    # ShareGPT's names.
    if "role" not in rest and "from" in rest:
        rest["role"] = rest.pop("from")
        if "content" not in rest and "value" in rest:
            rest["content"] = rest.pop("value")
    name = rest.pop("role", None)
    role = ROLE_NAMES.get(name) if isinstance(name, str) else None
    if role is None:
        raise UserError(f"the role {shortened(name)} is unknown; use one of {', '.join(ROLES)}")
    for key, why in REFUSED_KEYS.items():
        if not _is_empty(rest.pop(key, None)):
            raise UserError(f"the {role} message has {key}, and {why}")
    content, calls = parse_content(rest.pop("content", None), role), _calls(rest, role)
    if name in CALL_ROLES:
        if calls:
            raise UserError(f"a {name} message has tool_calls too; keep one of them")
        content, calls = None, _parse_calls(parse_json_text(content, f"the {name} message"))
    message: dict[str, Any] = {"role": role, "content": content}
    for key in ("name", "tool_call_id"):
        if key in rest:
            if not isinstance(rest[key], str):
                raise UserError(f"the {role} message's {key} must be text, not {kind_of(rest[key])}; correct it")
            message[key] = rest.pop(key)
    thought, weight = _thought(rest, role), _weight(rest, role)
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning_content": thought} if thought else {}
    message |= {"weight": weight} if weight != 1 else {}
    message |= {"open_end": True} if _open_end(rest, role) else {}
    others = {key: value for key, value in rest.items() if not _is_empty(value)}
    unknown.update(dict.fromkeys(others))
    return message | others


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def _thought(rest: dict[str, Any], role: str) -> str:
    """Return an answer's thoughts, under any of their names, and remove the names from ``rest``."""
    found = {key: parse_content(rest.pop(key), role) for key in THOUGHTS if not _is_empty(rest.get(key))}
    for key in THOUGHTS:
        rest.pop(key, None)
    if found and role != "assistant":
        raise UserError(f"the {role} message has {next(iter(found))}, which only an assistant message can have")
    if len(set(found.values())) > 1:
        raise UserError(f"{' and '.join(found)} of a message differ; keep one of them")
    return next(iter(found.values()), None) or ""


def _weight(rest: dict[str, Any], role: str) -> float:
    """Return a message's loss weight, from ``weight`` and the flags, and remove them from ``rest``."""
    weights: dict[str, float] = {}
    if "weight" in rest:
        weights["weight"] = parse_weight(rest.pop("weight"), "a message's weight")
    for flag in TRAINING_FLAGS:
        if flag in rest:
            value = rest.pop(flag)
            if value not in (0, 1):  # True and False are among them
                raise UserError(f"a message's {flag} must be true or false, not {shortened(value)}; correct it")
            weights[flag] = float(value)
    if len({weight > 0 for weight in weights.values()}) > 1:
        raise UserError(f"{' and '.join(weights)} of a message contradict each other; keep one of them")
    if role != "assistant":
        marked = next((key for key, weight in weights.items() if weight), None)
        if marked:
            raise UserError(
                f"the {role} message is to be learned ({marked}), and only assistant messages are; remove the key, or "
                "train on whole conversations with train_on_prompt"
            )
        return 1.0
    return weights.get("weight", next(iter(weights.values()), 1.0))


def _open_end(rest: dict[str, Any], role: str) -> bool:
    """Return True if an answer is marked as one that stops before its end, and remove the mark from ``rest``."""
    value = rest.pop("open_end", False)
    if not isinstance(value, bool) or (value and role != "assistant"):
        raise UserError("open_end is true or false, and only of an assistant message; correct it")
    return value


def _calls(rest: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """Return the tool calls of ``tool_calls`` or of OpenAI's old ``function_call``; remove both from ``rest``."""
    found = {}
    for key in ("tool_calls", "function_call"):
        value = rest.pop(key, None)
        if not _is_empty(value):
            found[key] = _parse_calls(parse_json_text(value, key))
    if found and role != "assistant":
        raise UserError(f"the {role} message has {next(iter(found))}, which only an assistant message can have")
    functions = [[call["function"] for call in calls] for calls in found.values()]
    if len(functions) > 1 and functions[0] != functions[1]:
        raise UserError("tool_calls and function_call of a message differ; keep one of them")
    return next(iter(found.values()), [])


def _parse_calls(value: Any) -> list[dict[str, Any]]:
    """Return tool calls as ``{"type": "function", "function": {"name", "arguments"}}``, the arguments as an object.

    Most templates write ``arguments | tojson`` or go through its items, which needs an object: JSON text, as OpenAI
    writes it, would be quoted a second time.
    """
    calls = value if isinstance(value, list) else [value]
    return [_parse_call(call) for call in calls]


def _parse_call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError('a tool call is {"type": "function", "function": {"name", "arguments"}}; correct it')
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = parse_json_text(arguments or "{}", "the arguments of a tool call")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise UserError(f"the arguments of a tool call must be an object, not {kind_of(arguments)}; correct them")
    # Templates write a function as it is given, so its keys have one order.
    normal = {"name": function["name"], "arguments": arguments}
    outer = {} if function is call else {k: v for k, v in call.items() if k not in ("type", "function", "id")}
    inner = {k: v for k, v in function.items() if k not in ("name", "arguments", "parameters", "type", "id")}
    identity = {"id": call["id"]} if call.get("id") is not None else {}
    return {**identity, "type": "function", "function": normal | inner, **outer}
