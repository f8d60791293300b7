"""First steps of a night: gather the stores, count what is new, and curate it into the night's dataset."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.dataset import parse_example, write_dataset
from ..data.jsonl import read_jsonl
from ..files import write_atomic
from .config import SleepConfig
from .learning import base_tokenizer
from .nights import DATA, Nights, rows_of
from .stores.curate import curate
from .stores.lookup import decide
from .stores.reading import LeftOut, Row, gather

NEW, STORES = "new.jsonl", "stores"


def gathered(config: SleepConfig, nights: Nights, cycle: Path) -> dict[str, Any]:
    """Read the stores, write the rows that were never learned or indexed to ``cycle/new.jsonl``, and return the counts.

    ``too_few`` is a sentence where there is too little.

    Raises:
        UserError: no store can be used.
    """
    shutil.rmtree(cycle / STORES, ignore_errors=True)
    found = gather(config.stores, cycle / STORES)
    new = [row for row in found.rows if row.id not in nights.trained and row.id not in nights.looked_up]
    aside = [row for row in new if nights.failed[row.id] >= config.retries]
    new = [row for row in new if nights.failed[row.id] < config.retries]
    left_out = [asdict(each) for each in found.left_out]
    by_store: dict[str, list[str]] = {}
    for row in aside:
        by_store.setdefault(row.store, []).append(row.id)
    reason = f"set aside: in {config.retries} nights whose candidate failed"
    left_out += [asdict(LeftOut(store, reason, rows)) for store, rows in by_store.items()]
    few = _too_few(len(found.rows), config.min_total, f"{_noun(config)} in all")
    few = few or _too_few(len(new), config.min_new, f"new {_noun(config)}")
    lines = [json.dumps({**asdict(row), "example": row.example.to_dict()}, ensure_ascii=False) for row in new]
    write_atomic(cycle / NEW, "".join(line + "\n" for line in lines))
    counts = {"total": len(found.rows), "new": len(new), "too_few": few}
    return {"stores": found.stores, **counts, "left_out": left_out}


def curated(config: SleepConfig, nights: Nights, cycle: Path) -> dict[str, Any]:
    """Write the dataset of the night to ``cycle/data``, and return what became of the new rows.

    ``too_few`` is a sentence where too few of them can be learned; nothing is written then.
    """
    decided = decide(read_rows(cycle / NEW), config.index)
    training = config.training()
    earlier = [e for data in nights.learned.values() for split in ("train", "valid") for e in rows_of(data, split)]
    found = curate(
        decided.learn,
        held_out=config.held_out,
        pattern_share=config.pattern_share,
        known=nights.sides,
        earlier=earlier,
        tokenizer=base_tokenizer(training),
        max_seq_length=training.max_seq_length,
    )
    count, what = len(found.train) + len(found.valid), f"new {_noun(config)} that can be learned"
    few = _too_few(count, config.min_new, what)
    if not few and not found.train:
        few = f"all {count} {what} are held out, so that there is nothing to train on"
    # A process that was cut may have written it.
    shutil.rmtree(cycle / DATA, ignore_errors=True)
    if not few:
        write_dataset(cycle / DATA, {"train": found.train, "valid": found.valid}, {"source": "sleep"})
    return {
        "train": len(found.train),
        "held_out": len(found.valid),
        "too_few": few,
        "looked_up": len(decided.look_up),
        "left_out": [asdict(each) for each in [*decided.left_out, *found.left_out]],
        "changed": [asdict(each) for each in found.changed],
        "notes": list(found.notes),
    }


def read_rows(file: Path) -> list[Row]:
    """Return the new rows of a night."""
    return [
        Row(row["id"], row["store"], row["group"], parse_example(where, row["example"]))
        for where, row in read_jsonl(file)
    ]


def _noun(config: SleepConfig) -> str:
    return "experiences" if {store.kind for store in config.stores} == {"salience"} else "examples"


def _too_few(count: int, needed: int, what: str) -> str | None:
    return f"{count} {what}, {needed} are needed" if count < needed else None
