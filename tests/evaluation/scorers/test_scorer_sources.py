"""Checks of the sources' own formats, equal to what the sources themselves measure."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mlx_lora.evaluation.cases import Case
from mlx_lora.evaluation.eisv_cases import read_eisv_cases
from mlx_lora.evaluation.eisv_scoring import evaluate_predictions
from mlx_lora.evaluation.scorers import SUMMARIES, CheckSpec, make_scorer
from mlx_lora.sources.claims import validation
from mlx_lora.sources.eisv import parse_model_output
from mlx_lora.sources.salience import read_buffer

STILL = "EISV_TOKENS: ~stillness~\nLUMEN_TOKENS: quiet\nPATTERN: SINGLE"


def test_expression_coherence(judge):
    still = {"meta": {"shape": "settled_presence"}}
    assert judge({"expression_coherence": None}, STILL, **still).metrics == {"coherence": 1.0, "valid": 1.0}
    half = STILL.replace("~stillness~", "~stillness~ ~ripple~")
    score = judge({"expression_coherence": None}, half, tags=["settled_presence"])
    assert score.metrics == {"coherence": 0.5, "valid": 1.0}
    assert score.reason == "'~stillness~ ~ripple~' has a coherence of 0.500 with settled_presence, not above 0.933"
    assert judge({"expression_coherence": 0.4}, half, **still).passed
    for answer, said in (
        ("still", "lacks one of the lines"),
        (STILL.replace("~stillness~", "~calm~"), "'~calm~' is not a token of EISV"),
        (STILL.replace("SINGLE", "ONE"), "the pattern 'ONE'"),
    ):
        score = judge({"expression_coherence": None}, answer, **still)
        assert said in score.reason
        assert score.metrics == {"coherence": 0.0, "valid": 0.0}


def test_expressions_are_summed_up_as_gate1_does(eisv_data):
    rows = [json.loads(line) for line in (Path(eisv_data) / "test.jsonl").read_text().splitlines()]
    cases = [
        Case(str(i), row["messages"][:-1], row["messages"][-1]["content"], meta=row["meta"])
        for i, row in enumerate(rows)
    ]
    answers = ["nonsense" if i % 5 == 0 else STILL if i % 2 else cases[i].expect for i in range(len(cases))]
    scorer = make_scorer(CheckSpec("expression_coherence", None, "s:1"), None, Path())
    scores = [scorer(case, answer) for case, answer in zip(cases, answers, strict=True)]
    found = SUMMARIES["expression_coherence"](cases, answers, scores)
    gate1 = read_eisv_cases(Path(eisv_data) / "test.jsonl")
    parsed = [parse_model_output(answer) for answer in answers]
    predictions = [
        {"shape": c.group, "parsed": p, "expected_pattern": parse_model_output(c.expect).pattern}
        for c, p in zip(gate1, parsed, strict=True)
    ]
    wanted = asdict(evaluate_predictions(predictions))
    assert 0 < wanted["mean_coherence"] < 1
    assert 0 < wanted["pattern_accuracy"] < 1
    assert {key: found[key] for key in wanted} == wanted


PROMPT = "Claim: cats purr\n\nDocument 12: Cats. Cats purr when content.\nDocument 13: Dogs. Dogs bark at night."
GOLD = "CLAIM[c1]: cats purr (citing 12)"


@pytest.mark.parametrize(
    ("answer", "reason", "rates"),
    [
        (GOLD, "", (1.0, 1.0, 1.0, 1.0)),
        (
            f"{GOLD}\nWell.",
            "schema is 0.50, below 0.95: the line 'Well.' is neither a claim nor a relation",
            (0.5, 1.0, 1.0, 1.0),
        ),
        (
            "CLAIM[c1]: cats purr (citing 99)",
            "citation is 0.00, below 0.95: claim c1 cites 99, which the prompt does not show",
            (1.0, 0.0, 0.0, 1.0),
        ),
        (
            "CLAIM[c1]: cats purr (citing 13)",
            "citation is 0.00, below 0.95: claim c1 cites 13, which shares too few of its words",
            (1.0, 0.0, 0.0, 1.0),
        ),
        ("CLAIM[c1]: cats purr", "citation is 0.00, below 0.95: claim c1 cites nothing", (1.0, 0.0, 0.0, 1.0)),
        ("CLAIM[c1]: Cats content (citing 12)", "similarity is 0.50, below 0.7", (1.0, 1.0, 1.0, 0.5)),
        ("", "schema is 0.00, below 0.95", (0.0, 0.0, 0.0, 0.0)),
        ("RELATION: c2 supports c1", "the answer makes no claim", (1.0, 0.0, 0.0, 0.0)),
    ],
)
def test_claims(judge, answer, reason, rates):
    score = judge({"claims": None}, answer, prompt=PROMPT, expect=GOLD)
    assert score.reason == reason
    assert tuple(score.metrics[stage] for stage in validation.TARGETS) == pytest.approx(rates)


def test_claims_are_summed_up_over_claims(judge):
    cases = [Case(str(i), [{"role": "user", "content": PROMPT}], GOLD) for i in range(3)]
    answers = [GOLD, f"{GOLD}\nCLAIM[c2]: dogs bark\nRELATION: c2 contrasts c1\nso", ""]
    scorer = make_scorer(CheckSpec("claims", None, "s:1"), None, Path())
    scores = [scorer(case, answer) for case, answer in zip(cases, answers, strict=True)]
    found = SUMMARIES["claims"](cases, answers, scores)
    judged = [
        validation.Case.from_messages([*c.messages, {"content": GOLD}], a) for c, a in zip(cases, answers, strict=True)
    ]
    report = validation.validate_cases(judged)
    for stage in validation.TARGETS:
        assert found[stage] == pytest.approx(getattr(report, stage)), stage
    assert found["entailment_method"] == report.entailment_method
    assert judge({"claims": {"similarity": 0.4}}, "CLAIM[c1]: Cats content (citing 12)", prompt=PROMPT, expect=GOLD)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("I tend the garden in the morning, and I read in the evening.", ""),
        ("I see it now. " * 30, "repeated"),
        ("What do you think about it?", "questions"),
        ("<think>I wonder what it is like there", "think"),
        ("User: and then? Assistant: it was so.", "roles"),
        ("Yes.", "short"),
        ("Tell me how you spend a day in the garden with your friends", "echo"),
        ("I tend the garden in the morning, and then I", ""),
    ],
)
def test_degeneration(judge, answer, fault):
    prompt = "Tell me how you spend a day in the garden with your friends"
    score = judge({"degeneration": None}, answer, prompt=prompt)
    assert score.metrics == {"collapsed": float(bool(fault))}
    assert (f"({fault})" in score.reason) if fault else score.passed
    if fault:
        others = [name for name in ("think", "roles", "questions", "short", "echo", "repeated") if name != fault]
        assert judge({"degeneration": others}, answer, prompt=prompt).passed
    else:
        assert judge({"degeneration": "cut"}, answer, prompt=prompt).passed is answer.endswith(".")


def test_stock_phrases_are_of_the_whole_suite():
    loops = [f"As my process responds, the response is generated, whatever is asked {i}." for i in range(4)]
    others = [" ".join(f"w{i}x{j}" for j in range(9)) for i in range(12)]
    assert SUMMARIES["degeneration"]([], loops + others, [])["stock_phrases"] == 0.25
    assert SUMMARIES["degeneration"]([], [], []) == {"stock_phrases": 0.0}


def test_real_answers_before_and_after_the_removal_of_collapsed_ones(judge, realdata):
    """All that a person removed is found. Of what was kept, 15 are as evasive or as many questions as those."""
    before, after = (read_buffer(realdata / "salience" / f"{name}_removal.json") for name in ("before", "after"))
    kept = {experience["id"] for experience in after}
    scores = [(e["id"] in kept, judge({"degeneration": None}, e["response"], prompt=e["prompt"])) for e in before]
    assert [score.passed for of_kept, score in scores if not of_kept] == [False] * 24
    assert sum(score.passed for of_kept, score in scores if of_kept) == 141
    assert len(kept) == 156
