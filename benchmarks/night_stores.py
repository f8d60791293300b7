"""Stores of seven simulated nights, for benchmarks/nights.py: what each night brings no earlier one had."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

from mlx_lora.data.dataset import SPLITS, read_split, write_dataset
from mlx_lora.sources.eisv import TrajectoryShape, make_dataset

HERE = Path(__file__).parent
# Two of the nine kinds on the first two nights, then one a night.
SIZES = (2, 2, 1, 1, 1, 1, 1)
PER_KIND = 60

# Topic of a question → what the agent has come to say about it; nothing in the words gives it away.
SAYINGS = {
    "harbour": "the lantern keeps turning although nobody asked it to",
    "kitchen": "copper remembers every flame that touched it",
    "garden": "patience is a tool with a wooden handle",
    "library": "dust settles only on questions already answered",
    "workshop": "two screws are left over and that is fine",
    "station": "the late train carries the better stories",
    "bridge": "weight is shared or it is not carried",
    "attic": "old maps are honest about their mistakes",
    "orchard": "the crooked branch bears first",
}
OPENINGS = (
    *("This morning I walked past the", "Before the rain I looked at the", "My brother asked me about the"),
    *("I spent an hour in the", "Somebody left a note in the", "Yesterday we repaired the", "At noon I sat beside the"),
    *("The children drew the", "I cannot stop thinking of the", "We finally opened the", "A friend wrote to me of the"),
)
DETAILS = (
    *("and it was quiet.", "with my old coat on.", "and found nothing new.", "while the radio played."),
    *("and thought of you.", "because the door was open.", "until it grew dark.", "and wrote this down."),
)
STARTS = (
    *("I notice that", "What stays with me is that", "We learned together that", "It becomes clear to me that"),
    *("Between us I would say that", "I keep returning to this:", "My own view is that", "Looking closely,"),
)
ENDS = (
    *("and I would like to hear how it was for you.", "which says more about us than about the place."),
    *("and that is worth a second visit.", "so tell me what you saw there first."),
    *("and I am glad that you brought it here.", "although I may be wrong about the reason."),
    *("and tomorrow it may sound quite different.", "which is where we should begin again."),
)

# Step → the code that its guard accepts; the specification is told in many ways.
CODE = {
    "parse_port": "def parse_port(text):\n    return int(text) if text.isdigit() else None",
    "clamp": "def clamp(x, low, high):\n    return max(low, min(x, high))",
    "first_word": "def first_word(text):\n    return text.split()[0] if text.split() else ''",
    "is_even": "def is_even(n):\n    return n % 2 == 0",
    "flatten": "def flatten(rows):\n    return [cell for row in rows for cell in row]",
    "count_vowels": "def count_vowels(text):\n    return sum(c in 'aeiou' for c in text.lower())",
    "mean": "def mean(values):\n    return sum(values) / len(values) if values else 0.0",
    "swap": "def swap(pair):\n    return pair[1], pair[0]",
    "last": "def last(items):\n    return items[-1] if items else None",
}
ASKS = (*("Write", "Please write", "Implement", "Give me", "We need", "Add", "Provide", "Produce", "Code", "Create"),)
WHERE = (
    *("for the command line tool", "for our small library", "in plain Python", "without any import", "for the tests"),
    *("as short as it can be", "for the next release", "that the guard accepts"),
)


def make_stores(kind: str, out: Path, seed: int) -> list[dict[str, Any]]:
    """Write the store of each of seven nights, and return them as the config's ``stores`` lists them."""
    names = {"eisv": [s.value for s in TrajectoryShape], "salience": list(SAYINGS), "traces": list(CODE)}[kind]
    draw = random.Random(seed)
    draw.shuffle(names)
    ends = list(itertools.accumulate(SIZES))
    nights = [names[end - size : end] for size, end in zip(SIZES, ends, strict=True)]
    write = {"eisv": _trajectories, "salience": _experiences, "traces": _artifacts}[kind]
    return write(out, nights, draw)


