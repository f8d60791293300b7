"""Scores by hand and against the stored ones, and what the collector stores."""

from __future__ import annotations

import json
import math

import pytest

from mlx_lora.errors import UserError
from mlx_lora.sources.salience import (
    DIMENSIONS,
    ConversationalSalienceScorer,
    ExperienceCollector,
    experience_id,
    read_buffer,
    score_exchange,
)

SALIENT = "We found it together: our boat, specifically the small one. I notice I feel curious. Do you? Shall we?"


@pytest.mark.parametrize("name", ["first_two", "twenty_four", "before_removal", "think_blocks"])
def test_stored_scores_recompute_exactly(realdata, name):
    for row in read_buffer(realdata / "salience" / f"{name}.json"):
        scores = score_exchange(row["prompt"], row["response"], match="substring")
        assert {k: scores[k] for k in ("arousal", "reward", "conflict")} == {
            k: row["salience"][k] for k in ("arousal", "reward", "conflict")
        }
        assert math.fsum(row["salience"][k] for k in DIMENSIONS) / 5 == pytest.approx(row["salience"]["total"])


def test_scores_by_hand():
    scorer = ConversationalSalienceScorer()
    first = scorer.score_exchange("", "We feel fine. Do you?")
    assert (first["surprise"], first["novelty"]) == (0.5, 0.5)
    assert first["arousal"] == (0.3 + 0.5 + 1 / 3) / 3
    assert first["reward"] == pytest.approx(0.3 + 0.35)
    assert first["conflict"] == 0
    # One of the three parts was said before; 3 of 7 words are new.
    second = scorer.score_exchange("", "We feel fine. Actually you do not.")
    assert second["surprise"] == pytest.approx(1 - 1 / 3)
    assert second["novelty"] == 1
    assert second["conflict"] == 1 / 6
    assert second["total"] == pytest.approx(sum(second[k] for k in DIMENSIONS) / 5)
    hedged = score_exchange("", "As an AI I might help exactly, precisely so.")
    assert hedged["reward"] == 0
    assert scorer.score_exchange("", "we feel fine")["novelty"] == 1  # "fine" without its full stop is a new word


def test_words_or_parts_of_words():
    text = "This is because the weather thus turned."
    assert score_exchange("", text)["reward"] == pytest.approx(0.3)
    assert score_exchange("", text, match="substring")["reward"] == pytest.approx(1.0)
    assert score_exchange("", "We don’t know.")["conflict"] == 1 / 6


def test_tools_raise_the_scores():
    calls = [{"name": "search", "success": True}, {"name": "search", "success": False}, {"name": "read"}]
    plain, used = score_exchange("", "Yes."), score_exchange("", "Yes.", tool_calls=calls)
    more = {k: used[k] - plain[k] for k in DIMENSIONS}
    assert more == pytest.approx({"surprise": 0.2, "novelty": 0.2, "arousal": 0.45, "reward": 0.3, "conflict": 0.4})
    assert score_exchange("", "Yes.", tool_calls=calls * 4)["arousal"] == 1


def test_collecting(tmp_path):
    path = tmp_path / "b.json"
    collector = ExperienceCollector(path, machine_name="den", model_name="tiny")
    assert collector.get_stats() == {"total_experiences": 0, "avg_salience": 0.0, "high_salience_count": 0}
    assert not path.exists()
    result = collector.add_exchange("What now?", SALIENT, 3, "relating", {"turn": 1}, [{"name": "look"}])
    identity = experience_id("What now?", SALIENT)
    assert result["stored"]
    assert not result["filtered"]
    assert result["experience_id"] == identity
    (row,) = json.loads(path.read_text())
    assert list(row)[-2:] == ["metadata", "tool_calls"]
    assert row["metadata"] == {"turn": 1, "machine": "den", "model": "tiny"}
    assert row["salience"] == result["salience"]
    again = collector.add_exchange("What now?", SALIENT, 3, "relating")
    assert (again["stored"], again["filtered"]) == (False, True)
    assert (again["filter_reason"], again["experience_id"]) == ("already_stored", identity)
    dull = collector.add_exchange("Test", "Okay.", 1, "x")
    assert (dull["stored"], dull["filtered"], "experience_id" in dull) == (False, False, False)
    assert collector.get_stats()["total_experiences"] == len(collector.experiences) == 1


def test_repetitions_are_found_across_restarts(tmp_path):
    path = tmp_path / "b.json"
    ExperienceCollector(path, 0.0).add_exchange("One?", SALIENT, 1, "x")
    result = ExperienceCollector(path, 0.0).add_exchange("Two?", SALIENT.replace("small", "little"), 1, "x")
    assert (result["stored"], result["filter_reason"]) == (False, "repetitive_response")
    other = ExperienceCollector(path, 0.0)
    assert other.add_exchange("Two?", "Something else entirely was said here.", 1, "x")["stored"]


def test_asking_for_salient_ones(tmp_path):
    collector = ExperienceCollector(tmp_path / "b.json", 0.0)
    for i, words in enumerate(("Okay.", SALIENT, "Fine, it rained for nine long days.")):
        collector.add_exchange(f"{i}?", words, i, "x")
    totals = [e["salience"]["total"] for e in collector.get_high_salience_experiences(0)]
    assert totals == sorted(totals, reverse=True)
    assert len(totals) == 3
    assert len(collector.get_high_salience_experiences(0, limit=2)) == 2
    assert collector.consolidate_for_sleep() == collector.get_high_salience_experiences(0.6)
    stats = collector.get_stats()
    assert set(stats["dimension_averages"]) == set(DIMENSIONS)
    assert stats["oldest_experience"] < stats["newest_experience"]


def test_collapse_status(tmp_path):
    collector = ExperienceCollector(tmp_path / "b.json", 1.0)
    assert collector.get_collapse_status()["reason"] == "insufficient_data"
    for i in range(4):
        collector.add_exchange(f"{i}?", "I notice I notice I notice.", 1, "x")
    status = collector.get_collapse_status()
    assert status["collapse_detected"]
    assert (status["high_similarity_pairs"], status["total_pairs"]) == (6, 6)
    assert status["recommendation"] == "disable_lora_and_investigate"


def test_remembering_what_was_said(tmp_path):
    path = tmp_path / "b.json"
    ExperienceCollector(path, 0.0).add_exchange("1?", "We saw a lake.", 1, "x")
    forgetful, remembering = ExperienceCollector(path, 0.0), ExperienceCollector(path, 0.0, remember=True)
    said = "We saw a lake. It was cold there, and wide."
    assert forgetful.add_exchange("2?", said, 1, "x")["salience"]["surprise"] == 0.5
    assert remembering.add_exchange("2?", said, 1, "x")["salience"]["surprise"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prompt", "response", "metadata", "sentence"),
    [
        ("p", "", None, "no text in its response"),
        ("\ud800", "r", None, "half a character"),
        ("p", SALIENT, {"x": float("nan")}, "what JSON cannot"),
        ("p", SALIENT, {"x": object()}, "what JSON cannot"),
    ],
)
def test_exchanges_that_cannot_be_stored(tmp_path, prompt, response, metadata, sentence):
    path = tmp_path / "b.json"
    collector = ExperienceCollector(path)
    with pytest.raises(UserError, match=sentence):
        collector.add_exchange(prompt, response, 1, "x", metadata)
    assert not path.exists()
