"""Row dialects → conversations (messages, ShareGPT, Alpaca, …); a key with a meaning is used, or refused by name.

The dialects: ``messages`` (OpenAI, mlx-lm, TRL), ``conversations`` (ShareGPT), ``instruction`` and ``output``
(Alpaca), ``prompt`` and ``completion`` (texts or messages), ``query`` and ``response``, ``question`` and ``answer``,
``text``. The table of keys is in docs/data.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .messages import MEDIA, check_messages, parse_content, parse_json_text, parse_messages
from .schema import Span, check_depth, check_writable, kind_of, parse_spans, parse_weight, shortened
from .tools import parse_template_kwargs, parse_tools

# A question's key → the keys its answer may have, the usual one first.
PAIRS = {
    "instruction": ("output", "response"),
    "prompt": ("completion", "response"),
    "query": ("response", "answer"),
    "question": ("answer", "response"),
}
DIALECT_NAMES = {"prompt": "completion"}
PREFERENCE_KEYS = ("chosen", "rejected", "preferred_output", "non_preferred_output")
SYSTEM_KEYS = ("system", "system_prompt")
# Keys of a conversation, in whichever dialect; beside messages the weak ones are often labels, so they are meta there.
STRONG_KEYS = ("messages", "conversations", "instruction", "prompt", "completion", "text")
WEAK_KEYS = ("input", "context", "output", "query", "question", "response", "answer")
# Never meta: keys that are used, or that hold nothing where the row is not refused for them.
_OWN_KEYS = {
    *("messages", "conversations", "instruction", "prompt", "completion", "text", "history", *SYSTEM_KEYS),
    *("weight", "spans", "meta", "metadata", "tools", "functions", "chat_template_kwargs"),
    *(*PREFERENCE_KEYS, *MEDIA, "kto_tag"),
}
# The legacy format of a whole row as one text.
_INSTRUCTION, _INPUT, _RESPONSE = "### Instruction:", "### Input:", "### Response:"


@dataclass
class ParsedRow:
    """A row's content in the normal form; the attributes are those of :class:`~mlx_lora.data.formats.DataRow`."""

    dialect: str
    messages: list[dict[str, Any]]
    meta: dict[str, Any]
    weight: float = 1.0
    spans: list[Span] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    unknown_keys: list[str] = field(default_factory=list)


@dataclass
class _Conversation:
    """The messages of one dialect, the row's keys that they used, and unknown keys of messages."""

    dialect: str
    messages: list[dict[str, Any]]
    taken: set[str]
    unknown: list[str] = field(default_factory=list)


def parse_row(row: Any) -> ParsedRow:
    """Return a row's content in the normal form.

    Raises:
        UserError: why it cannot be used, without its place.
    """
    if not isinstance(row, dict):
        raise UserError(f"a row is an object, and this is {kind_of(row)}; correct or remove it")
    check_depth(row)
    _refuse_other_objectives(row)
    found = _conversation(row)
    _refuse_contradictions(row, found)
    messages, added = _with_system(row, found.messages)
    check_messages(messages)
    tools, template_kwargs = parse_tools(row), parse_template_kwargs(row)
    check_writable([messages, tools, template_kwargs])
    weight = 1.0 if row.get("weight") is None else parse_weight(row["weight"])
    meta = _meta(row, found.taken)
    # Spans count the row's own messages; those of a pair are counted as they come out.
    own = found.dialect in ("messages", "conversations")
    spans = parse_spans(parse_json_text(row.get("spans") or [], "spans"), messages, added if own else 0)
    return ParsedRow(found.dialect, messages, meta, weight, spans, tools, template_kwargs, found.unknown)


def _refuse_other_objectives(row: dict[str, Any]) -> None:
    """Refuse rows of preference training, KTO and vision: trained on as plain text, they would teach something else."""
    preference = [key for key in PREFERENCE_KEYS if isinstance(row.get(key), (str, list, dict))]
    if preference:
        raise UserError(
            f"this is a row of preferences ({', '.join(preference)}), which supervised training does not use; to learn "
            "the preferred answers alone, write them as messages or as prompt and completion"
        )
    label = row.get("label")
    verdict = label.lower() in ("true", "false") if isinstance(label, str) else label in (0, 1)
    judged = "completion" in row and verdict
    if judged or row.get("kto_tag") not in (None, ""):
        raise UserError(
            f"this is a row of KTO ({'label' if judged else 'kto_tag'}), which supervised training does not use; "
            "remove the key of those answers that are to be learned, and the rows of the others"
        )
    for key in MEDIA:
        if row.get(key) not in (None, "", [], {}):
            raise UserError(f"the row has {key}, and only text is trained on; remove the key or the row")
    documents = row.get("documents")
    if isinstance(documents, list) and any(isinstance(document, dict) for document in documents):
        raise UserError("documents belong to the prompt, and no template is given them; put their text into a message")


def _conversation(row: dict[str, Any]) -> _Conversation:
    """Return the conversation of the first dialect whose keys are all there, or of the first with some of them."""
    present = {key for key in (*STRONG_KEYS, *WEAK_KEYS) if row.get(key) is not None}
    for key in ("messages", "conversations"):
        if key in present:
            return _Conversation(key, *_split(parse_messages(row[key], key), {key}))
    answers = {question: next((a for a in PAIRS[question] if a in present), None) for question in PAIRS}
    complete = [question for question in PAIRS if question in present and answers[question]]
    if not complete and "text" in present:
        return _Conversation("text", _from_text(_text(row, "text")), {"text"})
    begun = [question for question in PAIRS if question in present] + ["prompt"] * ("completion" in present)
    for question in complete or begun:
        answer = answers[question] or PAIRS[question][0]
        return _pair(row, question, answer)
    for key in ("messages", "conversations"):
        if key in row:
            parse_messages(row[key], key)
    raise UserError(
        "a row has messages, conversations, instruction and output, prompt and completion, query and response, "
        "question and answer, or text; correct or remove it"
    )


