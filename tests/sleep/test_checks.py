"""Row checks of the stores."""

from __future__ import annotations

import pytest

from mlx_lora.data.dataset import Example, read_split
from mlx_lora.errors import UserError
from mlx_lora.sleep.checks import main_metric, row_checks
from mlx_lora.sleep.config import StoreConfig
from mlx_lora.sources.claims.examples import INSTRUCTION


def store(kind, **keys):
    return StoreConfig(kind, kind, ["anywhere"], **keys)


def test_eisv_answers_are_checked_by_their_coherence(eisv_data):
    check = row_checks([store("eisv"), store("salience")])["eisv"]
    row = read_split(eisv_data, "train")[0]
    gold = check(row, row.messages[-1]["content"])
    assert (gold.passed, main_metric(gold)) == (True, 1.0)
    broken = check(row, "I feel calm.")
    assert (broken.passed, main_metric(broken)) == (False, 0.0)
    assert broken.reason


def test_only_stores_that_can_be_checked_have_a_check():
    assert set(row_checks([store("salience"), store("traces"), store("data"), store("claims"), store("eisv")])) == {
        "claims",
        "eisv",
    }


def test_claims_are_checked_in_their_four_stages():
    prompt = f"{INSTRUCTION}\n\nClaim: Ice melts at zero degrees.\n\nDocument 7: Ice melts at zero degrees Celsius."
    answer = "CLAIM[c1]: Ice melts at zero degrees. (citing 7)"
    row = Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
    check = row_checks([store("claims")])["claims"]
    gold, wrong = check(row, answer), check(row, "CLAIM[c1]: Ice melts at zero degrees. (citing 8)")
    assert (gold.passed, wrong.passed) == (True, False)
    assert 0 <= main_metric(check(row, "nothing of that kind")) < main_metric(wrong) < main_metric(gold) <= 1


def test_a_suite_as_a_stores_check(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nthreshold: 0.5\nchecks:\n  - regex: ^OK\n")
    check = row_checks([store("data", check=str(file))])["data"]
    row = Example([{"role": "user", "content": "well?"}, {"role": "assistant", "content": "OK"}])
    assert [main_metric(check(row, text)) for text in ("OK then", "no")] == [1.0, 0.0]
    with pytest.raises(UserError, match="no such suite"):
        row_checks([store("data", check="absent")])
