"""What is left out of training, and why: every check has a name by which it is switched off."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...data.report import ImportReport
from .collapse import asks_only, floods_with_questions, made_of_stock_phrases, repeats_itself
from .record import Experience
from .similar import CHUNK, THRESHOLD, NearDuplicates, words_of

# name -> why an experience was left out
CHECKS = {
    "cut": "answer cut off in the middle of a sentence",
    "think": "<think> block left open, or no answer after it",
    "roles": "role prefix or control token in the answer",
    "short": "answer of a few words",
    "repeated": "phrases repeated within the answer",
    "questions": "questions instead of an answer",
    "stock-phrases": "made of stock phrases that other answers around it share",
    "near-duplicates": "nearly the same answer as another",
    "pattern-cap": "too many examples of one prompt",
}
USING_LORA = "written with an adapter (using_lora)"
MIN_WORDS = 4
# An answer of so few words may be whole without a full stop.
WHOLE_WITHOUT_STOP = 7

_EMPTY_THOUGHTS = re.compile(r"\s*<think>\s*</think>\s*")
# Who is speaking, before the answer or at the beginning of a later line.
_SPEAKER = re.compile(r"[\s*#]*(?:user|human|assistant|system|ai|sage|claude)\s*\**\s*:", re.I)
_TURN = re.compile(r"^(?:user|human|assistant)\s*:", re.I | re.M)
_CONTROL = re.compile(
    r"<\|[\w ]{1,30}\|>|<(?:start|end)_of_turn>|\[/?INST\]|</?s>|^### (?:Instruction|Response)\b", re.M
)
_SIGNATURE = re.compile(r"\n\s*(?:[–—~]|--)\s*\w+(?: \w+){0,2}$")
_CLOSING = "\"'”’»*_`)]}~ \t"
_STOPS = ".!?…:。！？"


@dataclass
class Filters:
    """Which checks are made.

    Attributes:
        skip: names of :data:`CHECKS` that are not made.
        without_lora: leave out what an adapter wrote (``metadata.using_lora``).
        min_words: answers of fewer words are short.
        similarity: Jaccard similarity of words from which two answers are nearly the same.
        pattern_share: at most this share of the examples has one prompt.
    """

    skip: frozenset[str] = frozenset()
    without_lora: bool = False
    min_words: int = MIN_WORDS
    similarity: float = THRESHOLD
    pattern_share: float = 0.1

    def makes(self, check: str) -> bool:
        """Whether a check of :data:`CHECKS` is made."""
        return check not in self.skip


def without_empty_thoughts(response: str) -> str:
    """The answer without an empty ``<think>`` block before it."""
    found = _EMPTY_THOUGHTS.match(response)
    return response[found.end() :] if found else response


def thinks_on(text: str) -> bool:
    """A ``<think>`` block is left open or was never opened, or nothing follows the last one."""
    opened, closed = text.count("<think>"), text.count("</think>")
    return opened != closed or (closed > 0 and not text.rsplit("</think>", 1)[1].strip())


def plays_a_role(text: str) -> bool:
    """The answer or a line of it begins with the name of a speaker, or a template's control token shows."""
    return bool(_SPEAKER.match(text) or _TURN.search(text) or _CONTROL.search(text))


def is_cut(text: str) -> bool:
    """The answer ends in the middle of a sentence, of emphasis or of a code block.

    It ends well with a full stop or its like, an emoji or a closed code block; short answers need none, and neither
    does a signature. A last item of a list that is no sentence counts as cut: the two look the same.
    """
    text = text.rstrip()
    if text.count("```") % 2:
        return True
    if text.endswith("```"):
        return False
    bare = text.rstrip(_CLOSING)
    if not bare or bare[-1] in ",;-–—(":
        return bool(bare)
    if bare[-1] == ":" or bare[-1] in _STOPS or not bare[-1].isalnum():
        return bare[-1] == ":"
    if _SIGNATURE.search(text):
        return False
    return len(words_of(text)) > WHOLE_WITHOUT_STOP


def answer_fault(text: str, filters: Filters) -> str | None:
    """The name of the first check that an answer fails on its own."""
    checks: dict[str, Callable[[str], bool]] = {
        "think": thinks_on,
        "roles": plays_a_role,
        "questions": lambda answer: asks_only(answer) or floods_with_questions(answer),
        "short": lambda answer: len(words_of(answer)) < filters.min_words,
        "repeated": repeats_itself,
        "cut": is_cut,
    }
    return next((name for name, fails in checks.items() if filters.makes(name) and fails(text)), None)


def label(experience: Experience) -> str:
    """What names an experience in a report."""
    text = " ".join(experience["response"].split())
    return f"{experience['id']}: {text[:80]}{'…' if len(text) > 80 else ''}"


def without_faults(
    experiences: Sequence[Experience], everything: Sequence[Experience], filters: Filters, report: ImportReport
) -> list[Experience]:
    """The experiences that pass every check of their answer, alone, among its neighbours and against the others.

    Args:
        experiences: the best first; of two that are nearly the same, the first stays.
        everything: these and all others of the buffer, in its order, for what only shows in their company.
    """
    stock = _stock_phrases(everything, report) if filters.makes("stock-phrases") else set()
    said = NearDuplicates(filters.similarity)
    sound = []
    # By chunks, in which every check finds a text's words where the one before has left them.
    for start in range(0, len(experiences), CHUNK):
        chunk = [e for e in experiences[start : start + CHUNK] if _is_sound(e, stock, filters, report)]
        if filters.makes("near-duplicates"):
            twins = said.add_all([(e["id"], e["response"]) for e in chunk])
            for experience, twin in zip(chunk, twins, strict=True):
                if twin is not None:
                    report.leave_out(CHECKS["near-duplicates"], f"{label(experience)} (as {twin})")
            chunk = [e for e, twin in zip(chunk, twins, strict=True) if twin is None]
        sound += chunk
    return sound


def _is_sound(experience: Experience, stock: set[str], filters: Filters, report: ImportReport) -> bool:
    reason = None
    if filters.without_lora and experience["metadata"].get("using_lora"):
        reason = USING_LORA
    elif fault := answer_fault(experience["response"], filters):
        reason = CHECKS[fault]
    elif experience["id"] in stock:
        reason = CHECKS["stock-phrases"]
    if reason is not None:
        report.leave_out(reason, label(experience))
    return reason is None


def _stock_phrases(everything: Sequence[Experience], report: ImportReport) -> set[str]:
    in_time = sorted(everything, key=lambda experience: experience["timestamp"] or "")
    marked, usual = made_of_stock_phrases([experience["response"] for experience in in_time])
    if usual and not any(marked):
        report.notes.append(
            f"{usual:.0%} of the answers are made of phrases that others share too, so a collapse cannot be told from "
            "the agent's manner; read some before you train on them."
        )
    return {experience["id"] for experience, mark in zip(in_time, marked, strict=True) if mark}
