"""Small artifact stores for the tests, in whichever layout."""

from __future__ import annotations

import json
from pathlib import Path

LAYOUTS = ("object", "bool", "ids", "list", "no_workflow")


def artifact(identity, status="accepted", *, previous=None, pair="ap_a", minute=0, history=(), depends=(), **fields):
    """An artifact of the layout with a guard_result object and a mapping of dependencies."""
    context = {
        "specification": "Add two numbers",
        "constraints": "",
        "feedback_history": [{"artifact_id": i, "feedback": f"{i} is wrong"} for i in history],
        "dependency_artifacts": dict(depends),
        **fields.pop("context", {}),
    }
    return {
        "artifact_id": identity,
        "workflow_id": "w1",
        "content": f"content of {identity}",
        "previous_attempt_id": previous,
        "parent_action_pair_id": None,
        "action_pair_id": pair,
        "created_at": f"2026-02-03T06:{minute:02}:00+00:00",
        "attempt_number": 1,
        "status": status,
        "guard_result": {"passed": status == "accepted", "feedback": "so it is", "fatal": False},
        "context": context,
        "metadata": {},
        **fields,
    }


def in_layout(data, layout):
    """The same artifact as another of the five layouts writes it."""
    data = json.loads(json.dumps(data))
    dependencies = data["context"]["dependency_artifacts"]
    if layout == "bool":
        guard = data["guard_result"]
        data |= {"guard_result": guard["passed"], "feedback": guard["feedback"]}
    elif layout == "ids":
        del data["context"]["dependency_artifacts"]
        data["context"]["dependency_ids"] = list(dependencies.values())
    elif layout == "list":
        rows = [{"action_pair_id": pair, "artifact_id": i} for pair, i in dependencies.items()]
        data["context"] |= {"dependency_artifacts": rows, "escalation_feedback": ["the tests fail"]}
    elif layout == "no_workflow":
        del data["workflow_id"]
    return data


def write_store(path: Path, artifacts, *, index=True) -> Path:
    """A store directory of these artifacts."""
    entries = {}
    for data in artifacts:
        identity = data["artifact_id"]
        file = path / "objects" / identity[:2] / f"{identity}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data))
        entries[identity] = {"path": str(file.relative_to(path)), "status": data["status"]}
    if index:
        content = {"version": "1.0", "artifacts": entries, "action_pairs": {}, "workflows": {}}
        (path / "index.json").write_text(json.dumps(content))
    return path


def refined(path: Path) -> Path:
    """Five artifacts: a refusal, its refinement, a first success, one refined by history alone, one still pending."""
    return write_store(
        path,
        [
            artifact("r1", "rejected"),
            artifact("a1", previous="r1", minute=1, history=["r1"]),
            artifact("a2", pair="ap_b", minute=2, depends={"ap_a": "a1"}),
            artifact("a3", pair="ap_c", minute=3, history=["gone", "r1"]),
            artifact("p1", "pending", pair="ap_d", minute=4, guard_result=None),
        ],
    )
