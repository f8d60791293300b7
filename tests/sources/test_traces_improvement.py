"""Before and after: rates, interval, retries, and guards that misbehave."""

import json
import math
import random
import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lora.errors import UserError
from mlx_lora.sources.traces import as_guard, evaluate_improvement, expected_retries, paired_difference, wilson


def test_wilsons_interval():
    # Newcombe 1998, Statistics in Medicine 17, 857–872, table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_newcombes_paired_interval():
    # Newcombe 1998, Statistics in Medicine 17, 2635–2650, method 10 on the pairs 36, 12, 2, 0.
    assert paired_difference(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@settings(deadline=None)
@given(*[st.integers(0, 60)] * 4)
def test_the_interval_holds_the_difference(both, first, second, neither):
    total = both + first + second + neither
    if total:
        low, high = paired_difference(both, first, second, neither)
        assert -1 - 1e-9 <= low <= (first - second) / total <= high <= 1 + 1e-9
        mirrored = paired_difference(both, second, first, neither)
        assert mirrored == pytest.approx((-high, -low))


def test_expected_retries():
    assert (expected_retries(5, 5), expected_retries(1, 4), expected_retries(0, 4)) == (0, 3, None)


def test_the_comparison():
    asked = []

    def before(prompt, seed):
        asked.append((prompt, seed))
        return "good" if seed % 5 == 0 else "bad"

    result = evaluate_improvement(before, lambda p, s: "good", ["Add", "Sort"], lambda c: c == "good", 5, seed=10)
    assert result["before"] == {"successes": 2, "total": 10, "success_rate": 0.2, "expected_retries": 4.0}
    assert result["after"] == {"successes": 10, "total": 10, "success_rate": 1.0, "expected_retries": 0.0}
    assert result["improvement"] == pytest.approx(0.8)
    assert result["relative_improvement"] == pytest.approx(4.0)
    assert result["confidence_interval"] == list(paired_difference(2, 8, 0, 0))
    assert "Newcombe" in result["formula"]
    assert asked[0] == ("### Specification\nAdd\n\n### Solution\n", 10)
    assert [seed for _, seed in asked] == list(range(10, 20))


def test_both_get_the_same_prompts_and_seeds_and_the_guard_only_the_answer():
    calls = {"before": [], "after": []}
    judged = []

    def model(name):
        return lambda prompt, seed: calls[name].append((prompt, seed)) or prompt + str(random.Random(seed).random())

    evaluate_improvement(model("before"), model("after"), ["a", "b", "c"], judged.append, 2)
    assert calls["before"] == calls["after"]
    assert len(set(calls["before"])) == 6
    assert all("###" not in candidate for candidate in judged)


@pytest.mark.parametrize(("old", "new"), [("bad", "bad"), ("good", "good"), ("bad", "good")])
def test_no_infinity_in_the_json(old, new):
    result = evaluate_improvement(lambda p, s: old, lambda p, s: new, ["x"], lambda c: c == "good", 1)
    text = json.dumps(result, allow_nan=False)
    assert all(math.isfinite(v) for v in json.loads(text)["confidence_interval"])
    if old == "bad":
        assert result["before"]["expected_retries"] is result["relative_improvement"] is None


def test_what_cannot_be_compared_is_one_sentence():
    def model(prompt, seed):
        return ""

    for specs in ([], "a text"):
        with pytest.raises(UserError, match="no specification"):
            evaluate_improvement(model, model, specs, bool)
    with pytest.raises(UserError, match="num_samples 0"):
        evaluate_improvement(model, model, ["x"], bool, 0)


def test_guards_in_python():
    def stumbles(candidate):
        raise KeyError("no field")

    assert as_guard(lambda c: SimpleNamespace(passed=True))("x").passed
    assert not as_guard(lambda c: {"passed": False})("x").passed
    verdict = as_guard(stumbles)("x")
    assert (verdict.passed, verdict.error) == (False, "KeyError: 'no field'")
    result = evaluate_improvement(lambda p, s: "", lambda p, s: "", ["x"], stumbles, 1)
    assert result["guard_errors"] == {"KeyError: 'no field'": 2}


def test_a_command_guards_without_a_shell(tmp_path):
    check = "import sys; sys.exit('good' not in open(sys.argv[1], encoding='utf-8').read())"
    guard = as_guard([sys.executable, "-c", check], suffix=".py")
    assert guard("good ; touch it").passed
    assert not guard("bad \ud800").passed
    placed = as_guard([sys.executable, "-c", check, "{}", "; exit 1"])
    assert placed("good").passed
    assert as_guard(f"'{sys.executable}' -c 'import sys; sys.exit(len(sys.argv) != 2)'")("x").passed


def test_a_command_has_its_time(tmp_path):
    # The child that the guard leaves behind would hold the test up if it were waited for.
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    verdict = as_guard([sys.executable, "-c", code], time_limit=0.5)("x")
    assert time.monotonic() - start < 10
    assert (verdict.passed, verdict.error) == (False, "it took more than 0.5 seconds")


@pytest.mark.parametrize("guard", ["", [], "no-such-program-here --x", "'unclosed"])
def test_a_command_that_cannot_be_run_is_refused_at_once(guard):
    def never(prompt, seed):
        raise AssertionError("asked before the guard was checked")

    with pytest.raises(UserError):
        evaluate_improvement(never, never, ["x"], guard)
