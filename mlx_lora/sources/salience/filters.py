"""Quality filters of answers before training: every check has a name by which it is switched off."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...data.dedup import CHUNK, WORDS_ALIKE, NearDuplicates
from ...data.import_report import ImportReport
from .degeneration import asks_only, echoes, floods_with_questions, is_evasive, made_of_stock_phrases, repeats_itself
from .schema import Experience
from .truncation import is_cut, trim, word_count

# name -> reason why an experience was left out
CHECKS = {
    "cut": "answer cut off in the middle of a sentence",
    "think": "<think> block left open, or no answer after it",
    "roles": "role prefix or control token in the answer",
    "short": "answer of a few words",
    "repeated": "phrases repeated within the answer",
    "questions": "questions instead of an answer",
    "echo": "the prompt instead of an answer",
    "evasion": "evasions about itself instead of an answer",
    "stock-phrases": "made of stock phrases that other answers around it share",
    "near-duplicates": "nearly the same answer as another",
    "pattern-cap": "too many examples of one prompt",
}
USING_LORA = "written with an adapter (using_lora)"
TRIMMED_TOO_SHORT = "answer cut off before its first {} words were complete"
TRIMMED = "answer cut off in the middle of a sentence: trimmed to its last complete one, its end not learned"
MIN_WORDS, MIN_TRIMMED_WORDS = 4, 8

Cut = Literal["trim", "drop", "keep"]

_EMPTY_THOUGHTS = re.compile(r"\s*<think>\s*</think>\s*")
# Name of the speaker, before the answer or at the beginning of a later line.
_SPEAKER = re.compile(r"[\s*#]*(?:user|human|assistant|system|ai|sage|claude)\s*\**\s*:", re.I)
_TURN = re.compile(r"^(?:user|human|assistant)\s*:", re.I | re.M)
_CONTROL = re.compile(
    r"<\|[\w ]{1,30}\|>|<(?:start|end)_of_turn>|\[/?INST\]|</?s>|^### (?:Instruction|Response)\b", re.M
)


@dataclass
class Filters:
    """Configuration of the checks.

    Attributes:
        skip: names of :data:`CHECKS` that are switched off.
        without_lora: leave out what an adapter wrote (``metadata.using_lora``).
        min_words: answers of fewer words are short.
        similarity: Jaccard similarity of words from which two answers are nearly the same.
        pattern_share: at most this share of the examples has one prompt.
        cut: a truncated answer is trimmed to its last complete sentence, dropped, or kept as it is.
        min_trimmed_words: answers of which fewer words are left by trimming are dropped.
    """

    skip: frozenset[str] = frozenset()
    without_lora: bool = False
    min_words: int = MIN_WORDS
    similarity: float = WORDS_ALIKE
    pattern_share: float = 0.1
    cut: Cut = "trim"
    min_trimmed_words: int = MIN_TRIMMED_WORDS

    def makes(self, check: str) -> bool:
        """Return True if a check of :data:`CHECKS` is switched on."""
        return check not in self.skip and not (check == "cut" and self.cut == "keep")


def without_empty_thoughts(response: str) -> str:
    """Remove an empty ``<think>`` block from the beginning of an answer."""
    found = _EMPTY_THOUGHTS.match(response)
    return response[found.end() :] if found else response


def thinks_on(text: str) -> bool:
    """Return True if a ``<think>`` block is unbalanced, or nothing follows the last one."""
    opened, closed = text.count("<think>"), text.count("</think>")
    return opened != closed or (closed > 0 and not text.rsplit("</think>", 1)[1].strip())


def plays_a_role(text: str) -> bool:
    """Return True if the answer or a line of it begins with a speaker's name, or it has a template's control token."""
    if ":" in text and (_SPEAKER.match(text) or _TURN.search(text)):
        return True
    return any(mark in text for mark in "<[#") and _CONTROL.search(text) is not None


def answer_fault(text: str, filters: Filters, prompt: str = "") -> str | None:
    """Return the name of the first check that an answer fails on its own, or None."""
    checks: dict[str, Callable[[str], bool]] = {
        "think": thinks_on,
        "roles": plays_a_role,
        "questions": lambda answer: asks_only(answer) or floods_with_questions(answer),
        "short": lambda answer: word_count(answer) < filters.min_words,
        "echo": lambda answer: echoes(answer, prompt),
        "repeated": repeats_itself,
        "evasion": is_evasive,
        "cut": is_cut,
    }
    return next((name for name, fails in checks.items() if filters.makes(name) and fails(text)), None)


def trim_answer(response: str) -> str:
    """Return a response up to its last complete sentence, the thoughts before it whole; "" if nothing is left."""
    thoughts, closed, answer = response.rpartition("</think>")
    kept = trim(answer)
    return thoughts + closed + kept if kept else ""


def label(experience: Experience) -> str:
    """Return the line that names an experience in a report."""
    text = " ".join(experience["response"].split())
    return f"{experience['id']}: {text[:80]}{'…' if len(text) > 80 else ''}"


def without_faults(
    experiences: Sequence[Experience], everything: Sequence[Experience], filters: Filters, report: ImportReport
) -> list[Experience]:
    """Return the experiences that pass every check of their answer, alone, among its neighbours and against the others.

    An answer that was trimmed is in a copy of its experience, with ``trimmed``: the number of characters left out.

    Args:
        experiences: the best first; of two that are nearly the same, the first stays.
        everything: these and all others of the buffer, in its order, for the checks that compare answers.
    """
    stock = _stock_phrases(everything, report) if filters.makes("stock-phrases") else set()
    said = NearDuplicates(filters.similarity)
    sound = []
    # In chunks, so that the checks share the cached words of a text.
    for start in range(0, len(experiences), CHUNK):
        passed = (_passed(e, stock, filters, report) for e in experiences[start : start + CHUNK])
        chunk = [experience for experience in passed if experience is not None]
        if filters.makes("near-duplicates"):
            twins = said.add_all([(e["id"], e["response"]) for e in chunk])
            for experience, twin in zip(chunk, twins, strict=True):
                if twin is not None:
                    report.leave_out(CHECKS["near-duplicates"], f"{label(experience)} (as {twin})")
            chunk = [e for e, twin in zip(chunk, twins, strict=True) if twin is None]
        sound += chunk
    return sound


def _passed(experience: Experience, stock: set[str], filters: Filters, report: ImportReport) -> Experience | None:
    """Return the experience, its answer trimmed if need be; None, and a line in the report, if it fails a check."""
    reason, passed = None, experience
    if filters.without_lora and experience["metadata"].get("using_lora"):
        reason = USING_LORA
    # Checks see the whole answer first; only one whose sole fault is truncation is trimmed.
    elif (fault := answer_fault(experience["response"], filters, experience["prompt"])) not in (None, "cut"):
        reason = CHECKS[fault]
    elif experience["id"] in stock:
        reason = CHECKS["stock-phrases"]
    elif fault and filters.cut == "trim":
        passed, reason = _trimmed(experience, filters)
    elif fault:
        reason = CHECKS[fault]
    if reason is not None:
        report.leave_out(reason, label(experience))
        return None
    return passed


def _trimmed(experience: Experience, filters: Filters) -> tuple[Experience, str | None]:
    """Return the experience with its answer trimmed, and why it cannot be used after all."""
    response = experience["response"].rstrip()
    kept = trim_answer(response)
    if word_count(kept.rpartition("</think>")[2]) < filters.min_trimmed_words:
        return experience, TRIMMED_TOO_SHORT.format(filters.min_trimmed_words)
    # The trimmed answer, a row of questions say, may fail where the whole has passed.
    without_cut = replace(filters, cut="keep")
    fault = answer_fault(kept, without_cut, experience["prompt"])
    return {**experience, "response": kept, "trimmed": len(response) - len(kept)}, CHECKS[fault] if fault else None


def _stock_phrases(everything: Sequence[Experience], report: ImportReport) -> set[str]:
    in_time = sorted(everything, key=lambda experience: experience["timestamp"] or "")
    marked, usual = made_of_stock_phrases([experience["response"] for experience in in_time])
    if usual and not any(marked):
        report.notes.append(
            f"{usual:.0%} of the answers are made of phrases that others share too, so a collapse cannot be told from "
            "the agent's manner; read some before you train on them."
        )
    return {experience["id"] for experience, mark in zip(in_time, marked, strict=True) if mark}
