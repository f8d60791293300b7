"""Detection of prompts that need a tool: a look into the user's workspace, a change there, a command, or a page.

A prompt is read clause by clause. An imperative needs a tool if its verb acts on a workspace (*run*, *open*), or if its
object is there (*show me* the folder, *create* a file); a question needs one if it is about the user's own files. Code
and text that the prompt holds itself are not looked up, and questions about a kind of thing (*how do I read a file*)
are answered from knowledge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import workspace_words as words
from .ecosystems import MENTION

_FENCED = re.compile(r"(`{3,}|~{3,}).*?(?:\1|\Z)", re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_QUOTED = re.compile(r"[\"“]([^\"”\n]+)[\"”]")
_CODE_LINE = re.compile(
    r"[{};]\s*$|^\s*(?:def|class|function|const|let|var|import|from|for|if|return|export|public|SELECT|at) .*[({:;=.]|"
    r"^\s*\w+(?:Error|Exception)\b|=>|\)\s*\{",
    re.MULTILINE,
)
_CLAUSES = re.compile(
    r"(?<=[.!?])\s+|\n+|;\s+|,?\s+(?:and|then|so)\s+(?:then\s+)?(?=[a-z]+\b)|,\s+(?=(?:please|put|can|could|i)\b)"
)
_POLITE = re.compile(
    r"^(?:(?:please|hey|hi|hello|ok(?:ay)?|now|then|also|next|first|thanks?|just|quickly|kindly|and|so)\b[,!:]?\s*|"
    r"(?:can|could|would|will) you\s+(?:please\s+|quickly\s+)?|i(?:'d| would) like (?:you )?to\s+|i (?:need|"
    r"want) you to\s+|"
    r"let me\s+|i must\s+|"
    r"let(?:'s| us)\s+|you should\s+|go and\s+)+",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"(?:what|which|where|who|whose|why|when|how|is|are|was|were|do|does|did|has|have|should|would|must|may|can|"
    r"could)\b",
    re.IGNORECASE,
)
_ASKED = re.compile(rf"{_QUESTION.pattern}|{words.COMMAND.pattern}", re.IGNORECASE)
# Questions about a kind of thing, about advice, or about the tools themselves.
_GENERAL = re.compile(
    r"how (?:do|can|could|would|should|may|might|must) (?:i|you|one|we|someone|people)\b|how (?:is|are) \w+ different|"
    r"what (?:happens|would|should|could|makes)\b|what(?:'s| is| are) (?:an?|the (?:difference|best|purpose|meaning|"
    r"point|"
    r"[@#]\w+))\b|what(?:'s| is) the [@#]|what (?:does|do) [@#`]?[\w.]+`? (?:do|mean)\b|"
    r"what does (?:the )?(?:command|option|"
    r"flag|exit code|error code)\b|is it\b|are there any rules\b|should\b|would\b|must\b|why (?:would|must|should|"
    r"are|do we)\b|"
    r"when (?:should|do|does|would)\b|do (?:i|you|we) (?:need|have to)\b|can an?\b|which tools\b",
    re.IGNORECASE,
)
_LISTING = re.compile(
    r"which (?:\w+ )*?(?:files?|modules?|scripts?|components?|tests?|classes|packages|folders|branches|commits)\b|"
    r"how many (?:\w+ )*?(?:files?|tests?|commits?|lines|branches|modules|components)\b|"
    r"where (?:is|are|do|does|did) .*\b(?:configured|defined|called?|used?|declared|implemented|set|imported?|"
    r"stored?)\b",
    re.IGNORECASE,
)
# Characters of a prompt that are read.
LONGEST = 4_000
# "Rewrite this sentence: ..."
_BROUGHT = re.compile(r"([^:\n`]{3,}?): +(?=\S)(.{12,})", re.DOTALL)
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|where)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ToolNeed:
    """Judgement of one prompt.

    Attributes:
        reason: the words that decided it, for a reader; "" where nothing asks for a tool.
    """

    needed: bool
    reason: str = ""


def tool_need(prompt: str) -> ToolNeed:
    """Judge if answering a prompt needs a tool; of a long prompt the beginning decides."""
    text, pasted = _without_pasted(prompt[:LONGEST])
    clauses = [_POLITE.sub("", clause.strip()) for clause in _CLAUSES.split(text)]
    looks = words.ACT.match(clauses[0]) or words.LOOK.match(clauses[0])
    written = not looks and words.TEXT.search(text) is not None
    for clause in clauses:
        reason = _judge(clause, pasted, written) if clause else ""
        if reason:
            return ToolNeed(True, reason)
    return ToolNeed(False)


def _without_pasted(prompt: str) -> tuple[str, bool]:
    """Return the request without the code and the text that it holds, and True if it holds some."""
    text = _FENCED.sub(" ", prompt)
    pasted = text != prompt
    head, colon, rest = text.partition(":\n")
    if colon and rest.strip():
        text, pasted = head, True
    text, found = _without_code_lines(text)
    pasted = pasted or found
    for pattern in (_INLINE, _QUOTED):
        # A name or a command may be in quotes; a sentence or code is something that the prompt brings.
        for piece in pattern.findall(text):
            command = words.COMMAND.match(f"`{piece}`")
            if not command and (len(piece.split()) > 3 or re.search(r"[(){}<>=|$:]", piece)):
                text = text.replace(piece, " ")
                pasted = pasted or not _place(text)
    brought = _BROUGHT.match(text)
    if brought and not any(map(_place, brought.groups())) and not _ASKED.match(brought[2]):
        text, pasted = brought[1], True
    return text, pasted


def _without_code_lines(text: str) -> tuple[str, bool]:
    lines = text.split("\n")
    kept = [line for line in lines if not _CODE_LINE.search(line)] if len(lines) > 1 else lines
    return "\n".join(kept), len(kept) < len(lines)


def _judge(clause: str, pasted: bool, written: bool) -> str:
    """Return the words for which a clause needs a tool, or an empty text.

    Args:
        written: the prompt asks for a text, so that the files it names are that text's matter.
    """
    if _QUESTION.match(clause) or clause.rstrip().endswith("?"):
        return _judge_question(clause)
    if found := MENTION.search(clause) or words.ADDRESS.search(clause):
        return found[0]
    if written:
        acts = words.ACT.match(clause) or words.PUT.match(clause)
        return (_place(clause) if acts else "") or _word(words.MADE_FILE, clause)
    if found := words.COMMAND.search(clause):
        return found[0]
    for verbs, judge in _IMPERATIVES:
        if verb := verbs.match(clause):
            reason = judge(clause[verb.end() :], pasted)
            return f"{verb[0]} {reason}" if reason else ""
    return _own_file(clause) if not pasted else ""


def _judge_question(clause: str) -> str:
    if _GENERAL.match(clause):
        return ""
    found = MENTION.search(clause) or words.ADDRESS.search(clause) or words.OWN.search(clause) or _LISTING.match(clause)
    return found[0] if found else _own_file(clause)


def _own_file(clause: str) -> str:
    """Return the file or path that a clause names; one of a kind ("a README") is not meant."""
    if words.KIND_OF_FILE.search(clause):
        return ""
    found = words.FILE.search(clause) or words.PATH.search(clause)
    return found[0] if found else ""


def _judge_act(rest: str, pasted: bool) -> str:
    return "" if pasted and not _place(rest) else rest.strip() or "a command"


def _judge_put(rest: str, pasted: bool) -> str:
    return _place(rest) or _word(words.OWN, rest) or _word(words.PLACES, rest)


def _judge_look(rest: str, pasted: bool) -> str:
    if words.TOLD.match(rest.strip()):
        return ""
    found = _place(rest) or _word(words.OWN, rest)
    if found or pasted:
        return found
    head = _RELATIVE.split(rest)[0]
    return _word(words.PLACES, head) if words.DEFINITE.search(rest) or not re.match(r"\s*(?:an?|\w+) ", rest) else ""


def _judge_change(rest: str, pasted: bool) -> str:
    return _place(rest) or ("" if pasted else _word(words.DEFINITE, rest))


def _judge_make(rest: str, pasted: bool) -> str:
    head = _RELATIVE.split(rest)[0]
    if found := _word(words.FILE, head) or _word(words.PATH, head):
        return found
    if _word(words.OWN, rest) and not pasted:
        return _word(words.OWN, rest)
    noun = re.split(r"\b(?:for|to|with|of|in|about|from|using)\b", head)[0]
    return _word(words.MADE, noun) or _word(re.compile(r"\b(?:here|into the|to the (?:\w+ )?class)\b"), head)


def _place(text: str) -> str:
    """Return the file, path, mention or address in a text."""
    patterns = (words.FILE, words.PATH, MENTION, words.ADDRESS)
    return next((found for pattern in patterns if (found := _word(pattern, text))), "")


def _word(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[0] if found else ""


_IMPERATIVES = (
    (words.ACT, _judge_act),
    (words.PUT, _judge_put),
    (words.LOOK, _judge_look),
    (words.MAKE, _judge_make),
    (words.CHANGE, _judge_change),
)
