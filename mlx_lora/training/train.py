"""Start, resume and distribute a training run, from a config to an adapter."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ..backends import Backend
from ..backends.adapter_format import ADAPTER_FILE
from ..config import TrainingConfig
from ..config.paths import located
from ..errors import UserError
from ..files import set_aside, write_atomic, write_json
from ..models.parameters import stored_parameters
from ..runs.directory import (
    BEGIN,
    CONFIG_FILE,
    METRICS_FILE,
    REPORT_FILE,
    RUN_FILE,
    RUN_ID,
    TELEMETRY_FILE,
    WIDENED,
    check_place,
    locked,
    read_run,
    remove_run,
)
from ..runs.events import Event, Listener, Start, TrainingResult, TrainingWarning, append_event, from_keys
from ..runs.telemetry import telemetry
from ..user_files import read_bytes
from .checkpoints import Checkpoints, TrainerState
from .interrupts import deadline_of, interruption
from .loggers.progress_bar import progress_bar
from .loggers.tensorboard import tensorboard
from .loggers.tracker import TrackedRun, load_trackers, tracking
from .record import check_same, make_directory, new_run_id, record
from .report import write_report
from .samples import write_after, write_before
from .setup import TrainingSetup, prepare
from .trainer import Trainer, TrainingLimits, total_steps


def train(
    config: TrainingConfig,
    *,
    fresh: bool = False,
    extend: bool = False,
    quiet: bool = False,
    announce: Callable[[TrainingSetup], None] = lambda ready: None,
    notes: Sequence[str] = (),
) -> tuple[Path, TrainingResult] | None:
    """Train one adapter, or resume the run in its directory, and return the directory and the last measurements.

    Several processes launched together (`mlx.launch`, `torchrun`) train one adapter: rank 0 reads and writes the
    run, and for the others the result is ``None``.

    Args:
        fresh: replace an existing run.
        extend: resume although the number of epochs or steps has changed.
        announce: called after all checks, before the first step, unless ``quiet``.
        notes: further notes for the user, in the metrics and the report as well.

    Raises:
        UserError: bad input (nothing is written then), another run in the directory, or see ``Trainer.run``.
    """
    before = check_place(Path(config.output_dir), fresh) if config.output_dir else None
    # A run resumes in the data type that it started in; the runs of earlier versions used the base's own.
    wide = before is None or bool(before.get(WIDENED))
    ready = prepare(config, wide, None if before is None else before.get(BEGIN))
    config = ready.config
    ready.backend.notes += notes
    trainable = ready.attach_lora()
    if ready.backend.rank > 0:
        _run_worker(ready)
        return None
    out = ready.out
    board = [tensorboard(out / "tensorboard")] if config.tensorboard or "tensorboard" in config.report_to else []
    trackers = load_trackers([name for name in config.report_to if name != "tensorboard"])
    if fresh and out.exists():
        remove_run(out)
    if not out.exists():
        make_directory(ready)
    with locked(out):
        # Again: until the lock was held, another process could have trained here.
        run = read_run(out)
        check_same(ready, run, extend)
        finished = None if extend else _result_of(run)
        if finished is not None:
            ready.backend.broadcast(_message(ready, None))
            if not (out / REPORT_FILE).exists():
                _report(ready)
            return out, finished
        if not quiet:
            announce(ready)
        write_atomic(out / CONFIG_FILE, yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))
        # Runs of earlier versions have no id.
        run_id, name = str(run.get(RUN_ID) or new_run_id()), config.run_name or out.absolute().name
        tracked = TrackedRun(run_id, name, out, config.to_dict())
        with progress_bar(quiet) as show:
            to_user: list[Listener] = [partial(append_event, out / METRICS_FILE), show]
            local = [*to_user, telemetry(out / TELEMETRY_FILE, run_id, config, name), *board]
            with tracking(trackers, tracked, to_user) as others:
                result = _run_rank0(ready, trainable, [*local, *others])
        ended = asdict(result) if result.finished else None
        write_json(out / RUN_FILE, {**record(ready), RUN_ID: run_id, "result": ended})
        _report(ready)
    return out, result


def _report(ready: TrainingSetup) -> None:
    """Write the samples and the report; the run is complete by now."""
    answers, missing = write_after(ready)
    write_report(ready.out, ready.config.to_dict(), record(ready), answers, missing)


def _result_of(run: dict[str, Any]) -> TrainingResult | None:
    """Return the measurements of a completed run, without keys that later versions added."""
    stored = run.get("result")
    if not isinstance(stored, dict):
        return None
    try:
        return from_keys(TrainingResult, stored)
    except TypeError:
        return None


def _run_rank0(ready: TrainingSetup, trainable: int, listeners: Sequence[Listener]) -> TrainingResult:
    """Train on rank 0, and write all files of the run."""
    config, out, backend = ready.config, ready.out, ready.backend

    def emit(event: Event) -> None:
        for listener in listeners:
            listener(event)

    checkpoints = Checkpoints(out / "checkpoints", config.save_total_limit)
    state, damaged = _resume(backend, checkpoints, out)
    if state.step == 0:
        write_before(ready)
    emit(
        Start(
            step=state.step,
            model=ready.model.name,
            backend=backend.name,
            trainable_parameters=trainable,
            trained_modules=backend.coverage,
            train_examples=len(ready.train),
            valid_examples=len(ready.valid),
            total_steps=total_steps(config, len(ready.train)),
            processes=backend.ranks,
            **ready.weighted(),
        )
    )
    for message in [*ready.notes(), *damaged]:
        emit(TrainingWarning(step=state.step, message=message))
    backend.broadcast(_message(ready, state))
    backend.broadcast_state()
    trainer = Trainer(
        *(backend, config, ready.train, ready.valid, checkpoints, state, emit),
        mix=ready.mix,
        parts=ready.parts,
        log_sizes=lambda: ((out / METRICS_FILE).stat().st_size, (out / TELEMETRY_FILE).stat().st_size),
    )
    result = _until(trainer, config)
    backend.save_adapter(out, ready.model)
    _check_saved(out / ADAPTER_FILE, trainable)
    emit(result)
    return result


def _check_saved(file: Path, trainable: int) -> None:
    """Raise UserError if the saved adapter has another number of parameters than were trained."""
    stored = stored_parameters(file)
    if stored != trainable:
        raise UserError(
            f"{file}: {trainable:,} parameters were trained and {stored:,} are in the file; "
            "the same command resumes from the last checkpoint and saves it again"
        )


def _run_worker(ready: TrainingSetup) -> None:
    """Train on another rank, from the state of rank 0, and write nothing.

    Raises:
        UserError: its config or dataset is another.
    """
    message = json.loads(ready.backend.broadcast(b""))
    if message["run"] != _same_everywhere(ready):
        raise UserError(
            f"process {ready.backend.rank}: config, dataset or model differ from the first process's; "
            "put the same files on every machine"
        )
    if message["state"] is None:
        return
    ready.backend.broadcast_state()
    checkpoints = Checkpoints(ready.out / "checkpoints", 0, writes=False)
    state = TrainerState(**message["state"])
    trainer = Trainer(
        *(ready.backend, ready.config, ready.train, ready.valid, checkpoints, state),
        lambda event: None,
        mix=ready.mix,
        parts=ready.parts,
    )
    _until(trainer, ready.config)


def _until(trainer: Trainer, config: TrainingConfig) -> TrainingResult:
    with interruption() as interrupted:
        return trainer.run(TrainingLimits(deadline_of(config, time.time()), interrupted))


def _same_everywhere(ready: TrainingSetup) -> dict[str, Any]:
    everything = record(ready)
    keys = ("learned_from", "data_sha256", "model_revision", "base_fingerprint", WIDENED)
    same = {key: everything[key] for key in keys}
    # The same files may have other paths on another machine.
    same["learned_from"] |= {key: Path(path).name for key, path in located(same["learned_from"]).items() if path}
    return json.loads(json.dumps(same))


def _message(ready: TrainingSetup, state: TrainerState | None) -> bytes:
    """Return the broadcast message of rank 0: the run and its state (``None``: it is complete)."""
    content = {"run": _same_everywhere(ready), "state": None if state is None else asdict(state)}
    return json.dumps(content).encode()


def _resume(backend: Backend, checkpoints: Checkpoints, out: Path) -> tuple[TrainerState, list[str]]:
    """Load the newest intact state onto the device, and truncate metrics and telemetry to its step."""
    damaged: list[str] = []
    metrics, measured = out / METRICS_FILE, out / TELEMETRY_FILE
    for step, state in checkpoints.newest():
        if state is not None:
            checkpoints.load(backend, step)
            for file, size in ((metrics, state.metrics_bytes), (measured, state.telemetry_bytes)):
                if file.exists():
                    write_atomic(file, read_bytes(file, 2**30)[:size])
            return state, damaged
        place = checkpoints.set_aside(step)
        damaged.append(f"the checkpoint of step {step} is damaged and was passed over; it is now {place.name}")
    if damaged and metrics.exists():
        damaged.append(f"training starts over; the metrics so far are now {set_aside(metrics).name}")
    for file in (metrics, measured):
        file.unlink(missing_ok=True)
    return TrainerState(), damaged
