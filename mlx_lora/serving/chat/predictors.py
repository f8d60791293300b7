"""Entailment and embeddings: by local models where torch and the model are here, else by labelled heuristics."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ...errors import UserError, first_line
from ...sources.claims.entailment import nli_entailment, word_overlap
from ...user_files import read_text

HEURISTIC = "heuristic"
# Length of a heuristic embedding.
HASHED = 256
# Most tokens of a text of a model that names no limit.
MOST_TOKENS = 512
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction(Generic[Result]):
    """Prediction, and how it was made.

    Attributes:
        method: ``nli`` or ``embedding`` for a model's, or ``heuristic``.
        reason: of a heuristic, why no model was asked.
    """

    value: Result
    method: str
    reason: str | None = None


class Predictors:
    """Local models for entailment and embeddings, each loaded once, asked one at a time.

    Args:
        find: returns the directory of a model on this machine.
    """

    def __init__(self, find: Callable[[str], Path | None]) -> None:
        self._find, self._lock = find, threading.Lock()
        self._loaded: dict[tuple[str, Path], Callable[..., Any]] = {}

    def entailment(self, premise: str, hypothesis: str, model: str | None) -> Prediction[float]:
        """Return the probability that a premise entails a hypothesis.

        Raises:
            UserError: the model is here and cannot be used.
        """
        directory, reason = self._place(model)
        if directory is None:
            return Prediction(word_overlap().score([(premise, hypothesis)])[0], HEURISTIC, reason)
        with self._lock:
            score = self._model("nli", directory, lambda: nli_entailment(str(directory)).score)
            return Prediction(score([(premise, hypothesis)])[0], "nli")

    def embedding(self, text: str, model: str | None) -> Prediction[list[float]]:
        """Return the embedding of a text, of length 1.

        Raises:
            UserError: the model is here and cannot be used.
        """
        directory, reason = self._place(model)
        if directory is None:
            return Prediction(hashed_words(text), HEURISTIC, reason)
        with self._lock:
            embed = self._model("embedding", directory, lambda: load_embedding(directory))
            return Prediction(embed(text), "embedding")

    def _place(self, model: str | None) -> tuple[Path | None, str | None]:
        if not model:
            return None, "no model is named"
        directory = self._find(model)
        if directory is None:
            return None, "the model is not on this machine"
        if importlib.util.find_spec("torch") is None:
            return None, "torch is not installed: pip install 'mlx-lora[torch]'"
        return directory, None

    def _model(self, kind: str, directory: Path, load: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        if (kind, directory) not in self._loaded:
            self._loaded[kind, directory] = load()
        return self._loaded[kind, directory]


def hashed_words(text: str) -> list[float]:
    """Return the counts of a text's words and letter triples by their hashes, of length 1: no model's embedding."""
    words = re.findall(r"\w+", text.lower())
    features = words + [f" {word} "[i : i + 3] for word in words for i in range(len(word))]
    found = [0.0] * HASHED
    for feature in features:
        number = int.from_bytes(hashlib.blake2b(feature.encode(errors="replace"), digest_size=8).digest(), "big")
        found[number // 2 % HASHED] += 1.0 if number % 2 else -1.0
    return _unit(found)


def _unit(values: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values] if length else values


def load_embedding(directory: Path) -> Callable[[str], list[float]]:
    """Load an embedding model; the mean of the last layer's vectors, or the first token's where it says so.

    Only safetensors are read, and no model's own code is run.

    Raises:
        UserError: it cannot be loaded.
    """
    torch: Any = importlib.import_module("torch")
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        network = AutoModel.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{directory.name}: this embedding model cannot be loaded ({first_line(error)})") from error
    first = _takes_first_token(directory)
    most = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", MOST_TOKENS))

    def embed(text: str) -> list[float]:
        inputs = tokenizer([text], truncation=True, max_length=most, return_tensors="pt")
        if not inputs["input_ids"].numel():
            raise UserError("text: it has no tokens; send another one")
        with torch.no_grad():
            vectors = network(**inputs).last_hidden_state[0].float()
        return _unit((vectors[0] if first else vectors.mean(dim=0)).tolist())

    return embed


def _takes_first_token(directory: Path) -> bool:
    """Return True if sentence-transformers' own file says so.

    Raises:
        UserError: it asks for another pooling than these two, or cannot be read.
    """
    file = directory / "1_Pooling" / "config.json"
    if not file.exists():
        return False
    try:
        wanted = [key for key, value in json.loads(read_text(file)).items() if key.startswith("pooling_mode") and value]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{directory.name}: its 1_Pooling/config.json cannot be read ({first_line(error)})") from error
    if wanted not in (["pooling_mode_cls_token"], ["pooling_mode_mean_tokens"]):
        raise UserError(f"{directory.name}: its pooling is {', '.join(wanted) or 'none'}; cls and mean are known here")
    return wanted == ["pooling_mode_cls_token"]
