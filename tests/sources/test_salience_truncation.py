"""Answers cut in the middle of a sentence: detection and trimming."""

from __future__ import annotations

import json
import random

import pytest

from mlx_lora.data.dataset import read_split
from mlx_lora.errors import UserError
from mlx_lora.sources.salience import Filters, is_cut, make_salience_dataset, read_buffer, trim_answer
from mlx_lora.sources.salience.truncation import trim, word_count

FENCE = "```"


@pytest.mark.parametrize(
    ("kept", "rest"),
    [
        ("We went home.", " Then we all had"),
        ("We went home! Was it late?", " It was not and we"),
        ("We take fruit, e.g. apples, and pay $3.50 at the stand.", " Dr. Lee and"),
        ("We met Dr. Lee and Mr. J. R. Moss, i.e. the two.", " They said that vs. the old one"),
        ("Version 3.5 came out; see no. 7 there.", " It was 2.7 times"),
        ("They sell books, pens, etc. They do well.", " Then they open at 9 a.m. and"),
        ("I waited... Nobody came.", " Then we... do not"),
        ("I waited… Nobody came.", " Then… well, we"),
        ('She said "Go home." We went.', ' Then she said "Come back. We'),
        ("She said “Go home.”", " Then she said “Come back. We"),
        ("He asked „Wohin?“ Niemand wusste es.", " Dann sagte er „Komm. Wir"),
        ("It was late (and cold).", " We left (as we had said. It was"),
        ("It was **very late.**", " We were **very tired. We"),
        ("It was *late.*", " We were *tired. We"),
        ("That is all. 🙂 We go on.", " Then we 🙂 and"),
        ("我们一起回家了。你呢？", "然后我们又"),
        ("彼は「行こう。」と言った。", "それから「もう"),
        ("हम घर गए। सब ठीक है।", " फिर हम"),
        ("It was late.", "\n\n### What came next"),
        ("We need:\n- bread\n- milk", "\n- some of the"),
        ("We need:\n\n1. **Bread**: for the morning.\n2. **Milk**: for the tea.", "\n3. **Sug"),
        ("We need:\n\n1. Bread.\n2. Milk.", "\n3."),
        ("We need:\n\n1. Bread for\n   - the morning\n   - the evening", "\n2. Milk for:\n   - the"),
        ("We need a list.", " Here it is:\n- bread and milk that"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "\n| 3 |"),
        (f"So:\n{FENCE}py\nprint('a. B')\n{FENCE}", "\nThis prints one and"),
        ("We write it. It is short.", f" See:\n{FENCE}py\nprint('A. B.')\nx = 3"),
    ],
)
def test_an_answer_is_trimmed_to_its_last_complete_part(kept, rest):
    assert trim(kept + rest) == kept
    if not kept[-1].isalpha() and kept[-1] != "|":  # a list's last item is not known to be complete
        assert trim(kept) == kept


@pytest.mark.parametrize(
    "text",
    ["We went home and then we", "I met Dr.", "1.", "Here is what we need:\n- bread that", "“We went. Then we", ""],
)
def test_nothing_complete(text):
    assert trim(text) == ""


SENTENCES = (
    "We went home.",
    "It cost 3.5 dollars, i.e. nothing at all!",
    "Dr. Lee asked (as ever) why we came?",
    'She said "Come in." and smiled.',
    "The list is: bread, milk, etc.",
    "I waited... and nobody came…",
    "**Note:** it was late.",
    "We had `a.b()` for lunch.",
)


def test_any_cut_leaves_whole_sentences():
    """Whatever the sentences and wherever the cut, what is left is the sentences that were whole."""
    chance = random.Random(3)
    for _ in range(2000):
        sentences = [chance.choice(SENTENCES) for _ in range(chance.randrange(1, 6))]
        gaps = [chance.choice([" ", "\n", "\n\n"]) for _ in sentences]
        text = "".join(sentence + gap for sentence, gap in zip(sentences, gaps, strict=True))
        place = chance.randrange(len(text) + 1)
        whole, end = "", 0
        for sentence, gap in zip(sentences, gaps, strict=True):
            end += len(sentence)
            whole = text[:end] if end <= place else whole
            end += len(gap)
        rest = text[len(whole) : place].strip()
        if rest.endswith((".", "!", "?", ".)", '."', "…")):  # "3." of 3.5 and "I waited." of "...": nobody can tell
            continue
        assert trim(text[:place]) == whole, (text, place)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("We need:\n1. Bread.\n2. Milk.\n3.", True),
        ("The sum of both is\n4", False),
        ("We met Dr.", True),
        ("We sell bread, e.g.", True),
        ("We sell bread etc.", False),
        ("我们一起回家了然后我们又去了那个地方", True),
        ("我们一起回家", False),
        ("彼は「行こう」と言った。」", False),
        ("ฉันกลับบ้านกับเพื่อนของฉันเมื่อวานนี้แล้วเราก็กินข้าวด้วยกัน", False),
        ("हम घर गए और फिर हम सब ने मिलकर खाना खाया की", True),
    ],
)
def test_cut_answers(text, cut):
    assert is_cut(text) is cut


