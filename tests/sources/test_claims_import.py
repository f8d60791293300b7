import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lora.data.dataset import SPLITS, read_split
from mlx_lora.data.import_report import ImportReport
from mlx_lora.data.split import split_by_key
from mlx_lora.errors import UserError
from mlx_lora.sources.claims import (
    SciFact,
    make_claims_dataset,
    parse_output,
    read_claims,
    read_corpus,
    shared_documents,
    unseen_citations,
)
from mlx_lora.sources.claims.dataset import DUPLICATE, NO_EVIDENCE, QUARANTINED
from mlx_lora.sources.claims.scifact import MALFORMED


def claim(number, doc_id, label="SUPPORT", sentences=(0,)):
    evidence = {} if doc_id is None else {str(doc_id): [{"sentences": list(sentences), "label": label}]}
    return {"id": number, "claim": f"Drug {number} lowers risk.", "evidence": evidence, "cited_doc_ids": []}


def document(doc_id, text=None):
    text = text or f"We show that drug {doc_id} lowers risk."
    return {"doc_id": doc_id, "title": f"Study {doc_id}", "abstract": [text], "structured": False}


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def store(tmp_path):
    """Write a claims file and a corpus; returns their paths and the place of a dataset."""

    def make(claims, corpus):
        return {
            "claims": [write(tmp_path / "claims.jsonl", claims)],
            "corpus": [write(tmp_path / "corpus.jsonl", corpus)],
            "out": tmp_path / "out",
        }

    return make


def test_scifact_counts(realdata, tmp_path):
    for split in ("train", "dev"):
        os.symlink(realdata / f"claims/scifact_claims_{split}.jsonl", tmp_path / f"claims_{split}.jsonl")
    train, dev = (SciFact.load(split, directory=tmp_path) for split in ("train", "dev"))
    assert (len(train), sum(bool(s.evidence) for s in train)) == (809, 505)
    assert (len(dev), len({i for s in dev for i in s.evidence_ids})) == (300, 182)
    assert len(shared_documents(train, dev)) == 110
    assert train[1].evidence[0].relation == "refutes"
    assert [s.id for s in SciFact.load("train", 3, directory=realdata / "claims")] == ["0", "2", "4"]
    with pytest.raises(UserError, match=r"there is no claims_test\.jsonl"):
        SciFact.load("test", directory=tmp_path)


def test_citint_with_its_corpus(realdata, tmp_path):
    folder = realdata / "claims"
    card, report = make_claims_dataset(
        tmp_path / "out", claims=[folder / "citint_claims_dev.jsonl"], corpus=[folder / "citint_corpus_dev.jsonl"]
    )
    assert card["documents"] == 316
    assert (report.read, report.kept, report.counts) == (316, 292, {NO_EVIDENCE: 24})
    assert card["weighted_citations"] == 563
    assert "The answers themselves: schema 1.000, valid citations 0.964." in report.notes
    examples = [e for split in SPLITS for e in read_split(tmp_path / "out", split)]
    assert len(examples) == 292
    for example in examples:
        prompt, answer = (message["content"] for message in example.messages)
        assert unseen_citations(prompt, answer) == []
        assert all(answer[s.start : s.end] in example.meta["documents"] for s in example.spans)