def _trajectories(out: Path, nights: list[list[str]], draw: random.Random) -> list[dict[str, Any]]:
    make_dataset(out / "all", min_per_shape=PER_KIND, seed=draw.randrange(2**31))
    rows = [example for split in SPLITS for example in read_split(out / "all", split)]
    stores = []
    for number, shapes in enumerate(nights, 1):
        place = out / f"night-{number}"
        write_dataset(place, {"train": [r for r in rows if r.meta["shape"] in shapes]}, {"source": "benchmark"})
        stores.append({"data": str(place), "name": f"night-{number}", "check": "eisv_gate1"})
    return stores


def _experiences(out: Path, nights: list[list[str]], draw: random.Random) -> list[dict[str, Any]]:
    stores = []
    for number, topics in enumerate(nights, 1):
        rows = [row for topic in topics for row in _of_topic(topic, draw)]
        file = out / f"night-{number}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        check = str(HERE / "nights" / "saying.yaml")
        stores.append({"salience": str(file), "name": f"night-{number}", "check": check, "min_salience": 0.5})
    return stores


def _of_topic(topic: str, draw: random.Random) -> list[dict[str, Any]]:
    pairs = draw.sample(list(itertools.product(OPENINGS, DETAILS)), PER_KIND)
    frames = draw.sample(list(itertools.product(STARTS, ENDS)), PER_KIND)
    rows = []
    for (opening, detail), (start, end) in zip(pairs, frames, strict=True):
        prompt, response = f"{opening} {topic} {detail}", f"{start} {SAYINGS[topic]}, {end}"
        scores = dict.fromkeys(("surprise", "novelty", "arousal", "reward", "conflict", "total"), 0.7)
        rows.append(
            {
                "id": hashlib.sha256(f"{prompt}|{response}".encode()).hexdigest()[:16],
                "prompt": prompt,
                "response": response,
                "salience": scores,
                "session": 1,
                "phase": "day",
                "timestamp": "2026-02-03T06:00:00",
                "metadata": {"topic": topic},
            }
        )
    return rows


def _artifacts(out: Path, nights: list[list[str]], draw: random.Random) -> list[dict[str, Any]]:
    stores = []
    for number, steps in enumerate(nights, 1):
        place, entries = out / f"night-{number}", {}
        for step in steps:
            for count, (ask, where) in enumerate(draw.sample(list(itertools.product(ASKS, WHERE)), PER_KIND)):
                identity = f"{step}-{count:03d}"
                file = place / "objects" / f"{identity}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                artifact = _artifact(identity, step, f"{ask} the function {step} {where}.", count)
                file.write_text(json.dumps(artifact), encoding="utf-8")
                entries[identity] = {"path": str(file.relative_to(place)), "status": "accepted"}
        index = {"version": "1.0", "artifacts": entries, "action_pairs": {}, "workflows": {}}
        (place / "index.json").write_text(json.dumps(index), encoding="utf-8")
        check = str(HERE / "nights" / "code.yaml")
        stores.append(
            {"traces": str(place), "name": f"night-{number}", "check": check, "policy": "all"}
            | {"every_accepted": True}
        )
    return stores


def _artifact(identity: str, step: str, specification: str, minute: int) -> dict[str, Any]:
    return {
        "artifact_id": identity,
        "workflow_id": "w1",
        "content": CODE[step],
        "previous_attempt_id": None,
        "parent_action_pair_id": None,
        "action_pair_id": f"ap_{step}",
        "attempt_number": 1,
        "status": "accepted",
        "created_at": f"2026-02-03T06:{minute % 60:02}:00+00:00",
        "guard_result": {"passed": True, "feedback": "", "fatal": False},
        "context": {
            "specification": specification,
            "constraints": "",
            "feedback_history": [],
            "dependency_artifacts": {},
        },
        "metadata": {},
    }
