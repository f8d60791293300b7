"""A run and its directory: made, locked, gone on with, and refused where it would be another run."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..backends import Backend, load_backend
from ..config import TrainingConfig
from ..data.checks import errors_that_stop, stop_sentence
from ..data.encode import EncodedExample, encode_examples, encode_prompt
from ..data.example import Example, read_split, read_trainable
from ..data.mix import Mix, datasets_of, hashes_of, record_of
from ..errors import UserError
from ..files import new_directory, write_atomic, write_json, writing
from ..models.resolve import ResolvedModel, resolve_model
from .checkpoints import Checkpoints, TrainerState
from .events import Listener, metrics_file, progress_bar
from .report import write_report
from .trainer import Limits, Trainer, TrainingResult, total_steps

SAMPLES, SAMPLE_TOKENS = 3, 128
RUN_FILE, CONFIG_FILE, METRICS_FILE, LOCK_FILE = "run.json", "config.yaml", "metrics.jsonl", ".lock"


@dataclass
class Prepared:
    """Everything a run needs, read and checked; nothing is written yet.

    Attributes:
        data: the dataset's directory, or those of a mix.
        mix: which examples each epoch sees, where there are several.
    """

    config: TrainingConfig
    data: list[Path]
    out: Path
    model: ResolvedModel
    examples: list[Example]
    backend: Backend
    train: list[EncodedExample]
    valid: list[EncodedExample]
    mix: Mix | None = None

    def notes(self) -> list[str]:
        """What the user should know before the first step, a sentence each."""
        cut = sum(example.cut > 0 for example in self.train)
        shortened = (
            f"{cut} of {len(self.train)} prompts were longer than max_seq_length {self.config.max_seq_length} "
            "and lost their middle"
        )
        return [*self.backend.notes, *([shortened] if cut else [])]


def prepare(config: TrainingConfig) -> Prepared:
    """Read and check dataset and model.

    Raises:
        UserError: see ``read_split``, ``resolve_model``, ``errors_that_stop`` and ``encode_example``.
    """
    if not config.data:
        raise UserError("no dataset was given; name its directory with --data DIR or the config key data")
    if not config.output_dir:
        raise UserError("no run directory was given; name it with --out adapters/NAME or the config key output_dir")
    data, weights = datasets_of(config.data)
    train_sets = [read_trainable(path) for path in data]
    valid_sets = [read_split(path, "valid") for path in data]
    mix = Mix([len(rows) for rows in train_sets], weights, config.seed) if len(data) > 1 else None
    model = resolve_model(config.model_name, config.model_revision)
    backend = load_backend(model)
    wrong = errors_that_stop(data, backend.tokenizer, config.max_seq_length, config.waive_checks)
    if wrong:
        raise UserError(stop_sentence(wrong, data, config.waive_checks))

    def encode(sets: Sequence[Sequence[Example]], split: str) -> list[EncodedExample]:
        encoded: list[EncodedExample] = []
        for path, rows in zip(data, sets, strict=True):
            source = str(path / f"{split}.jsonl")
            encoded += encode_examples(backend.tokenizer, rows, config.max_seq_length, source, config.train_on_prompt)
        return encoded

    examples = [example for rows in train_sets for example in rows]
    train_rows, valid_rows = encode(train_sets, "train"), encode(valid_sets, "valid")
    return Prepared(config, data, Path(config.output_dir), model, examples, backend, train_rows, valid_rows, mix)


def train(
    config: TrainingConfig, *, fresh: bool = False, extend: bool = False, quiet: bool = False
) -> tuple[Path, TrainingResult]:
    """Train one adapter, or go on with the run that is there; returns its directory and the last measurements.

    Args:
        fresh: replace the run that is there.
        extend: go on although the number of epochs or steps has changed.

    Raises:
        UserError: bad input (nothing is written then), another run in the directory, or see ``Trainer.run``.
    """
    if config.output_dir and Path(config.output_dir).exists() and not fresh:
        read_run(Path(config.output_dir))
    ready = prepare(config)
    trainable = ready.backend.attach_lora(config)
    out = ready.out
    if fresh and out.exists():
        with locked(out), writing(out):
            shutil.rmtree(out)
    if not out.exists():
        _make_directory(ready)
    with locked(out):
        _check_same(ready, extend)
        run = read_run(out)
        if run.get("result") and not extend:
            return out, TrainingResult(**run["result"])
        write_atomic(out / CONFIG_FILE, yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))
        with progress_bar(quiet) as show:
            result = _train(ready, trainable, (metrics_file(out / METRICS_FILE), show))
        write_report(out, config.to_dict(), _record(ready), samples(ready))
        ended = result.stopped != "time budget"
        write_json(out / RUN_FILE, {**_record(ready), "result": asdict(result) if ended else None})
    return out, result


def _train(ready: Prepared, trainable: int, listeners: tuple[Listener, ...]) -> TrainingResult:
    config, out = ready.config, ready.out

    def emit(event: dict[str, Any]) -> None:
        for listener in listeners:
            listener(event)

    checkpoints = Checkpoints(out / "checkpoints", config.save_total_limit)
    state, damaged = _resume(ready.backend, checkpoints, out / METRICS_FILE)
    emit(
        {
            "event": "start",
            "step": state.step,
            "model": ready.model.name,
            "trainable_parameters": trainable,
            "train_examples": len(ready.train),
            "valid_examples": len(ready.valid),
            "total_steps": total_steps(config, len(ready.train)),
        }
    )
    for message in [*ready.notes(), *damaged]:
        emit({"event": "warning", "step": state.step, "message": message})
    with interruption() as interrupted:
        trainer = Trainer(
            *(ready.backend, config, ready.train, ready.valid, checkpoints, state, emit),
            mix=ready.mix,
            metrics_size=lambda: (out / METRICS_FILE).stat().st_size,
        )
        result = trainer.run(Limits(deadline_of(config, time.time()), interrupted))
        ready.backend.save_adapter(out, ready.model)
        emit({"event": "complete", **asdict(result)})
    return result


def _resume(backend: Backend, checkpoints: Checkpoints, metrics: Path) -> tuple[TrainerState, list[str]]:
    """The newest intact state, put on the device, with the metrics cut back to its moment."""
    damaged: list[str] = []
    for step, state in checkpoints.newest():
        if state is not None:
            checkpoints.load(backend, step)
            if metrics.exists():
                write_atomic(metrics, metrics.read_bytes()[: state.metrics_bytes])
            return state, damaged
        damaged.append(f"the checkpoint of step {step} is damaged and was passed over")
        shutil.rmtree(checkpoints.directory / f"step-{step:08d}")
    metrics.unlink(missing_ok=True)
    return TrainerState(), damaged


def samples(ready: Prepared) -> list[tuple[str, str, str]]:
    """(prompt, reference, answer) of a few validation examples, or training ones where there are none."""
    rows = ([row for path in ready.data for row in read_split(path, "valid")] or ready.examples)[:SAMPLES]
    chats = [row.messages[: _last_answer(row)] for row in rows]
    prompts = [encode_prompt(ready.backend.tokenizer, chat) for chat in chats]
    answers = ready.backend.generate(prompts, SAMPLE_TOKENS, 0.0, 0)
    return [
        (chat[-1]["content"] if chat else "", row.messages[_last_answer(row)]["content"] or "", text)
        for chat, row, text in zip(chats, rows, answers, strict=True)
    ]


def _last_answer(example: Example) -> int:
    return max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")


def _record(ready: Prepared) -> dict[str, Any]:
    systems = {m["content"] for e in ready.examples for m in e.messages if m["role"] == "system"}
    return {
        "mlx_lora_version": __version__,
        "model": ready.model.name,
        "model_revision": ready.model.revision,
        "data": record_of(ready.data, ready.mix),
        "data_sha256": hashes_of(ready.data),
        "learned_from": ready.config.learned_from(),
        # What the adapter is used to being told, if it was always the same.
        "system_prompt": systems.pop() if len(systems) == 1 else None,
    }


def _make_directory(ready: Prepared) -> None:
    with new_directory(ready.out) as directory:
        write_json(directory / RUN_FILE, {**_record(ready), "result": None})


def _check_same(ready: Prepared, extend: bool) -> None:
    """Raises UserError, with what changed, if the directory's run is not the one asked for."""
    run = read_run(ready.out)
    then, now = run.get("learned_from", {}), ready.config.learned_from()
    changed = [f"{key} was {then.get(key)!r} and is {now[key]!r}" for key in now if then.get(key) != now[key]]
    if extend:
        changed = [c for c in changed if not c.startswith(("num_epochs ", "max_steps "))]
    hashes = hashes_of(ready.data)
    changed += [
        f"{split}.jsonl has changed" for split in hashes if run.get("data_sha256", {}).get(split) != hashes[split]
    ]
    if run.get("model_revision") != ready.model.revision:
        changed.append(f"the model's revision was {run.get('model_revision')} and is {ready.model.revision}")
    if changed:
        raise UserError(
            f"{ready.out}: a run is there already, and it is another: {'; '.join(changed)}; "
            "choose another --out, or start over with --fresh"
            + (", or go on with --extend" if all(c.startswith(("num_epochs ", "max_steps ")) for c in changed) else "")
        )


def read_run(directory: Path) -> dict[str, Any]:
    """The ``run.json`` of a run directory.

    Raises:
        UserError: it is missing or broken.
    """
    file = directory / RUN_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {"model": content["model"], **content}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory}: this exists and is no run ({RUN_FILE} is missing or broken: {error}); choose another name"
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the run directory; the lock ends with the process, however that ends.

    Raises:
        UserError: another process trains there.
    """
    with open(out / LOCK_FILE, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{out}: another process is training there; wait for it, or choose another --out") from None
        yield


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM are asked for after each step instead of breaking one; a second Ctrl-C breaks it."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deadline_of(config: TrainingConfig, now: float) -> float | None:
    """The moment (seconds since the epoch) at which the time budget ends: the earlier of the two limits."""
    deadlines = []
    if config.max_minutes is not None:
        deadlines.append(now + 60 * config.max_minutes)
    if config.until is not None:
        hour, minute = map(int, config.until.split(":"))
        moment = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)
        if moment.timestamp() <= now:
            moment += timedelta(days=1)
        deadlines.append(moment.timestamp())
    return min(deadlines, default=None)