def _split(parsed: tuple[list[dict[str, Any]], list[str]], taken: set[str]) -> tuple[Any, set[str], list[str]]:
    messages, unknown = parsed
    return messages, taken, unknown


def _pair(row: dict[str, Any], question: str, answer: str) -> _Conversation:
    taken = {question, answer, "history"}
    asked, unknown = _side(row, question, "user")
    answered, more = _side(row, answer, "assistant")
    if question == "prompt":
        # TRL trains on the completion alone.
        asked = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in asked]
    if question == "instruction":
        key = "context" if row.get("input") is None else "input"
        taken.add(key)
        parts = [asked[0]["content"], _text(row, key, optional=True)]
        asked[0]["content"] = "\n\n".join(part for part in parts if part)
    return _Conversation(
        DIALECT_NAMES.get(question, question), [*_history(row), *asked, *answered], taken, [*unknown, *more]
    )


def _side(row: dict[str, Any], key: str, role: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one side of a pair as messages: a text as one of ``role``, TRL's list of messages as itself."""
    if key in ("prompt", "completion") and isinstance(row.get(key), list):
        return parse_messages(row[key], key)
    return [{"role": role, "content": _text(row, key)}], []


def _history(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return Alpaca's earlier turns, pairs of texts; LlamaFactory trains on their answers too."""
    turns = parse_json_text(row.get("history") or [], "history")
    messages = []
    for turn in turns if isinstance(turns, list) else [turns]:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise UserError("history must be a list of [question, answer], two texts each; correct or remove the row")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return messages


def _from_text(text: str) -> list[dict[str, Any]]:
    """Return the turns of a text in the legacy format; another text is the assistant's, as mlx-lm trains on it."""
    before, instructed, rest = text.partition(_INSTRUCTION)
    asked, answered, answer = rest.partition(_RESPONSE)
    if not instructed or not answered or "###" in before:
        return [{"role": "assistant", "content": text}]
    instruction, _, given = asked.partition(_INPUT)
    user = "\n\n".join(part for part in (instruction.strip(), given.strip()) if part)
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer.strip()}]


def _text(row: dict[str, Any], key: str, optional: bool = False) -> str:
    if row.get(key) is None:
        if optional:
            return ""
        raise UserError(f"{key} is missing; correct or remove the row")
    if not isinstance(row[key], str):
        raise UserError(f"{key} must be text, not {kind_of(row[key])}; correct or remove the row")
    return row[key]


def _with_system(row: dict[str, Any], messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the messages with the row's own system prompt before them, and how many messages were added."""
    prompts = [text for key in SYSTEM_KEYS if (text := parse_content(row.get(key), "system"))]
    prompts += [m["content"] for m in messages[:1] if m["role"] == "system" and prompts]
    if len(set(prompts)) > 1:
        raise UserError("the row has two different system prompts; keep one of them")
    if not prompts or messages[0]["role"] == "system":
        return messages, 0
    return [{"role": "system", "content": prompts[0]}, *messages], 1


def _refuse_contradictions(row: dict[str, Any], found: _Conversation) -> None:
    """Refuse a row whose second dialect contradicts the first one."""
    if "history" not in found.taken and row.get("history") not in (None, "", []):
        raise UserError(f"history beside {found.dialect} is not read; put its turns into the conversation")
    pair = found.dialect not in ("messages", "conversations", "text")
    complete = {k for q, answers in PAIRS.items() for a in answers if row.get(q) and row.get(a) for k in (q, a)}
    for key in (*STRONG_KEYS, *WEAK_KEYS):
        checked = pair or key in STRONG_KEYS or key in complete
        if key in found.taken or not checked or not isinstance(row.get(key), (str, list)):
            continue
        if not _agrees(key, row[key], found.messages):
            raise UserError(
                f"{key} says something else than {' and '.join(sorted(found.taken - {'history'}))}, so the row holds "
                "two conversations; keep one of them"
            )


def _agrees(key: str, value: Any, messages: list[dict[str, Any]]) -> bool:
    """Return True if another dialect's value is part of the conversation; a rendered text must hold all of it."""
    if key == "text" and isinstance(value, str):
        text = _words(value)
        return all(_words(line) in text for m in messages for line in (m["content"] or "").splitlines())
    said = [_words(m["content"] or "") for m in messages]
    return all(any(_words(text) in words for words in said) for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for message in value if isinstance(value, list) else []:
        content = message.get("content", message.get("value")) if isinstance(message, dict) else message
        yield content if isinstance(content, str) else shortened(content)


def _words(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _meta(row: dict[str, Any], taken: set[str]) -> dict[str, Any]:
    """Return all other keys of the row, its own ``meta`` and ``metadata`` included.

    Raises:
        UserError: one of them is not an object.
    """
    meta = {key: value for key, value in row.items() if key not in _OWN_KEYS and key not in taken}
    for key in ("metadata", "meta"):
        given = parse_json_text(row.get(key), key) if row.get(key) != "" else None
        if given is not None and not isinstance(given, dict):
            raise UserError(f"{key} must be an object, not {kind_of(given)}; correct it")
        meta |= given or {}
    return meta
