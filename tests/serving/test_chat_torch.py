"""The chat service on the torch backend."""

from __future__ import annotations

import pytest
from chat_helpers import chat_service, greedy, text_of, user
from run_fixtures import SEVEN, make_run, sharpen

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("peft", reason="needs the extra torch")


def test_switched_adapters_answer_as_fresh_targets(make_model, tmp_path):
    from mlx_lora.evaluation.suite import Generation
    from mlx_lora.evaluation.targets.opening import load_target

    base = sharpen(make_model("llama")).rename(tmp_path / "base")
    make_run(base, tmp_path / "one", lora_target_modules=SEVEN)
    make_run(base, tmp_path / "two", fine_tune_type="dora")
    asked = user("warmth 0.4, clarity 0.9")
    expected = {}
    for name in ("base", "one", "two"):
        (reply,) = load_target(str(tmp_path / name), "torch").answer([asked], [""], Generation(10, 0.0, 0))
        expected[name] = reply.text
    assert len(set(expected.values())) == 3
    with chat_service(tmp_path / "state", tmp_path, backend="torch") as chat:
        for name in ("two", "base", "one", "two"):
            answers = [chat.ask(name, asked, greedy(10)) for _ in range(3)]
            assert [text_of(answering) for answering in answers] == [expected[name]] * 3
        answering = chat.ask("one", "warmth", greedy(0, scores=True))
        assert text_of(answering) == ""
        assert len(answering.prompt_scores) == len(answering.prompt) - 1
