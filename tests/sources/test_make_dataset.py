"""make_dataset: every source returns a DatasetCard of one shape, and writes what it says."""

from __future__ import annotations

import importlib
import json

import pytest

from mlx_lora.data.dataset import CARD, SPLITS, read_split
from mlx_lora.errors import UserError

# Source -> arguments after the directory to make, from the real data.
CASES = {
    "eisv": lambda data: ((), {"min_per_shape": 8}),
    "salience": lambda data: (([data / "salience" / "after_removal.json"],), {"min_salience": 0}),
    "traces": lambda data: (([data / "traces"],), {"policy": "all"}),
    "instructions": lambda data: ((), {"files": [data / "instructions" / "style_core.jsonl"]}),
    "claims": lambda data: (
        (),
        {
            "claims": [data / "claims" / "citint_claims_dev.jsonl"],
            "corpus": [data / "claims" / "citint_corpus_dev.jsonl"],
        },
    ),
}


@pytest.mark.parametrize("source", CASES)
def test_a_card_of_one_shape(source, realdata, tmp_path):
    make_dataset = importlib.import_module(f"mlx_lora.sources.{source}").make_dataset
    arguments, options = CASES[source](realdata)
    card = make_dataset(tmp_path / "d", *arguments, **options)
    written = json.loads((tmp_path / "d" / CARD).read_text())
    assert card.to_dict() == written
    assert card.source == written["source"] == source
    examples = {split: len(read_split(tmp_path / "d", split)) for split in SPLITS}
    assert card.splits == written["splits"] == examples
    assert card.report.kept == sum(examples.values()) > 0
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert card.left_out == {item["reason"]: item["count"] for item in report["left_out"]}
    assert card.notes == report["notes"]
    with pytest.raises(UserError, match="d: this exists already"):
        make_dataset(tmp_path / "d", *arguments, **options)


def test_states_without_a_number_are_left_out_by_row(anima, tmp_path):
    from mlx_lora.sources.eisv import make_dataset

    states = [(1700000000 + i, 0.5, 0.5, 0.5, None if i == 4 else i / 40) for i in range(20)]
    db = anima(states)
    card = make_dataset(tmp_path / "d", anima_db=db, skip_invalid=True, min_per_shape=0)
    assert card.report.left_out == {"state that holds no finite number": [f"{db}: row 5 of state_history"]}
    assert (card.report.read, card.counts["real"]) == (20, 2)
