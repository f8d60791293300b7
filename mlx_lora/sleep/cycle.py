"""One cycle of the night, step by step: each step is recorded as it ends, and each may end the cycle with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..runs.generations import Generations
from .clock import SLEPT
from .config import SleepConfig, sleep_config
from .context import Cycle, Surroundings
from .due import not_due
from .gathering import curated, gathered
from .guards import check_guards
from .indexing import index_night, mark_trained
from .inputs import check_inputs
from .judging import choose
from .learning import RUN, learn, replay
from .lock import night_lock
from .nights import looked_up_in, read_nights
from .promotion import catch_up, confirm_or_roll_back, export, promote
from .record import CYCLES, CycleRecord, Decision, Ended, read_cycles
from .reports.notification import notify
from .reports.report import log_line, write_report
from .scheduling.schedule import installed
from .scheduling.throttle import rates_tonight, throttle_sentence

LOG = "sleep.log"


@dataclass
class Outcome:
    """End of ``sleep run``.

    Attributes:
        summary: what ``--json`` prints.
        status: exit status: 0 promoted, kept or nothing to do; 1 the candidate failed its gate; 2 it could not run.
        page: of the report, if there is one.
    """

    summary: dict[str, Any]
    status: int
    page: Path | None = None


class Paused(Exception):
    """End of this process's part of a cycle, which the next run resumes."""


def run_cycle(config: SleepConfig, around: Surroundings, *, if_due: bool = False) -> Outcome:
    """Run one cycle, or resume the one that was cut.

    Args:
        if_due: do nothing unless a night is due.

    Raises:
        UserError: the config names what there is not, another cycle runs, or a file cannot be read or written.
    """
    directory = config.directory
    check_inputs(config)
    with night_lock(directory):
        generations = Generations(directory)
        cycles = read_cycles(directory)
        if cycles and not cycles[-1].finished:
            record, before = cycles[-1], cycles[:-1]
            around.notes([f"night {record.key} was cut and resumes"])
            # As it began: what is recorded belongs to these settings.
            config = sleep_config(_as_settings(record.content["config"]), f"{record.directory}/cycle.json")
        else:
            said = not_due(config, cycles, if_due)
            if said is not None:
                nothing = dict.fromkeys(("cycle", "generation"))
                more = {"decision": "skipped", "reason": said, "new": 0, "replayed": 0, "checks": []}
                return Outcome({**nothing, **more}, 0)
            record, before = _begin(directory, cycles, config, generations)
        cycle = Cycle(config, record, generations, before, around)
        try:
            _run(cycle)
        except Paused as pause:
            return Outcome({**record.summary(), "decision": "skipped", "reason": str(pause)}, 0)
        except Ended as end:
            record.end(end.decision, end.reason, end.could_run)
        except UserError as error:
            record.end("failed", str(error), could_run=False)
        except (OSError, MemoryError, RuntimeError) as error:
            # The disk, or memory, also of a GPU.
            record.end("failed", f"{type(error).__name__}: {first_line(error)}", could_run=False)
        return _close(cycle)


