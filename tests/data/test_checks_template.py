"""What a base model's template makes of rows, with true templates and tokenizers; and what stops a training."""

from __future__ import annotations

import json

import pytest

from mlx_lora.data.checks import check_table, errors_that_stop, read_table, stop_sentence
from mlx_lora.data.dataset import read_split
from mlx_lora.data.tokenize import encode_examples
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer

TURNS = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is what it is."}]


@pytest.fixture
def tiny():
    return load_tokenizer("builtin/tiny-lumen")


@pytest.fixture
def dataset(tmp_path):
    """Write a dataset directory of rows of messages."""

    def write(*rows, name="data", **others):
        directory = tmp_path / name
        directory.mkdir()
        for split, messages in {"train": rows, **others}.items():
            lines = [json.dumps(m if isinstance(m, dict) else {"messages": m}) + "\n" for m in messages]
            (directory / f"{split}.jsonl").write_text("".join(lines))
        return directory

    return write


def template_findings(directory, tokenizer, max_seq_length=512):
    table = read_table([directory])
    table.tokenizer, table.max_seq_length = tokenizer, max_seq_length
    return {finding.check: finding.examples for finding in check_table(table)}


def test_a_good_row_is_left_alone(dataset, tiny):
    assert template_findings(dataset(TURNS), tiny).keys() == {"no_validation_rows"}


def test_what_is_longer_and_what_would_be_cut(dataset, tiny):
    long = [{"role": "user", "content": "begin " + "middle " * 200 + "end"}, TURNS[1]]
    answer = [TURNS[0], {"role": "assistant", "content": "word " * 200}]
    said = template_findings(dataset(TURNS, long, answer), tiny, 64)
    assert "data/train.jsonl, line 2: " in said["too_long"][0]
    assert "the prompt loses" in said["too_long"][0]
    assert "middle middle" in said["too_long"][0]
    assert len(said["too_long"]) == len(said["answer_too_long"]) == 1
    assert "line 3: the answer takes" in said["answer_too_long"][0]


def test_a_template_without_an_end_of_turn(dataset, tiny):
    tiny.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tiny.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    said = template_findings(dataset(TURNS), tiny)
    assert "line 1: an answer ends without an end-of-turn token" in said["no_end_of_turn"][0]


def test_an_open_end_needs_no_end_of_turn(dataset, tiny):
    """An answer whose end is not learned is no finding; that of another answer in the same row is."""
    text = "It is what it is. We all went there together at night. It was late and then the"
    row = [TURNS[0], {"role": "assistant", "content": text, "open_end": True}]
    assert template_findings(dataset(row), tiny).keys() == {"no_validation_rows"}
    closed = [row[0], {**row[1], "open_end": False}]
    assert template_findings(dataset(closed, name="closed"), tiny).keys() == {"cut_answer", "no_validation_rows"}
    tiny.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tiny.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    assert "no_end_of_turn" not in template_findings(dataset(row, name="open"), tiny)
    assert "no_end_of_turn" in template_findings(dataset([*TURNS, *row], name="both"), tiny)


def test_a_template_that_serves_otherwise_than_it_trains(dataset, tiny):
    tiny.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    said = template_findings(dataset(TURNS), tiny)["serving_differs"]
    assert "served with …'<think>'" in said[0]
    assert "It is what" in said[0]


def test_a_token_over_the_seam_is_seen(dataset, realdata):
    qwen = load_tokenizer(str(realdata / "tokenizers" / "qwen2.5"))
    rows = [[TURNS[0], {"role": "assistant", "content": text}] for text in ("Yes, it is so.", "\n\nYes, it is so.")]
    said = template_findings(dataset(*rows), qwen)["serving_differs"]
    assert len(said) == 1
    assert "line 2: one token spans" in said[0]