def test_claims_without_their_corpus_are_quarantined_by_name(realdata, tmp_path):
    folder = realdata / "claims"
    given = {"claims": [folder / "scifact_claims_dev.jsonl"], "corpus": [folder / "citint_corpus_dev.jsonl"]}
    with pytest.raises(UserError, match=rf"not one example .*112 × claim without.*188 × {QUARANTINED}"):
        make_claims_dataset(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_counted_and_named(store):
    rows = [
        claim(1, 1),
        claim(2, 2, "CONTRADICT"),
        claim(3, None),
        claim(4, 99),
        claim(5, 1, sentences=[3]),
        {**claim(1, 1), "id": 77},
        {"id": 6},
        {**claim(7, 1), "evidence": []},
        {**claim(8, 1), "evidence": {"1": {"sentences": [0], "label": "SUPPORT"}}},
        claim(9, 1, sentences=[]),
        claim(10, 1, sentences=[-1]),
        claim(11, 1, sentences=[True]),
        {**claim(12, 1), "id": None},
        {**claim(13, 1), "cited_doc_ids": 5},
        {**claim(14, 1), "claim": ["a"]},
        "[1, 2]",
        '{"id": 15, "claim": "half',
        "",
        '{"id": 16, "claim": "\\ud800", "evidence": {}}',
        '{"id": 17, "claim": "x", "evidence": {}, "score": 1e999}',
    ]
    corpus = [document(1), document(2), document(2), {"doc_id": 3}, {"doc_id": [4]}, {**document(5), "title": 8}]
    paths = store(rows, corpus)
    card, report = make_claims_dataset(**paths)
    assert card["documents"] == 2
    assert report.read == 19
    assert report.kept == 2
    assert report.counts == {
        MALFORMED: 9,
        "line that is not a JSON object": 1,
        "line that is not JSON": 1,
        "line with half a character (a lone surrogate) or a number that is not finite": 2,
        NO_EVIDENCE: 1,
        QUARANTINED: 2,
        DUPLICATE: 1,
    }
    named = report.left_out[QUARANTINED]
    assert named[0].endswith("claims.jsonl, line 4: claim 4: document 99 is not in the corpus")
    assert named[1].endswith("claims.jsonl, line 5: claim 5: document 1 has no sentence 3")
    assert any("3 documents of the corpus were left out" in note for note in report.notes)
    assert json.loads((paths["out"] / "report.json").read_text())["kept"] == 2
    assert "document 99 is not in the corpus" in (paths["out"] / "report.md").read_text()
    strict = write(paths["out"].parent / "strict" / "claims_x.jsonl", rows)
    with pytest.raises(UserError, match=r"claims_x.jsonl, line 7: claim must be text; correct or remove the line"):
        SciFact.load("x", directory=strict.parent)
    assert len(SciFact.load("x", 6, directory=strict.parent)) == 6


@pytest.mark.parametrize("label", ["NOT_ENOUGH_INFO", "support", "", None, 1, ["SUPPORT"]])
def test_an_unknown_label_is_an_error(store, label):
    with pytest.raises(UserError, match=r"claims.jsonl, line 2: the evidence label .* is unknown; .*CONTRADICT"):
        make_claims_dataset(**store([claim(1, 1), claim(2, 1, label)], [document(1)]))


def test_one_id_for_two_documents_is_an_error(store, tmp_path):
    paths = store([claim(1, 1)], [document(1), document(1, "Another text.")])
    with pytest.raises(UserError, match=r"corpus.jsonl, line 2: document 1 occurs before with another text"):
        make_claims_dataset(**paths)
    one, two = (write(tmp_path / f"{i}.jsonl", [document(1, f"Text {i}.")]) for i in range(2))
    with pytest.raises(UserError, match="another text in the corpus before"):
        make_claims_dataset(**{**paths, "corpus": [one, two]})


def test_no_document_is_in_two_splits(store):
    """Chains of shared documents, and one text under two ids, stay together; the rest is spread."""
    chained = [claim(i, i) for i in range(40)]
    for i in range(0, 38, 2):
        chained[i]["evidence"][str(i + 2)] = [{"sentences": [0], "label": "SUPPORT"}]
    twins = [claim(100 + i, 100 + i) for i in range(30)]
    rows = chained + twins + [claim(200 + i, 200 + i) for i in range(60)]
    corpus = [document(i) for i in (*range(40), *range(200, 260))]
    corpus += [{**document(100 + i, "The same text."), "title": "Same"} for i in range(30)]
    paths = store(rows, corpus)
    make_claims_dataset(**paths)
    where = {}
    for split in SPLITS:
        for example in read_split(paths["out"], split):
            for doc_id in example.meta["documents"]:
                where.setdefault(doc_id, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert len({next(iter(where[str(i)])) for i in range(0, 40, 2)}) == 1
    assert len({next(iter(where[str(100 + i)])) for i in range(30)}) == 1
    assert {next(iter(splits)) for splits in where.values()} == set(SPLITS)


def test_the_leak_between_files_is_noted(store, tmp_path):
    paths = store([claim(1, 1), claim(2, 2)], [document(i) for i in range(5)])
    dev = write(tmp_path / "dev.jsonl", [claim(3, 2), claim(4, 3)])
    _, report = make_claims_dataset(**{**paths, "claims": [*paths["claims"], dev]})
    assert any(note.startswith("1 of the 2 evidence documents of") for note in report.notes)
    assert report.kept == 4


def test_the_report_says_what_the_weight_touched(store):
    held = next(i for i in range(99) if split_by_key([None], lambda _: str(i))["test"])  # noqa: B023
    paths = store([claim(1, held)], [document(held, "Wholly other words.")])
    card, report = make_claims_dataset(**{**paths, "citation_validity_weight": 3})
    assert card["weighted_citations"] == 1  # the sentence itself is in its document
    assert any("3 is on 1 of 2 document ids" in note for note in report.notes)
    assert any("all examples are in train" in note for note in report.notes)
    _, report = make_claims_dataset(**{**paths, "out": f"{paths['out']}1", "citation_validity_weight": 1})
    assert any("citation_validity_weight is 1" in note for note in report.notes)


def test_files_of_any_kind(store, tmp_path, refused):
    paths = store([claim(1, 1)], [document(1)])
    claims, corpus = paths["claims"][0], paths["corpus"][0]
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "absent", "there is no such file"),
        (tmp_path, "this is not a file"),
        (tmp_path / "pipe", "this is not a file"),
        (tmp_path / "a", "cannot be read"),
    ):
        with pytest.raises(UserError, match=said) as error:
            make_claims_dataset(tmp_path / "out", claims=[path], corpus=[corpus])
        assert "\n" not in str(error.value)
    empty = write(tmp_path / "empty.jsonl", [])
    assert "the files are empty" in refused("data", "claims", "--claims", empty, "--corpus", corpus, "--out", "x")
    assert "label" in refused(
        *("data", "claims", "--claims", write(tmp_path / "l.jsonl", [claim(1, 1, "MAYBE")])),
        *("--corpus", corpus, "--out", tmp_path / "x"),
    )
    # Invalid UTF-8, a 10 MB line, a byte-order mark, nesting without end, a number without end.
    rows = [
        b"\xef\xbb\xbf" + json.dumps(claim(1, 1)).encode(),
        b"\xff\xfe\x00",
        json.dumps({**claim(2, 1), "claim": "long" * 2_500_000}).encode(),
        b"[" * 100_000,
        b'{"id": ' + b"9" * 10_000 + b"}",
        b'{"a":' * 50_000,
    ]
    claims.write_bytes(b"\n".join(rows))
    _, report = make_claims_dataset(**paths)
    assert report.read == 6
    assert report.kept == 2
    assert report.counts == {"line that is not UTF-8": 1, "line that is not JSON": 3}


