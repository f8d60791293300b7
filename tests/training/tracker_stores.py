"""Readers of what trackers stored: (step, measurement, value) of every record, in the order in which it was written."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path


def trackio_rows(home: Path) -> list[tuple[int, str, float]]:
    """Records of the project in Trackio's SQLite file."""
    (file,) = home.rglob("mlx-lora.db")
    rows = sqlite3.connect(file).execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    return [(step, *item) for step, metrics in rows for item in json.loads(metrics).items()]


def mlflow_rows(database: Path) -> list[tuple[int, str, float]]:
    """Records in MLflow's SQLite file."""
    return sqlite3.connect(database).execute("SELECT step, key, value FROM metrics ORDER BY step").fetchall()


def wandb_rows(place: Path) -> list[tuple[int, str, float]]:
    """Records of all processes of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    from mlx_lora.training.loggers.wandb_offline import messages

    found = []
    for file in sorted(place.glob("wandb/offline-run-*/*.wandb")):
        for message in messages(file):
            record = Record.FromString(message)
            values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            measured = {name: json.loads(value) for name, value in values.items()}
            found += [(measured["_step"], name, value) for name, value in measured.items() if not name.startswith("_")]
    return found
