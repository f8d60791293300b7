"""Tool-aware prompts: the tools of an ecosystem with stored calls that are most like the request, before the request.

A stored example is a request with the call that answers it. Examples of unwanted calls are never shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.checks.dataset_table import NEGATIVE_BUCKET, TRUE
from ..evaluation.scorers.answer_text import json_values
from ..evaluation.scorers.tool_call import Call, read_calls
from ..evaluation.targets.target import Messages
from .ecosystems import Ecosystem, find_ecosystem
from .rows import NEGATIVE
from .tool_need import tool_need

if TYPE_CHECKING:
    from .index import Hit, Index

COLLECTION = "tool_examples"
PREFIX = "You have access to the following tools"
SYNTAX = 'To use one, answer with JSON alone: {"tool_calls": [{"name": NAME, "parameters": {...}}]}'
EXAMPLES, MOST_EXAMPLES = 2, 3
MOST_TOKENS = 300
# A parameter's value in an example is shortened: a file's whole content shows no more than its beginning.
LONGEST_VALUE, LONGEST_REQUEST = 60, 120
# Hits that are read at first, and at most: copies and unwanted calls may stand before the wanted ones.
FIRST_HITS, MOST_HITS = 16, 1024
_PIECE = re.compile(r"_?[A-Za-z]{1,7}|[!-/:-@\[-`{-~]{1,2}|[^\x00-\x7f]|\d|\n")


@dataclass(frozen=True)
class ToolExample:
    """Request with the calls that answer it."""

    request: str
    calls: tuple[str, ...]
    tools: dict[str, tuple[str, ...]]

    def render(self) -> str:
        """Return the example as it stands in a prompt."""
        return f'User: {self.request}\nAssistant: {{"tool_calls": [{", ".join(self.calls)}]}}'


@dataclass(frozen=True)
class ToolPrompt:
    """Text that comes before a request.

    Attributes:
        tokens: estimated from above.
    """

    text: str
    ecosystem: str
    examples: list[ToolExample]
    tokens: int


def estimate_tokens(text: str) -> int:
    """Return how many tokens a text has, from above for prose, code and JSON: some 20 % more than Llama 3 and Qwen."""
    return sum(1 if piece.isascii() else 2 for piece in _PIECE.findall(text))


def add_tools(
    index: Index | None, messages: Messages, ecosystem: str, n: int = EXAMPLES
) -> tuple[Messages, ToolPrompt | None]:
    """Return a conversation whose last message has the tools before it, if it needs one; else as it is, and None."""
    request = str(messages[-1]["content"])
    if not tool_need(request).needed:
        return messages, None
    prompt = build_tool_prompt(index, request, ecosystem, n)
    return [*messages[:-1], {**messages[-1], "content": f"{prompt.text}\n\n{request}"}], prompt


def build_tool_prompt(
    index: Index | None,
    request: str,
    ecosystem: str,
    n: int = EXAMPLES,
    count: Callable[[str], int] = estimate_tokens,
) -> ToolPrompt:
    """Return the tools of an ecosystem and the stored examples that are most like a request.

    Args:
        index: where the examples are; without one only the tools are named.
        n: examples, at most 3; fewer are shown where they would exceed 300 tokens.

    Raises:
        UserError: there is no such ecosystem.
    """
    chosen = find_ecosystem(ecosystem)
    examples = [] if index is None else find_examples(index, request, chosen, min(n, MOST_EXAMPLES))
    while True:
        text = _render(chosen, examples)
        if not examples or count(text) <= MOST_TOKENS:
            return ToolPrompt(text, chosen.name, examples, count(text))
        examples = examples[:-1]


def find_examples(index: Index, request: str, ecosystem: Ecosystem, n: int) -> list[ToolExample]:
    """Return the ``n`` stored examples of an ecosystem that are most like a request, each request and call once."""
    k = FIRST_HITS
    while True:
        hits = index.search(request, k=k, collections=[COLLECTION])
        found = list(_usable(hits, ecosystem))
        if len(found) >= n or len(hits) < k or k >= MOST_HITS:
            return found[:n]
        k *= 4


def _usable(hits: Sequence[Hit], ecosystem: Ecosystem) -> Iterator[ToolExample]:
    seen: set[object] = set()
    for hit in hits:
        example = None if is_negative(hit) else read_example(hit)
        if example is None or not _fits(hit.metadata.get("ecosystem"), example, ecosystem):
            continue
        # Real files answer several requests with one call, and one request many times.
        if not seen.isdisjoint((example.request, example.calls)):
            continue
        seen.update((example.request, example.calls))
        yield example


def is_negative(hit: Hit) -> bool:
    """Return True for an example of an unwanted call: flagged so, or of a bucket that is named so (``tool_neg``)."""
    named = str(hit.metadata.get("task_type") or "").lower()
    flagged = any(hit.metadata.get(flag) in TRUE for flag in NEGATIVE)
    return flagged or NEGATIVE_BUCKET.search(named) is not None


def read_example(hit: Hit) -> ToolExample | None:
    """Return the example of a stored document, None if it holds no call."""
    # Of a long example the text is a part, and the metadata hold the whole call.
    source = str(hit.metadata.get("call") or hit.text)
    calls = next((calls for value in json_values(source) if (calls := read_calls(value))), None)
    if not calls:
        return None
    request = str(hit.metadata.get("instruction") or hit.text.split("{", 1)[0])
    written = tuple(json.dumps(_shortened(call), ensure_ascii=False) for call in calls)
    return ToolExample(
        _short(" ".join(request.split()), LONGEST_REQUEST), written, {name: tuple(values) for name, values in calls}
    )


def _fits(named: Any, example: ToolExample, ecosystem: Ecosystem) -> bool:
    """Return True if an example is of an ecosystem: named so, or, without a name, calling its tools as it does."""
    if named:
        return named == ecosystem.name
    tools = ecosystem.tools
    return all(name in tools and set(values) <= set(tools[name]) for name, values in example.tools.items())


def _shortened(call: Call) -> dict[str, Any]:
    name, parameters = call
    values = {
        key: _short(value, LONGEST_VALUE) if isinstance(value, str) else value for key, value in parameters.items()
    }
    return {"name": name, "parameters": values}


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _render(ecosystem: Ecosystem, examples: Sequence[ToolExample]) -> str:
    own = {name: values for example in examples for name, values in example.tools.items()}
    tools = {**own, **ecosystem.tools}
    listed = ", ".join(f"{name}({', '.join(values)})" for name, values in tools.items())
    shown = [f"Example\n{example.render()}" for example in examples]
    return "\n".join([f"{PREFIX}: {listed}" if tools else f"{PREFIX}: none is known", SYNTAX, *shown])