def _as_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded config in the form of its file."""
    stores = [
        {store["kind"]: store["paths"], "name": store["name"], "check": store["check"], **store["options"]}
        for store in config["stores"]
    ]
    return {**config, "stores": stores}


def _begin(
    directory: Path, cycles: list[CycleRecord], config: SleepConfig, generations: Generations
) -> tuple[CycleRecord, list[CycleRecord]]:
    """Return the record of a new cycle and those before it; one that was skipped, and indexed nothing, gives way."""
    before = cycles
    number = int(cycles[-1].key) + 1 if cycles else 1
    if cycles and cycles[-1].content["decision"] == "skipped" and not looked_up_in(cycles[-1]):
        number, before = int(cycles[-1].key), cycles[:-1]
        shutil.rmtree(cycles[-1].directory)
    place = directory / CYCLES / f"{number:04d}"
    return CycleRecord.create(place, str(config.directory), config.to_dict(), generations.live), before


def _run(cycle: Cycle) -> None:
    config, record, around = cycle.config, cycle.record, cycle.around
    generations, live = cycle.generations, cycle.live
    nights = read_nights(config.directory, cycle.before, record.content["parent"])

    def step(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if record.result(name) is None:
            around.step(name)
        result = record.run(name, work)
        _after_suspension(cycle)
        return result

    guards = step("guards", lambda: _guards(cycle))["guards"]
    if refused := [guard["said"] for guard in guards if not guard["ok"]]:
        raise Ended("skipped", "; ".join(refused))
    found = step("gather", lambda: gathered(config, nights, record.directory))
    record.content["new"] = found["new"]
    if found["too_few"]:
        raise Ended("skipped", found["too_few"])
    kept = step("curate", lambda: curated(config, nights, record.directory))
    indexed = step("index", lambda: index_night(cycle)) if config.index else {}
    if kept["too_few"]:
        also = f"; {indexed['indexed']} indexed instead" if indexed.get("indexed") else ""
        raise Ended("skipped", kept["too_few"] + also)
    replayed = step("replay", lambda: replay(config, nights.learned, live, record.directory, notes=around.notes))
    record.content["replayed"] = replayed["own"] + replayed["stored"]
    step("train", lambda: learn(config, live, record.directory, quiet=around.quiet))
    judged = step("judge", lambda: choose(cycle, nights))
    candidate = next((each for each in judged["candidates"] if each["alpha"] == judged["chosen"]), None)
    shown = candidate or judged["candidates"][0]
    record.content["checks"] = shown["checks"]
    if candidate is None:
        decision: Decision = "failed" if shown["verdict"] == "worse" else "kept"
        raise Ended(decision, f"the live adapter stays: {'; '.join(shown['reasons'])}")
    promoted = step("promote", lambda: promote(generations, candidate, record))
    record.content["generation"] = promoted["generation"]
    tried = step("trial", lambda: confirm_or_roll_back(cycle, nights, candidate, promoted["generation"]))
    if not tried["passed"]:
        raise Ended("failed", f"generation {promoted['generation']} was rolled back: {tried['said']}")
    if config.index:
        step("mark_trained", lambda: mark_trained(cycle, promoted["generation"]))
    step("export", lambda: export(cycle, promoted["generation"]))
    alpha = "" if judged["chosen"] == 1 else f" at {judged['chosen']:g} of its change"
    record.end("promoted", f"generation {promoted['generation']} is live{alpha}: {'; '.join(candidate['reasons'])}")


def _guards(cycle: Cycle) -> dict[str, Any]:
    guards = check_guards(cycle.config.guards, cycle.config.directory)
    then, limit = (installed(cycle.config.directory) or {}).get("rates") or {}, cycle.config.guards.slow
    rates = rates_tonight(then, limit)
    slow = throttle_sentence(rates, then, limit)
    if slow:
        cycle.around.notes([slow])
    return {"guards": [asdict(guard) for guard in guards], "rates": rates, "throttled": slow}


def _after_suspension(cycle: Cycle) -> None:
    """Check the guards again if the machine slept in the middle of the cycle."""
    seconds, slept = cycle.clock.suspended(), cycle.clock.said
    if slept is None:
        return
    cycle.around.notes([slept])
    cycle.record.content.setdefault("notes", []).append(slept)
    refused = [guard.said for guard in check_guards(cycle.config.guards, cycle.config.directory) if not guard.ok]
    if refused and seconds > SLEPT:
        raise Paused(f"{slept}, and now {'; '.join(refused)}; the next run resumes this night")


def _close(cycle: Cycle) -> Outcome:
    """Write the report and the log line of a cycle that has ended, remove what nobody needs, and return the outcome."""
    record, directory = cycle.record, cycle.config.directory
    content = record.content
    page = None
    try:
        page = write_report(directory, record.key)
        with open(directory / LOG, "a", encoding="utf-8") as log:
            log.write(log_line(content) + "\n")
        if content["decision"] != "promoted":
            catch_up(cycle)
        cycle.generations.collect(cycle.config.keep)
        for place in (record.directory / RUN / "checkpoints", record.directory / "stores"):
            shutil.rmtree(place, ignore_errors=True)
    except (UserError, OSError) as error:
        # The decision stands, whatever becomes of its page.
        cycle.around.notes([f"the report is missing: {first_line(error)}"])
    if cycle.config.notify:
        notify("mlx-lora", log_line(content))
    status = 2 if not content["could_run"] else 1 if content["decision"] == "failed" else 0
    return Outcome(record.summary(), status, page)
