"""Training setup: dataset, model and adapter, read and checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..backends import Backend, load_backend
from ..backends.adapter_format import base_recorded, settled_modules
from ..config import TrainingConfig
from ..data.chat_template import merge_note
from ..data.checks import errors_that_stop, stop_sentence
from ..data.dataset import Example, data_hash, read_split, read_trainable, split_file
from ..data.formats import remembering
from ..data.mixture import Mix, datasets_of, files_of
from ..data.tokenize import EncodedExample, encode_examples
from ..errors import UserError
from ..models.fingerprint import another_base
from ..models.resolve import ResolvedModel, resolve_model
from ..runs.names import absolute_name, adapter_files


@dataclass
class TrainingSetup:
    """The inputs of a run, read and checked; nothing is written yet.

    Attributes:
        data: the dataset's directory, or those of a mix.
        held_out: the validation examples.
        mix: the examples that each epoch sees, where there are several.
        begin: directory of the files of ``init_adapter``: of one generation, which never changes.
        sources: the dataset of each validation example.
    """

    config: TrainingConfig
    data: list[Path]
    out: Path
    model: ResolvedModel
    examples: list[Example]
    held_out: list[Example]
    backend: Backend
    train: list[EncodedExample]
    valid: list[EncodedExample]
    mix: Mix | None = None
    begin: Path | None = None
    sources: list[Path] = field(default_factory=list)

    @cached_property
    def parts(self) -> list[str]:
        """The part of each validation example: the night of its meta, else its dataset."""
        nights = (example.meta.get("night") for example in self.held_out)
        return [str(path if night is None else night) for night, path in zip(nights, self.sources, strict=True)]

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file of each split."""
        return files_of(self.data)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """The sha256 of each split, computed once, since large files take a while."""
        return {split: data_hash(file) for split, file in self.files.items()}

    def notes(self) -> list[str]:
        """Return notes for the user before the first step, a sentence each."""
        truncated = sum(example.truncated > 0 for example in self.train)
        shortened = (
            f"{truncated} of {len(self.train)} prompts were longer than max_seq_length {self.config.max_seq_length} "
            "and lost their middle"
        )
        inert = (
            "the dataset's spans touch no token that is trained on, so that their weights change nothing: they lie in "
            "answers that the model's tokenizer or template changes"
        )
        spans = any(example.spans for example in self.examples) and not self.weighted()["span_tokens"]
        dropped = []
        for what in sorted({what for example in self.train for what in example.dropped}):
            counts = [example.dropped[what] for example in self.train if what in example.dropped]
            dropped.append(f"{sum(counts)} messages in {len(counts)} examples lose {what}: the template leaves it out")
        unjudged = (
            "the data has no validation rows, so that there is no validation loss, and keep_best and "
            "early_stopping_patience do nothing"
        )
        held = [] if self.valid else [unjudged]
        systems = any(message["role"] == "system" for example in self.examples for message in example.messages)
        merged = merge_note(self.backend.tokenizer) if systems else None
        return [
            *self.backend.notes,
            *held,
            *([merged] if merged else []),
            *([shortened] if truncated else []),
            *([inert] if spans else []),
            *dropped,
        ]

    def attach_lora(self) -> int:
        """Add LoRA layers to the model, with the values of the adapter to start from; return their parameters."""
        begin = None if self.begin is None else str(self.begin)
        return self.backend.attach_lora(replace(self.config, init_adapter=begin))

    def weighted(self) -> dict[str, int]:
        """Return the numbers of weighted examples, of supervised tokens in them, and of supervised tokens in spans."""
        return {
            "weighted_examples": sum(example.weight != 1 for example in self.train),
            "weighted_tokens": sum(int(e.supervised.sum()) for e in self.train if e.weight != 1),
            "span_tokens": sum(example.span_tokens for example in self.train),
        }


def prepare(config: TrainingConfig, wide: bool = True, begin: str | None = None) -> TrainingSetup:
    """Read and check dataset and model.

    Args:
        begin: directory of the adapter that an interrupted run started from, where it is still there.
        wide: compute in float32 where that is faster; a full fine-tuning keeps the type that it saves.

    Raises:
        UserError: see ``read_split``, ``resolve_model``, ``errors_that_stop`` and ``encode_example``.
    """
    if not config.data:
        raise UserError("no dataset was given; name its directory with --data DIR or the config key data")
    if not config.output_dir:
        raise UserError("no run directory was given; name it with --out adapters/NAME or the config key output_dir")
    data, weights = datasets_of(config.data)
    out = Path(config.output_dir)
    read = remembering()
    train_sets = [read_trainable(path, read) for path in data]
    valid_sets = [read_split(path, "valid", read) for path in data]
    mix = Mix([len(rows) for rows in train_sets], weights, config.seed) if len(data) > 1 else None
    start = None
    if config.init_adapter:
        start = Path(begin) if isinstance(begin, str) and Path(begin).is_dir() else adapter_files(config.init_adapter)
        config = replace(config, init_adapter=absolute_name(config.init_adapter))
    config = config.located()
    model = resolve_model(
        config.model_name,
        config.model_revision,
        chat_template=config.chat_template,
        system_role=config.system_role,
    )
    if start is not None:
        check_continues(config.init_adapter, start, model)
    wide = wide and config.fine_tune_type != "full"
    backend = load_backend(model, config.backend, config.load_in_4bit, wide)
    config, notes = settled_modules(config, backend.layer_modules())
    backend.notes += notes

    def encode(sets: Sequence[Sequence[Example]], split: str) -> list[EncodedExample]:
        encoded: list[EncodedExample] = []
        for path, rows in zip(data, sets, strict=True):
            source = str(split_file(path, split))
            encoded += encode_examples(backend.tokenizer, rows, config.max_seq_length, source, config.train_on_prompt)
        return encoded

    if backend.base.tokens_beyond:
        # Reported as tokens without an embedding, before a check gives them another name.
        encode(train_sets, "train")
    wrong = errors_that_stop(data, backend.tokenizer, config.max_seq_length, config.waive_checks, read)
    if wrong:
        raise UserError(stop_sentence(wrong, data, config.waive_checks))

    examples, held_out = ([example for rows in sets for example in rows] for sets in (train_sets, valid_sets))
    train_rows, valid_rows = encode(train_sets, "train"), encode(valid_sets, "valid")
    sources = [path for path, rows in zip(data, valid_sets, strict=True) for _ in rows]
    rows = (train_rows, valid_rows)
    return TrainingSetup(config, data, out, model, examples, held_out, backend, *rows, mix, start, sources)


def check_continues(adapter: str | None, files: Path, model: ResolvedModel) -> None:
    """Raise UserError if an adapter that training starts from was trained on other weights than these."""
    if another_base(base_recorded(files), model.fingerprint):
        raise UserError(
            f"init_adapter {adapter}: this adapter was trained on another base than {model.name}, whose weights are "
            "other ones of the same shapes or names; name its own base with model_name, or leave init_adapter out"
        )
