"""Answer spans: the characters of a rendered conversation that the assistant generates, by the chat template itself.

An answer is the text a served model has to generate: from the end of the generation prompt to the end-of-turn token,
with thoughts, tool calls and the markup around them. White space that the template writes after the end is not
generated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .batch_encoding import common_length
from .chat_template import render
from .frame_cache import FrameCache, align_cached, frame_cache
from .template_frame import REASONING_KEYS, Alignment, Cover, PrintedRun, cover, tail, template_source

# Where template text may be divided: tags are never split.
_ATOM = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]|\s+|[^\s<\[]+|.", re.DOTALL)
_THOUGHT_BEGIN = re.compile(r"\s*[<\[][^<>\[\]]*think", re.IGNORECASE)


@dataclass
class AnswerSpan:
    """An answer in the rendered text.

    Attributes:
        message: index of the assistant's message.
        start, end: characters, from the end of the generation prompt to that of the end-of-turn token.
        weight: the message's own; 0 makes it context.
        content: (offset in the message's content, start, end) of the parts of its content that are printed unchanged.
        parts: the characters that are supervised: all of it, or what the template marks with ``{% generation %}``.
        open_from: where the text of a message with ``open_end`` stops: the rest of the answer is not supervised.
    """

    message: int
    start: int
    end: int
    weight: float = 1.0
    content: list[tuple[int, int, int]] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)
    open_from: int | None = None


@dataclass
class Answers:
    """A rendered conversation and the answers in it, in order.

    Attributes:
        dropped: (kind, index of its message) of texts that the template does not print, e.g. ``("thoughts", 2)``.
    """

    text: str
    spans: list[AnswerSpan]
    dropped: list[tuple[str, int]]


def find_answers(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    template_kwargs: dict[str, Any] | None = None,
) -> Answers:
    """Render a conversation and find its answers, in two renderings where its shape is known already.

    Raises:
        UserError: the template refuses the conversation, leaves out an answer, or prints texts in a way that cannot be
            followed; an answer is empty; or ``open_end`` is not one of an assistant's.
    """
    for i, message in enumerate(messages):
        if message.get("open_end") not in ((None, False, True) if message["role"] == "assistant" else (None, False)):
            raise UserError(f"open_end in message {i + 1} must be true or false, in an assistant message; correct it")
        if message["role"] == "assistant" and message.get("weight", 1) and not _says_something(message):
            raise UserError(f"the assistant's answer in message {i + 1} is empty; fill it in or remove the row")
    options = {"tools": tools, **(template_kwargs or {})}
    text = render(tokenizer, messages, **options)
    source = template_source(tokenizer, tools)
    cache = frame_cache(tokenizer, source, options if tools or template_kwargs else {})
    for prompts in (True, False):
        covered = cover(messages, text, source, prompts)
        aligned = align_cached(tokenizer, covered, text, source, options, cache)
        if aligned is not None:
            return _Finder(tokenizer, covered, aligned, options, cache).answers(text, messages)
    raise UserError(
        "the model's chat template changes this conversation's texts in a way that cannot be followed, so that the "
        "answers cannot be told from the rest; remove the row or use another template"
    )


def _says_something(message: dict[str, Any]) -> bool:
    content = message.get("content")
    said = content.strip() if isinstance(content, str) else content
    return bool(said or message.get("tool_calls") or any(message.get(key) for key in REASONING_KEYS))


class _Finder:
    """The answers of one aligned conversation."""

    def __init__(
        self, tokenizer: Any, covered: Cover, aligned: Alignment, options: dict[str, Any], cache: FrameCache
    ) -> None:
        self.tokenizer, self.covered, self.aligned = tokenizer, covered, aligned
        self.options, self.cache = options, cache

    def answers(self, text: str, messages: Sequence[dict[str, Any]]) -> Answers:
        """Find every assistant message's span.

        Raises:
            UserError: one is left out, printed twice, or mixed with other messages.
        """
        groups: dict[int, list[int]] = {}
        for k, printed in enumerate(self.aligned.printed):
            run = self.covered.runs[printed.number]
            if run.answer:
                groups.setdefault(run.message, []).append(k)
        spans, before = [], 0
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            weight = float(message.get("weight", 1))
            where = groups.get(i)
            if where is None:
                if weight:
                    raise UserError(f"the model's chat template leaves out the assistant's answer in message {i + 1}")
                continue
            numbers = [self.aligned.printed[k].number for k in where]
            if where != list(range(where[0], where[-1] + 1)) or len(set(numbers)) < len(numbers):
                raise UserError(
                    f"the model's chat template prints the assistant's answer in message {i + 1} twice, or other "
                    "messages within it, so that what is to be learned cannot be told"
                )
            span = self._span(i, where[0], where[-1], before)
            span.weight, before = weight, span.end
            if message.get("open_end"):
                span.open_from = self.aligned.printed[where[-1]].end
            spans.append(span)
        unmarked = [("generation marks", span.message) for span in spans if span.weight and not span.parts]
        return Answers(text, spans, [*self._dropped(), *unmarked])

    def _span(self, message: int, first: int, last: int, before: int) -> AnswerSpan:
        printed, pieces = self.aligned.printed, self.aligned.pieces
        header, ending = pieces[first], pieces[last + 1]
        start = printed[first].start - len(header) + self._known(self._header, message, first, header)
        end = printed[last].end + self._known(self._ending, message, last, ending)
        if start < before:  # the end of the answer before, where nothing is written between two
            start = before
        content = [
            (run.offset, place.start, place.end)
            for place in printed[first : last + 1]
            if (run := self.covered.runs[place.number]).offset >= 0 and place.exact
        ]
        parts = self._marked(printed[first : last + 1], start, end) if self.aligned.blocks else [(start, end)]
        return AnswerSpan(message, start, end, content=content, parts=parts)

    def _known(self, find: Any, message: int, k: int, piece: str) -> int:
        key = (find.__name__, message == 0, piece)
        if key not in self.cache.lengths or not self.covered.prompts:
            self.cache.lengths[key] = find(message, k, piece)
        return self.cache.lengths[key]

    def _tail(self, count: int, generate: bool, after: int) -> str | None:
        """Return the text the template writes after a sentinel if only ``count`` messages follow, or None."""
        try:
            number, rest = tail(self.tokenizer, self.covered, count, generate, self.options)
        except UserError:
            return None
        return rest if number == after else None

    def _header(self, message: int, k: int, piece: str) -> int:
        """Return the length of the prompt part of the text before an answer's first run."""
        number = self.aligned.printed[k - 1].number if k else -1
        served = self._tail(message, True, number) if message else None
        if served is not None and piece.startswith(served):
            return len(served)
        if not self.covered.prompts:
            raise UserError("the model's chat template writes prompts in a way that cannot be followed")
        generation = self._generation_prompt()
        if not generation:
            return len(piece)  # without a header to be seen, the answer begins with its text
        # The last place of the longest beginning; a thought that is begun for the model need not be there.
        found = [(_shared(generation, piece[at:]), at) for at in range(len(piece)) if piece[at] == generation[0]]
        length, at = max(found, default=(0, 0))
        rest = generation[length:]
        if length and (not rest.strip() or _THOUGHT_BEGIN.match(rest)):
            return length + at
        raise UserError(
            f"the model's chat template does not print the assistant's answer in message {message + 1} as the "
            "assistant's turn"
        )

    def _generation_prompt(self) -> str:
        """Return the text the template adds where a model is to answer the whole conversation (generation prompt)."""
        ends = self.aligned.printed[-1].number
        plain, prompt = (self._tail(len(self.covered.messages), generate, ends) for generate in (False, True))
        return prompt[_shared(prompt, plain) :] if prompt is not None and plain is not None else ""

    def _ending(self, message: int, k: int, piece: str) -> int:
        """Return the length of the answer's part of the text after its last run, end-of-turn token included."""
        number = self.aligned.printed[k].number
        plain, prompt = (self._tail(message + 1, generate, number) for generate in (False, True))
        if plain is None:  # a beginning that the template refuses: the conversation's end is like its other ends
            return self._like_the_last(k, piece)
        shared = min(_shared(piece, other) for other in (plain, prompt) if other is not None)
        own = piece[:shared].rstrip()
        eos = self.tokenizer.eos_token or ""
        if eos and eos in own:
            return own.index(eos) + len(eos)
        if not own and self._special(plain):  # another token ends a turn that others follow
            return self._special(piece)
        return len(own)

    def _like_the_last(self, k: int, piece: str) -> int:
        last = len(self.aligned.printed) - 1
        run = self.covered.runs[self.aligned.printed[last].number]
        if run.answer and k != last:
            ending = self.aligned.pieces[-1]
            own = ending[: self._ending(run.message, last, ending)]
            atoms = [atom for atom in _ATOM.findall(own) if not atom.isspace()]
            if atoms and atoms[-1] in piece:
                return piece.index(atoms[-1]) + len(atoms[-1])
        return self._special(piece)

    def _special(self, piece: str) -> int:
        """Return the end of the first special token in a text of the template; 0 without one."""
        specials = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        specials |= set(self.tokenizer.all_special_tokens)
        found = next((match for match in _ATOM.finditer(piece) if match.group() in specials), None)
        return found.end() if found else 0

    def _marked(self, printed: Sequence[PrintedRun], start: int, end: int) -> list[tuple[int, int]]:
        """Return the characters that ``{% generation %}`` marks in an answer, with its end-of-turn token if left out.

        Raises:
            UserError: a mark holds text that is not the assistant's.
        """
        parts = []
        for low, high in self.aligned.blocks:
            if any(
                low <= run.start < high and not self.covered.runs[run.number].answer for run in self.aligned.printed
            ):
                raise UserError("the model's chat template marks a prompt as generated; correct its generation marks")
            inside = [run for run in printed if low <= run.start and run.end <= high]
            if inside:
                parts.append((max(low, start), end if inside[-1] == printed[-1] else high))
        return parts

    def _dropped(self) -> list[tuple[str, int]]:
        shown = {run.number for run in self.aligned.printed}
        lost = {(run.kind, run.message): 1 for k, run in enumerate(self.covered.runs) if k not in shown}
        return sorted(lost, key=lambda pair: pair[1])


def _shared(text: str, other: str) -> int:
    """Return the length of the common prefix, cut back to where ``text`` may be divided."""
    same = common_length(text, other)
    ends = (match.end() for match in _ATOM.finditer(text))
    return max((end for end in ends if end <= same), default=0)
