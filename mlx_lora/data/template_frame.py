"""Template frames: a conversation rendered with numbered sentinels in place of its messages' texts.

The frame holds all that the template itself writes. The real rendering must be the frame with the texts inserted, so
that the place of every text is known without searching for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from .chat_template import render

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
PROMPT_KINDS = {"system": "system prompt", "user": "user turn", "tool": "tool result"}
_PROMPTS = frozenset(PROMPT_KINDS.values())
# Methods and filters by which a template looks for a literal in a text.
_SEARCHES = {
    *("split", "rsplit", "startswith", "endswith", "find", "rfind", "index", "rindex", "count", "replace"),
    *("partition", "rpartition", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "in", "equalto", "eq"),
}
_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
_THOUGHT_TAG = re.compile(r"(</?think>)")
_THOUGHT_END = re.compile(r"</[^<>]*(think|thought|reason)[^<>]*>|\[/THINK\]", re.IGNORECASE)


class Run(NamedTuple):
    """A text of a message that one sentinel stands for.

    Attributes:
        message: index of the message; of equal prompt texts the first.
        kind: ``text``, ``thoughts`` or ``tool call`` of an answer; else the kind of message, e.g. ``user turn``.
        text: without the white space around it, which templates strip.
        offset: where it begins in the message's content, or −1 if it is not of a content.
    """

    message: int
    kind: str
    text: str
    offset: int = -1

    @property
    def answer(self) -> bool:
        """True if an assistant wrote it."""
        return self.kind not in _PROMPTS


class PrintedRun(NamedTuple):
    """A run where the template prints it, characters ``start`` to ``end`` of the rendered text.

    Attributes:
        exact: the characters are the run's own, not escaped as in JSON.
    """

    number: int
    start: int
    end: int
    exact: bool


@dataclass
class Alignment:
    """A frame aligned with the rendered text.

    Attributes:
        printed: every run the template prints, in order.
        pieces: the template's own text before, between and after them.
        blocks: (start, end) of the ``{% generation %}`` blocks.
    """

    printed: list[PrintedRun]
    pieces: list[str]
    blocks: list[tuple[int, int]]


def template_source(tokenizer: Any, tools: Any) -> str:
    """Return the Jinja source that is used with or without tools."""
    source = tokenizer.chat_template
    return source if isinstance(source, str) else tokenizer.get_chat_template(None, tools)


@lru_cache(maxsize=64)
def marks_generation(source: str) -> bool:
    """Return True if the template marks the assistant's text with ``{% generation %}``."""
    return bool(_GENERATION.search(source))


@lru_cache(maxsize=64)
def marked_source(source: str, mark: str) -> str:
    """Return the template with its ``{% generation %}`` blocks printed between marks.

    A call block in place of each keeps the white space control of the tags.
    """

    def call(match: re.Match[str]) -> str:
        before, end, after = match.groups()
        return f"{{%{before} {'endcall' if end else 'call mark_generation()'} {after}%}}"

    macro = f"{{% macro mark_generation() %}}{mark}oz{{{{ caller() }}}}{mark}cz{{% endmacro %}}\n"
    return macro + _GENERATION.sub(call, source)


@lru_cache(maxsize=64)
def searched_literals(source: str) -> re.Pattern[str]:
    """Return a pattern of the literals that the template looks for in texts, and of the tags around thoughts.

    Sentinels leave them visible, so that the template treats the frame as it treats the text.
    """
    import jinja2
    from jinja2 import nodes

    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(marked_source(source, ""))
    except jinja2.TemplateError:
        return _THOUGHT_TAG
    found: list[nodes.Node] = []
    for compare in tree.find_all(nodes.Compare):
        found += [compare.expr, *(operand.expr for operand in compare.ops)]
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _SEARCHES:
            found += call.args
    for test in tree.find_all((nodes.Filter, nodes.Test)):
        if test.name in _SEARCHES:
            found += test.args
    found += [assign.node for assign in tree.find_all(nodes.Assign)]
    texts = {node.value for node in found if isinstance(node, nodes.Const) and isinstance(node.value, str)}
    literals = [re.escape(text) for text in sorted(texts, key=len, reverse=True) if re.search(r"[^\w\s]", text)]
    return re.compile("(" + "|".join([*literals, _THOUGHT_TAG.pattern[1:-1]]) + ")")