def test_a_line_without_end_is_passed_over(tmp_path, monkeypatch):
    from mlx_lora.data import jsonl

    monkeypatch.setattr(jsonl, "LONGEST_LINE", 1000)
    path = write(tmp_path / "c.jsonl", [document(1), json.dumps(document(2, "x" * 5000)), document(3)])
    report = ImportReport("corpus")
    assert list(read_corpus(path, report)) == ["1", "3"]
    assert list(report.left_out.values()) == [[f"{path}, line 2"]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
doc_ids = st.sampled_from(["1", "2", "3"]) | st.text(max_size=3)
evidence_rows = st.fixed_dictionaries(
    {
        "sentences": st.lists(st.integers(0, 2), max_size=2) | json_values,
        "label": st.sampled_from(["SUPPORT", "REFUTE"]),
    }
)
claim_rows = st.fixed_dictionaries(
    {
        "id": st.integers() | json_values,
        "claim": st.text() | json_values,
        "evidence": st.dictionaries(doc_ids, st.lists(evidence_rows, max_size=2), max_size=2) | json_values,
        "cited_doc_ids": st.lists(st.integers(), max_size=2) | json_values,
    }
)
document_rows = st.fixed_dictionaries(
    {
        "doc_id": st.sampled_from([1, 2, "3"]) | json_values,
        "title": st.text() | json_values,
        "abstract": st.lists(st.text(), max_size=3) | json_values,
    }
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(claim_rows.map(json.dumps) | json_values.map(json.dumps) | st.text(), max_size=5),
    st.lists(document_rows.map(json.dumps) | st.binary(), max_size=4),
)
def test_any_store_gives_a_sentence_or_a_full_account(tmp_path, claims, corpus):
    paths = {"claims": [tmp_path / "c"], "corpus": [tmp_path / "d"]}
    paths["claims"][0].write_bytes("\n".join(claims).encode("utf-8", "surrogatepass"))
    paths["corpus"][0].write_bytes(b"\n".join(d if isinstance(d, bytes) else d.encode() for d in corpus))
    out = tmp_path / os.urandom(8).hex()
    try:
        _, report = make_claims_dataset(out, **paths)
    except UserError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert not out.exists()
        return
    assert report.read == report.kept + sum(report.counts.values())
    examples = [e for split in SPLITS for e in read_split(out, split)]
    assert len(examples) == report.kept
    for example in examples:
        assert parse_output(example.messages[1]["content"]).malformed == []
        assert unseen_citations(example.messages[0]["content"], example.messages[1]["content"]) == []


def test_the_command(store, command, tmp_path):
    paths = store([*(claim(i, i) for i in range(30)), claim(50, None)], [document(i) for i in range(30)])
    arguments = ["data", "claims", "--claims", paths["claims"][0], "--corpus", paths["corpus"][0]]
    done = command(*arguments, "--out", paths["out"], "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["report"]["left_out"][0]["count"] == 1
    assert sum(printed["splits"].values()) == 30
    assert printed["citation_validity_weight"] == 5.0
    shown = command(*arguments, "--out", tmp_path / "again", "--citation-validity-weight", "2")
    assert "30 examples of 31 rows" in shown.stdout
    assert "this exists already" in command(*arguments, "--out", paths["out"]).stderr
    for weight in ("0", "nan", "-3", "much"):
        assert command(*arguments, "--out", tmp_path / "w", "--citation-validity-weight", weight).returncode == 2


def test_read_claims_streams(store):
    paths = store([claim(1, 1), claim(2, 1, "WRONG")], [document(1)])
    rows = read_claims(paths["claims"][0], {}, ImportReport("claims"))
    assert next(rows).id == "1"


def test_markers_are_counted_and_can_be_stripped(store, command):
    marked = {**claim(1, 1), "claim": "Drug 1 lowers risk [<|cit|>]."}
    other = {**claim(2, 2), "claim": "<|cit|>"}
    files = store(
        [marked, other, claim(3, 3)], [document(1, "Drug 1 lowers risk<|multi_cit|>."), document(2), document(3)]
    )
    _, report = make_claims_dataset(**files)
    (note,) = [note for note in report.notes if "control tokens" in note]
    assert note.startswith("2 examples, 2 of them in their answers, hold text in the form of control tokens")
    assert "(<|cit|> 4, <|multi_cit|> 2)" in note
    out = files["out"].with_name("stripped")
    options = ("--claims", files["claims"][0], "--corpus", files["corpus"][0], "--out", out, "--strip", "--json")
    report = json.loads(command("data", "claims", *options).stdout)["report"]
    assert "Control tokens were taken out of 3 claims and documents, which report.md names." in report["notes"]
    (changed,) = report["changed"]
    assert changed["count"] == 3
    assert "document 1: <|multi_cit|>" in changed["examples"]
    assert [row["reason"] for row in report["left_out"]] == ["claim that is nothing but control tokens"]
    examples = [example for split in SPLITS for example in read_split(out, split)]
    assert len(examples) == 2
    assert "CLAIM[c1]: Drug 1 lowers risk. (citing 1)" in "".join(e.messages[1]["content"] for e in examples)
    assert "<|" not in json.dumps([example.messages for example in examples])
    weighted = [e.messages[span.message]["content"][span.start : span.end] for e in examples for span in e.spans]
    assert sorted(weighted) == ["1", "1", "3", "3"]


def test_the_real_markers(realdata, tmp_path):
    """Every claim of the citint set holds a marker: all 292 that have evidence."""
    files = {
        "claims": [realdata / "claims" / "citint_claims_dev.jsonl"],
        "corpus": [realdata / "claims" / "citint_corpus_dev.jsonl"],
    }
    _, report = make_claims_dataset(tmp_path / "as_they_are", **files)
    said = "292 examples, 292 of them in their answers, hold text in the form of control tokens (<|other_cit|> 466, "
    assert [note for note in report.notes if said in note]
    _, report = make_claims_dataset(tmp_path / "stripped", **files, strip=True)
    assert (report.kept, [len(names) for names in report.changed.values()]) == (292, [316])
    text = "".join((tmp_path / "stripped" / f"{split}.jsonl").read_text() for split in SPLITS)
    assert "cit|>" not in text