def test_words_of_a_script_without_spaces():
    assert word_count("We went home.") == 3
    assert word_count("我们一起回家了。") == 4


def test_thoughts_stay_whole():
    assert trim_answer("<think>\nSo. Well\n</think>\n\nYes. And then") == "<think>\nSo. Well\n</think>\n\nYes."
    assert trim_answer("<think>\nSo. Well.\n</think>\n\nAnd then") == ""


def rows():
    texts = [
        "We swam in the cold lake near the old mill today. Then we",
        "We rowed across the wide river with both boats before noon.",
        "Yes, we did. And there was a long, long",
        "<think>\nHm.\n</think>\n\nWe climbed the steep hill behind our green house at dawn. Up",
        "We baked two loaves of dark bread for the whole street. Why? When? Where? Who? What? How? And",
    ]
    scores = dict.fromkeys(("surprise", "novelty", "arousal", "reward", "conflict", "total"), 0.7)
    return [
        {
            "id": str(number),
            "prompt": f"And {'abcde'[number]}?",
            "response": text,
            "salience": scores,
            "session": 1,
            "phase": "x",
            "timestamp": None,
            "metadata": {},
        }
        for number, text in enumerate(texts)
    ]


def answers(path):
    found = [e for split in ("train", "valid", "test") for e in read_split(path, split)]
    return {e.meta["experience_id"]: (e.messages[-1], e.meta.get("trimmed")) for e in found}


def test_cut_answers_are_trimmed_dropped_or_kept(tmp_path):
    buffer = tmp_path / "b.json"
    buffer.write_text(json.dumps(rows()))
    card = make_salience_dataset(tmp_path / "trim", [buffer])
    assert card["cut"] == "trim"
    trimmed = answers(tmp_path / "trim")
    assert trimmed.keys() == {"0", "1", "3"}
    assert trimmed["0"] == (
        {"role": "assistant", "content": "We swam in the cold lake near the old mill today.", "open_end": True},
        len(" Then we"),
    )
    assert trimmed["1"] == ({"role": "assistant", "content": rows()[1]["response"]}, None)
    assert trimmed["3"][0]["content"].endswith("</think>\n\nWe climbed the steep hill behind our green house at dawn.")
    report = json.loads((tmp_path / "trim" / "report.json").read_text())
    too_short, asking = report["left_out"]
    assert too_short["reason"] == "answer cut off before its first 8 words were complete"
    assert too_short["rows"] == ["2: Yes, we did. And there was a long, long"]
    assert asking["reason"] == "questions instead of an answer"
    (changed,) = report["changed"]
    assert sorted(changed["rows"]) == ["0: And a? (8 characters)", "3: And d? (3 characters)"]
    assert "## Changed: answer cut off" in (tmp_path / "trim" / "report.md").read_text()

    card = make_salience_dataset(tmp_path / "drop", [buffer], filters=Filters(cut="drop"))
    assert answers(tmp_path / "drop").keys() == {"1"}
    assert "changed" not in card["report"]

    for filters in (Filters(cut="keep"), Filters(skip=frozenset({"cut"}))):
        out = tmp_path / f"keep{len(filters.skip)}"
        card = make_salience_dataset(out, [buffer], filters=filters)
        assert card["cut"] == "keep"
        assert answers(out).keys() == {"0", "1", "2", "3"}
        assert all("open_end" not in message for message, _ in answers(out).values())


def test_the_command_drops_what_is_cut(command, tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(rows()))
    done = command("data", "salience", "--buffer", "b.json", "--out", "d", "--cut", "drop", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["counts"]["examples"] == 1
    done = command("data", "salience", "--buffer", "b.json", "--out", "e", cwd=tmp_path)
    assert "2 × answer cut off in the middle of a sentence: trimmed" in done.stdout


# file -> examples before trimming and with evidence of two kinds, and after; think_blocks has no more that are sound
KEPT = {
    "first_two": (1, 2),
    "twenty_four": (7, 21),
    "before_removal": (12, 77),
    "after_removal": (22, 77),
    "think_blocks": (8, 9),
}


@pytest.mark.parametrize("name", KEPT)
def test_real_buffers_keep_twice_what_they_kept(name, realdata, tmp_path):
    path = realdata / "salience" / f"{name}.json"
    card = make_salience_dataset(tmp_path / "d", [path])
    before, after = KEPT[name]
    assert card["counts"]["examples"] == after
    assert after >= 2 * before or after == sum("</think>" in r or "<think>" not in r for r in responses(path))
    kept = answers(tmp_path / "d")
    assert all(message["content"][-1] in '*.!?")…' for message, trimmed in kept.values() if trimmed)


def responses(path):
    return [e["response"] for e in read_buffer(path)]


def test_buffers_that_held_nothing_hold_nothing(realdata, tmp_path):
    for name, reason in (("dialect_exchanges.jsonl", "salience below 0.5"), ("dict_top_level.json", "no experiences")):
        with pytest.raises(UserError, match=reason):
            make_salience_dataset(tmp_path / "d", [realdata / "salience" / name])