@dataclass
class Cover:
    """A conversation with sentinels in place of its texts.

    Attributes:
        mark: begins every sentinel; the rendered text does not hold it.
        literals: the texts that stay visible.
        prompts: cover system, user and tool messages too, not only the assistant's.
    """

    mark: str
    literals: re.Pattern[str]
    prompts: bool = True
    messages: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    _known: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, messages: Sequence[dict[str, Any]]) -> Cover:
        """Cover a whole conversation."""
        for i, message in enumerate(messages):
            covered = dict(message)
            if message["role"] == "assistant":
                for key in REASONING_KEYS:
                    if isinstance(message.get(key), str):
                        covered[key] = self._text(message[key], i, "thoughts")
                covered["content"] = self._content(message.get("content"), i, None)
                if message.get("tool_calls"):
                    covered["tool_calls"] = [self._call(call, i) for call in message["tool_calls"]]
            elif self.prompts:
                covered["content"] = self._content(message.get("content"), i, PROMPT_KINDS.get(message["role"], "turn"))
            self.messages.append(covered)
        return self

    def _sentinel(self, run: Run) -> str:
        # Equal prompts share one, since a template may compare messages; so do thoughts given under two keys.
        shared = not run.answer or (run.kind == "thoughts" and run.offset < 0)
        key = (run.message if run.answer else -1, run.text)
        number = self._known.get(key, len(self.runs)) if shared else len(self.runs)
        if number == len(self.runs):
            self.runs.append(run)
        if shared:
            self._known[key] = number
        return f"{self.mark}{number}z"

    def _content(self, content: Any, message: int, kind: str | None) -> Any:
        if isinstance(content, list):
            return [
                {**part, "text": self._text(part["text"], message, kind or "text")}
                if isinstance(part, dict) and isinstance(part.get("text"), str)
                else part
                for part in content
            ]
        return self._text(content, message, kind, 0) if isinstance(content, str) else content

    def _text(self, text: str, message: int, kind: str | None, offset: int = -1) -> str:
        """Cover the runs between visible literals; ``kind`` None is an answer's content, thoughts or text."""
        parts = self.literals.split(text)
        if len(parts) > 1 and not any(part.strip() for part in parts[::2]):
            parts = [text]  # nothing but literals
        covered, at = [], 0
        thoughts_end = max((match.start() for match in _THOUGHT_END.finditer(text)), default=0) if not kind else 0
        for k, part in enumerate(parts):
            bare = part.strip()
            if k % 2 or not bare:
                covered.append(part)
            else:
                lead = 0 if bare is part else part.index(bare)
                what = kind or ("thoughts" if at < thoughts_end else "text")
                run = Run(message, what, bare, at + lead if offset >= 0 else -1)
                covered.append(f"{part[:lead]}{self._sentinel(run)}{part[lead + len(bare) :]}")
            at += len(part)
        return "".join(covered)

    def _call(self, call: Any, message: int) -> Any:
        """Cover a tool call's name and arguments; ids and types stay."""
        if not isinstance(call, dict):
            return call
        if isinstance(call.get("function"), dict):
            return {**call, "function": self._call(call["function"], message)}
        named = {key: self._leaves(call[key], message) for key in ("name", "arguments", "parameters") if key in call}
        return {**call, **named}

    def _leaves(self, value: Any, message: int) -> Any:
        if isinstance(value, str):
            bare = value.strip()
            return value.replace(bare, self._sentinel(Run(message, "tool call", bare)), 1) if bare else value
        if isinstance(value, dict):
            return {key: self._leaves(item, message) for key, item in value.items()}
        return [self._leaves(item, message) for item in value] if isinstance(value, list) else value


def cover(messages: Sequence[dict[str, Any]], text: str, source: str, prompts: bool = True) -> Cover:
    """Cover a conversation whose rendering is ``text``."""
    mark = "Qz"
    while mark in text:
        mark += "q"
    return Cover(mark, searched_literals(source), prompts).add(messages)


def divide(frame: str, mark: str) -> list[str]:
    """Return the template's texts and, between, the sentinels' contents: a run's number, or o and c of a mark."""
    return re.split(rf"{mark}(\d+|o|c)z", frame)


def align(parts: Sequence[str], text: str, covered: Cover) -> Alignment | None:
    """Align a divided frame with the text, or return None where the text is not the frame with the runs inserted."""
    result = Alignment([], [parts[0]], [])
    if not text.startswith(parts[0]):
        return None
    at, opened = len(parts[0]), []
    for name, piece in zip(parts[1::2], parts[2::2], strict=True):
        form = ""
        if name == "o":
            opened.append(at)
        elif name == "c":
            result.blocks.append((opened.pop(), at))
        else:
            run = covered.runs[int(name)].text
            form = run if text.startswith(run + piece, at) else _escaped(run, piece, text, at)
            if not form:
                return None
            result.printed.append(PrintedRun(int(name), at, at + len(form), form == run))
            result.pieces.append("")
        if not form and not text.startswith(piece, at):
            return None
        result.pieces[-1] += piece
        at += len(form) + len(piece)
    return result if at == len(text) else None


def _escaped(run: str, piece: str, text: str, at: int) -> str:
    """Return a run as it is printed within a JSON string, with the piece after it; empty where it is not."""
    forms = (json.dumps(run, ensure_ascii=ascii)[1:-1] for ascii in (False, True))
    return next((form for form in forms if text.startswith(form + piece, at)), "")


def tail(tokenizer: Any, covered: Cover, count: int, generate: bool, options: dict[str, Any]) -> tuple[int, str]:
    """Render the first ``count`` covered messages; return (the last sentinel's number or −1, what follows it).

    Raises:
        UserError: the template refuses them.
    """
    frame = render(tokenizer, covered.messages[:count], generate=generate, **options)
    parts = re.split(rf"{covered.mark}(\d+)z", frame)
    return (int(parts[-2]) if len(parts) > 1 else -1), parts[-1]
