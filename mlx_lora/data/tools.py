"""Tools and template variables of a row: the chat template's inputs other than the messages."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .messages import parse_json_text
from .schema import kind_of, shortened

# Arguments of apply_chat_template that are not variables of a template.
RESERVED = {
    *("messages", "conversation", "tools", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"),
    *(
        "return_assistant_tokens_mask",
        "documents",
        "template_kwargs",
        "tokenizer",
        "generate",
        "bos_token",
        "eos_token",
    ),
}


def parse_tools(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row's ``tools``, or OpenAI's old ``functions``, as ``{"type": "function", "function": {...}}``.

    Both may be JSON text, as TRL and LlamaFactory write it, and a tool may be the bare function.

    Raises:
        UserError: they are not a list of tools, or differ.
    """
    found = [_tools(row[key], key) for key in ("tools", "functions") if row.get(key) not in (None, "", [])]
    if len(found) == 2 and found[0] != found[1]:
        raise UserError("tools and functions differ; keep one of them")
    return found[0] if found else []


def _tools(value: Any, key: str) -> list[dict[str, Any]]:
    tools = parse_json_text(value, key)
    if not isinstance(tools, list):
        raise UserError(f"{key} must be a list of tools, not {kind_of(tools)}; correct or remove it")
    return [_tool(tool, key) for tool in tools]


def _tool(tool: Any, key: str) -> dict[str, Any]:
    tool = parse_json_text(tool, key)
    if (
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
    ):
        return {"type": "function", **tool}
    if isinstance(tool, dict) and tool.get("type", "function") == "function":
        bare = "function" not in tool
        function = {k: v for k, v in tool.items() if k != "type"} if bare else tool["function"]
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return {"type": "function", **({} if bare else tool), "function": function}
    raise UserError(f'a tool is {{"type": "function", "function": {{"name", "parameters"}}}}, not {shortened(tool)}')


def parse_template_kwargs(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's ``chat_template_kwargs``: variables of the chat template.

    Raises:
        UserError: it is not an object, or names an argument that is not a variable of the template.
    """
    value = row.get("chat_template_kwargs")
    given = parse_json_text(value, "chat_template_kwargs") if value != "" else None
    if given is not None and not isinstance(given, dict):
        raise UserError(f"chat_template_kwargs must be an object, not {kind_of(given)}; correct or remove it")
    reserved = sorted(RESERVED.intersection(given or {}))
    if reserved:
        raise UserError(f"chat_template_kwargs cannot set {reserved[0]}; remove it")
    return {key: value for key, value in (given or {}).items() if value is not None}
