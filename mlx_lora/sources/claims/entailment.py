"""Entailment of a claim by a document: an NLI model, or a word-overlap heuristic that is labelled as one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UserError, first_line
from .examples import shared_words

Pairs = Sequence[tuple[str, str]]
BATCH = 8


@dataclass
class Entailment:
    """Entailment scorer.

    Attributes:
        method: its name, to be shown wherever its numbers are.
        score: (premise, hypothesis) pairs -> a probability each, 0 to 1.
    """

    method: str
    score: Callable[[Pairs], list[float]]


def word_overlap() -> Entailment:
    """Return a scorer by the share of the hypothesis' words in the premise: no NLI, and labelled so."""

    def score(pairs: Pairs) -> list[float]:
        return [shared_words(hypothesis, premise) for premise, hypothesis in pairs]

    return Entailment("heuristic: word overlap, no NLI model", score)


def entailment_index(id2label: Mapping[Any, str], model: str) -> int:
    """Return the index of a model's entailment label; models differ, and a wrong one inverts every judgement.

    Raises:
        UserError: no label, or several, are called entailment.
    """
    found = [int(i) for i, label in id2label.items() if str(label).lower() in ("entailment", "entailed", "entail")]
    if len(found) != 1:
        labels = ", ".join(map(str, id2label.values()))
        raise UserError(f"{model}: none of its labels is entailment ({labels}); use a model for NLI that names them")
    return found[0]


def nli_entailment(model: str | None) -> Entailment:
    """Load an NLI model from the hub or a directory; without one, or without torch, :func:`word_overlap`.

    Only safetensors are read, and no model's own code is run.

    Raises:
        UserError: the model cannot be loaded, or does not name its entailment label.
    """
    if model is None:
        return word_overlap()
    try:
        torch = importlib.import_module("torch")
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError:
        return word_overlap()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network = AutoModelForSequenceClassification.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{model}: this NLI model cannot be loaded ({first_line(error)})") from error
    index = entailment_index(network.config.id2label, model)

    def score(pairs: Pairs) -> list[float]:
        found: list[float] = []
        for start in range(0, len(pairs), BATCH):
            premises, hypotheses = map(list, zip(*pairs[start : start + BATCH], strict=True))
            # Only the document is truncated, never the claim.
            inputs = tokenizer(premises, hypotheses, truncation="only_first", padding=True, return_tensors="pt")
            with torch.no_grad():
                found += torch.softmax(network(**inputs).logits.float(), dim=-1)[:, index].tolist()
        return found

    return Entailment(f"NLI model {model}", score)