def test_the_real_templates(dataset, realdata):
    """Those of the families whose tokenizers are at hand: all end an answer with a token, one is served otherwise."""
    system = [{"role": "system", "content": "Be brief."}, *TURNS]
    twice = [TURNS[0], TURNS[0], TURNS[1]]
    directory = dataset(TURNS, system, twice)
    tokenizers = {f: load_tokenizer(str(realdata / "tokenizers" / f)) for f in ("llama3", "qwen2.5")}
    refused, differing = [], []
    for file in sorted((realdata / "chat_templates").glob("*[Qq]wen*")) + sorted(
        (realdata / "chat_templates").glob("meta-llama*")
    ):
        tokenizer = tokenizers["qwen2.5" if "Qwen" in file.name else "llama3"]
        tokenizer.chat_template = file.read_text()
        said = template_findings(directory, tokenizer)
        refused += said.get("template_refuses", [])
        differing += [file.stem] * ("serving_differs" in said)
        assert "no_end_of_turn" not in said, file.name
    assert refused == []
    assert "Qwen-QwQ-32B" in differing
    assert "Qwen-Qwen2.5-7B-Instruct" not in differing


def test_turns_that_gemma_refuses(dataset, realdata, tiny):
    tiny.chat_template = (realdata / "chat_templates" / "google-gemma-2-2b-it.jinja").read_text()
    tiny.bos_token = "<bos>"
    rows = [TURNS, [{"role": "system", "content": "Be brief."}, *TURNS], [TURNS[0], TURNS[0], TURNS[1]]]
    said = template_findings(dataset(*rows), tiny)["template_refuses"]
    # The system prompt is merged into the user's turn.
    assert [hit.split("line ")[1][0] for hit in said] == ["3"]
    assert "Conversation roles must alternate" in said[0]
    tiny.base_facts.system_role = "refuse"
    said = template_findings(dataset(*rows, name="again"), tiny)["template_refuses"]
    assert [hit.split("line ")[1][0] for hit in said] == ["2", "3"]
    assert "refuses a system role; take the system prompt out, or set system_role: merge" in said[0]


def test_what_stops_a_training(dataset, tiny):
    marked = {"messages": TURNS, "meta": {"never_train": True}}
    other = [{"role": "user", "content": "Else?"}, TURNS[1]]
    directory = dataset(marked, other, other, test=[TURNS])
    findings = errors_that_stop(directory, tiny, 512, [])
    assert [finding.check for finding in findings] == ["leaked_rows", "never_train"]
    sentence = stop_sentence(findings, [directory])
    assert sentence.startswith(
        "the check leaked_rows (and never_train) stops training: evaluation rows that are trained on, 1 in all"
    )
    assert f"{directory}/test.jsonl, line 1" in sentence
    assert "--set 'waive_checks=[leaked_rows, never_train]'" in sentence
    assert "\n" not in sentence
    assert [f.check for f in errors_that_stop(directory, tiny, 512, ["leaked_rows"])] == ["never_train"]
    assert errors_that_stop(directory, tiny, 512, ["leaked_rows", "never_train"]) == []
    with pytest.raises(UserError, match=r"no check 'leaked_row'; the nearest is 'leaked_rows'"):
        errors_that_stop(directory, tiny, 512, ["leaked_row"])


def test_what_the_model_cannot_take_is_not_to_be_waived(dataset, tiny):
    long = [TURNS[0], {"role": "assistant", "content": "word " * 200}]
    directory = dataset(TURNS, long)
    assert errors_that_stop(directory, tiny, 64) == []
    with pytest.raises(UserError, match=r"example 2: the answer takes \d+ tokens and max_seq_length is 64"):
        encode_examples(tiny, read_split(directory, "train"), 64, str(directory))
    assert "answer_too_long" in template_findings(directory, tiny, 64)


def test_a_leak_between_two_datasets_of_a_mix(dataset, tiny):
    one, two = dataset(TURNS, name="one"), dataset(TURNS, name="two", test=[TURNS])
    assert errors_that_stop(one, tiny, 512) == []
    assert [f.check for f in errors_that_stop([one, two], tiny, 512)] == ["leaked_rows"]


def test_the_eisv_dataset_passes(eisv_data, tiny):
    findings = template_findings(eisv_data, tiny)
    assert "error" not in {f.severity for f in check_table(read_table([eisv_data]))}
    assert {"template_refuses", "no_end_of_turn", "serving_differs", "too_long"}.isdisjoint(findings)
    assert errors_that_stop(eisv_data, tiny, 512) == []
