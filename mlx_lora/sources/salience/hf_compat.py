"""Experiences → tokenized training examples and padded batches, for trainers other than this package's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.dataset import Example
from ...errors import UserError, first_line
from ...files import write_json
from .buffer import decode_json, read_buffer, read_bytes
from .collector import DEFAULT_BUFFER
from .prompt_format import DEFAULT_SYSTEM_PROMPT
from .schema import DIMENSIONS, Experience

if TYPE_CHECKING:
    import numpy as np

MAX_LENGTH = 2048
IGNORED = -100
ARRAYS = ("input_ids", "labels", "attention_mask")
TrainingExample = dict[str, Any]


class RaisingTrainingDataBuilder:
    """Builder of training examples from a buffer's experiences, with a base model's chat template.

    Args:
        experience_buffer_path: the buffer; the collector's default if ``None``, which need not exist.
        model_name: model of the tokenizer: a local directory, or a name on the hub. Loaded when first needed.
        system_prompt: first message of every conversation; :data:`DEFAULT_SYSTEM_PROMPT` if ``None``.
        train_on_prompt: label the system prompt and the question as well, as the first generation of agents did.

    Raises:
        UserError: the buffer cannot be used.
    """

    def __init__(
        self,
        experience_buffer_path: str | Path | None = None,
        model_name: str = "Qwen/Qwen2.5-0.5B-Instruct",
        system_prompt: str | None = None,
        *,
        train_on_prompt: bool = False,
    ):
        default = DEFAULT_BUFFER.expanduser()
        self.buffer_path = default if experience_buffer_path is None else Path(experience_buffer_path)
        self.model_name = model_name
        self.system_prompt = DEFAULT_SYSTEM_PROMPT if system_prompt is None else system_prompt
        self.train_on_prompt = train_on_prompt
        absent = experience_buffer_path is None and not default.exists()
        self.experiences: list[Experience] = [] if absent else read_buffer(self.buffer_path)
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the model.

        Raises:
            UserError: it is neither in a local directory nor on the hub.
        """
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(self.model_name, trust_remote_code=False)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{self.model_name}: its tokenizer cannot be loaded ({first_line(error)}); give a local model "
                    "directory, or a name on the hub"
                ) from error
        return self._tokenizer

    def build_example(self, experience: Experience, include_system: bool = True) -> TrainingExample:
        """Tokenize one experience: int64 arrays [length] ``input_ids``, ``labels``, ``attention_mask``, and its origin.

        Labels are −100 at unsupervised positions: all but the answer, unless ``train_on_prompt``.

        Raises:
            UserError: the tokenizer cannot be loaded, or the answer alone takes more than 2,048 tokens.
        """
        import numpy as np

        from ...data.chat_template import render
        from ...data.tokenize import encode_example

        system = [{"role": "system", "content": self.system_prompt}] if include_system else []
        messages = [
            *system,
            {"role": "user", "content": experience["prompt"]},
            {"role": "assistant", "content": experience["response"]},
        ]
        try:
            encoded = encode_example(self.tokenizer, Example(messages), MAX_LENGTH, self.train_on_prompt)
        except UserError as error:
            raise UserError(f"{self.buffer_path}, experience {experience['id']}: {error}") from error
        ids = encoded.ids.astype(np.int64)
        return {
            "input_ids": ids,
            "labels": np.where(encoded.supervised, ids, IGNORED),
            "attention_mask": np.ones(len(ids), dtype=np.int64),
            "salience": experience["salience"]["total"],
            "salience_breakdown": experience["salience"],
            "experience_id": experience["id"],
            "session": experience.get("session"),
            "phase": experience.get("phase"),
            "text": render(self.tokenizer, messages),
        }

    def build_training_set(self, min_salience: float = 0.5, max_examples: int | None = None) -> list[TrainingExample]:
        """Build at most ``max_examples`` examples of at least that salience, the most salient first, unfiltered.

        Equals stay in the buffer's order; experiences without a score are left out.
        """
        salient = [e for e in self.experiences if e["salience"] and e["salience"]["total"] >= min_salience]
        salient.sort(key=lambda experience: -experience["salience"]["total"])
        return [self.build_example(experience) for experience in salient[:max_examples]]

    def get_stats(self, training_set: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the number of examples, their salience, their lengths in tokens and, if any, their sessions."""
        count = len(training_set)
        if not count:
            return {"num_examples": 0, "avg_salience": 0.0, "avg_length_tokens": 0.0}
        saliences = [example["salience"] for example in training_set]
        scores = [example["salience_breakdown"] for example in training_set]
        known = {name: [score[name] for score in scores if name in score] for name in DIMENSIONS}
        return {
            "num_examples": count,
            "avg_salience": sum(saliences) / count,
            "avg_length_tokens": sum(len(example["input_ids"]) for example in training_set) / count,
            "salience_breakdown": {name: sum(values) / len(values) for name, values in known.items() if values},
            "session_distribution": dict(Counter(example["session"] for example in training_set)),
            "min_salience": min(saliences),
            "max_salience": max(saliences),
        }

    def prepare_batch(
        self, training_set: Sequence[Mapping[str, Any]], batch_size: int = 1
    ) -> list[dict[str, np.ndarray]]:
        """Collate the examples into right-padded batches, in order.

        Each has int64 [batch, length] ``input_ids`` (padded with the pad id), ``labels`` (−100 on padding) and
        ``attention_mask`` (0 on padding), and float32 [batch] ``salience``.
        """
        import numpy as np

        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        pad = self.tokenizer.pad_token_id
        fill = {"input_ids": self.tokenizer.eos_token_id if pad is None else pad, "labels": IGNORED}
        batches = []
        for start in range(0, len(training_set), batch_size):
            rows = training_set[start : start + batch_size]
            length = max(len(row["input_ids"]) for row in rows)
            batch = {name: np.full((len(rows), length), fill.get(name, 0), dtype=np.int64) for name in ARRAYS}
            for i, row in enumerate(rows):
                for name in ARRAYS:
                    batch[name][i, : len(row[name])] = row[name]
            batch["salience"] = np.array([row["salience"] for row in rows], dtype=np.float32)
            batches.append(batch)
        return batches

    def save_training_set(self, training_set: Sequence[Mapping[str, Any]], path: str | Path) -> None:
        """Write the examples as JSON, with the model's name and the system prompt.

        Raises:
            UserError: the name does not end in .json, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise UserError(f"{path}: a training set is saved as JSON; give it a name that ends in .json")
        examples = [{**row, **{name: [int(v) for v in row[name]] for name in ARRAYS}} for row in training_set]
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"system_prompt": self.system_prompt, "model_name": self.model_name, "num_examples": len(examples)}
        write_json(path, {"training_examples": examples, **about})

    @staticmethod
    def load_training_set(path: str | Path) -> list[TrainingExample]:
        """Read a saved training set, as :func:`load_training_set` does."""
        return load_training_set(path)


def load_training_set(path: str | Path) -> list[TrainingExample]:
    """Read the examples that ``save_training_set`` wrote.

    Raises:
        UserError: no such file, or it is not a training set.
    """
    import numpy as np

    content = decode_json(path, read_bytes(path))
    try:
        return [
            {**row, **{name: np.array(row[name], dtype=np.int64) for name in ARRAYS}}
            for row in content["training_examples"]
        ]
    except (LookupError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: this is not a training set; save one with save_training_set") from None


def create_training_dataset_from_buffer(
    buffer_path: str | Path | None = None, min_salience: float = 0.5, output_path: str | Path | None = None
) -> dict[str, Any]:
    """Return ``{"training_set", "stats", "builder"}`` of a buffer; save it as JSON if ``output_path`` is given."""
    builder = RaisingTrainingDataBuilder(buffer_path)
    training_set = builder.build_training_set(min_salience)
    if output_path is not None:
        builder.save_training_set(training_set, output_path)
    return {"training_set": training_set, "stats": builder.get_stats(training_set), "builder": builder}
