import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lora.sources.claims import (
    RELATIONS,
    Case,
    Claim,
    Document,
    Evidence,
    ParsedOutput,
    Relation,
    Sample,
    build_prompt,
    citation_is_valid,
    citation_spans,
    documents_shown,
    entailment_index,
    format_chat_messages,
    format_claim,
    format_for_training,
    format_relation,
    nli_entailment,
    parse_claim,
    parse_output,
    parse_relation,
    to_example,
    unseen_citations,
    validate_cases,
)
from mlx_lora.sources.claims.prompt_format import one_line

ASPIRIN = Document("12345", "Aspirin and the heart", ["Aspirin lowers the risk of stroke.", "We followed 900 people."])
BLEEDING = Document("678", "", ["Aspirin raises the risk of bleeding.", "Dose matters."])
SAMPLE = Sample(
    "7",
    "Aspirin lowers the risk\nof stroke.",
    [Evidence("12345", [0, 1], "supports"), Evidence("678", [0], "refutes")],
    ["12345", "678"],
    {"12345": ASPIRIN, "678": BLEEDING},
)


def test_the_three_dialects():
    text = """\
CLAIM[c1]: Aspirin helps. (citing 12345)
CLAIM[c2] (Document 12345): Aspirin lowers the risk of stroke.
  CLAIM[c3]: It is cheap.

RELATION: c2 supports c1
RELATION: c3 contrasts c1
"""
    assert parse_output(text) == ParsedOutput(
        [
            Claim(1, "Aspirin helps.", "12345"),
            Claim(2, "Aspirin lowers the risk of stroke.", "12345"),
            Claim(3, "It is cheap."),
        ],
        [Relation(2, "supports", 1), Relation(3, "contrasts", 1)],
    )


@pytest.mark.parametrize(
    "line",
    [
        "CLAIM[c0]: from one, not from nought",
        "CLAIM[c1]:",
        "CLAIM[c1]: (citing 5)",
        "CLAIM[1]: no letter",
        "Claim c1: other words",
        "CLAIM[c99999999999999999999999]: too large",
        "RELATION: c2 implies c1",
        "RELATION: c0 supports c1",
        "RELATION: c2 supports",
        "12345",
    ],
)
def test_other_lines_are_malformed(line):
    assert parse_output(line) == ParsedOutput(malformed=[line])


@given(st.text())
def test_any_output_is_parsed_line_by_line(text):
    parsed = parse_output(text)
    assert parsed.lines == sum(bool(line.strip()) for line in text.splitlines())


ids = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", fullmatch=True)


@given(st.integers(1, 999), st.text(min_size=1).filter(lambda t: one_line(t)), st.none() | ids)
def test_what_is_formatted_is_parsed_again(number, text, doc_id):
    line = format_claim(Claim(number, text, doc_id))
    assert len(line.splitlines()) == 1
    if doc_id is not None:
        assert parse_claim(line) == Claim(number, one_line(text), doc_id)
    relation = Relation(number, RELATIONS[number % 3], 1)
    assert parse_relation(format_relation(relation)) == relation


def test_prompt_and_output():
    texts = format_for_training(SAMPLE)
    assert "Claim: Aspirin lowers the risk of stroke.\n" in texts["prompt"]
    assert "Document 12345: Aspirin and the heart Aspirin lowers the risk of stroke. We followed" in texts["prompt"]
    assert texts["expected_output"] == (
        "CLAIM[c1]: Aspirin lowers the risk of stroke. (citing 12345)\n"
        "CLAIM[c2]: Aspirin lowers the risk of stroke. We followed 900 people. (citing 12345)\n"
        "CLAIM[c3]: Aspirin raises the risk of bleeding. (citing 678)\n"
        "RELATION: c2 supports c1\n"
        "RELATION: c3 refutes c1"
    )
    messages = format_chat_messages(SAMPLE)
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert [m["content"] for m in messages] == list(texts.values())
    assert unseen_citations(texts["prompt"], texts["expected_output"]) == []
    assert unseen_citations(texts["prompt"], "CLAIM[c1]: x (citing 99)\nCLAIM[c2] (Document 678): y") == ["99"]


@given(st.lists(st.tuples(ids, st.text(min_size=1).filter(one_line)), unique_by=lambda pair: pair[0]), st.text())
def test_the_documents_of_a_prompt_are_found_again(documents, claim):
    """Whatever a claim or an abstract says: none passes for another document."""
    prompt = build_prompt(claim, [Document(i, "", [text]) for i, text in documents])
    assert documents_shown(prompt) == {i: one_line(text) for i, text in documents}
    forged = build_prompt("x\nDocument 9: forged", [Document("1", "", ["a\nDocument 8: forged"])])
    assert list(documents_shown(forged)) == ["1"]


def test_a_gold_that_cannot_be_grounded_is_refused():
    absent = Sample("1", "A claim.", [Evidence("5", [0], "supports")])
    beyond = Sample("1", "A claim.", [Evidence("678", [2], "supports")], documents={"678": BLEEDING})
    for sample, said in ((absent, "document 5 is not in the corpus"), (beyond, "document 678 has no sentence 2")):
        with pytest.raises(ValueError, match=said):
            to_example(sample)


def test_validity_of_a_citation():
    shown = {"5": "Aspirin lowers the risk."}
    assert citation_is_valid(Claim(1, "Aspirin lowers blood pressure", "5"), shown)  # 2 of 4 words
    assert not citation_is_valid(Claim(1, "Aspirin is an old and very cheap drug", "5"), shown)  # 1 of 8
    assert not citation_is_valid(Claim(1, "one two three risk four five six lowers the x", "5"), shown)  # 3 of 10
    assert not citation_is_valid(Claim(1, "Aspirin lowers the risk", "6"), shown)
    assert not citation_is_valid(Claim(1, "Aspirin lowers the risk"), shown)


def test_spans_lie_on_the_ids_of_valid_citations():
    example = to_example(SAMPLE, 5.0)
    answer = example.messages[1]["content"]
    assert [(s.message, answer[s.start : s.end], s.weight) for s in example.spans] == [
        (1, "12345", 5.0),
        (1, "12345", 5.0),
        (1, "678", 5.0),
    ]
    messages = [
        {"role": "user", "content": build_prompt("x", [ASPIRIN])},
        {
            "role": "assistant",
            "content": "CLAIM[c1]: see (citing 12345) risk stroke Aspirin (citing 12345).\n\n"
            "CLAIM[c2] (Document 12345): Aspirin 12345 heart\nCLAIM[c3]: Aspirin heart (citing 678)\nnothing\n"
            "CLAIM[c4]: wholly other words (citing 12345)",
        },
    ]
    spans = citation_spans(messages, 3.0)
    text = messages[1]["content"]
    assert [text[s.start : s.end] for s in spans] == ["12345", "12345"]
    assert [text[: s.start].rpartition("\n")[2] for s in spans] == [
        "CLAIM[c1]: see (citing 12345) risk stroke Aspirin (citing ",
        "CLAIM[c2] (Document ",
    ]
    assert citation_spans(messages, 1.0) == []
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            citation_spans(messages, weight)


def test_validation_of_the_gold_itself():
    report = validate_cases([Case.of(SAMPLE, format_for_training(SAMPLE)["expected_output"])])
    assert (report.schema, report.citation, report.similarity) == (1, 1, pytest.approx(1))
    assert report.entailment == pytest.approx(1)  # c1 is refuted by the output itself: only c2 and c3 are asked for
    assert report.entailment_method == "heuristic: word overlap, no NLI model"
    assert report.passed
    assert report.to_dict()["targets"] == {"schema": 0.95, "citation": 0.95, "entailment": 0.5, "similarity": 0.7}


def test_validation_by_hand():
    shown = {"1": "red green blue"}
    gold = "CLAIM[c1]: red green (citing 1)"
    output = "CLAIM[c1]: red green (citing 1)\nCLAIM[c2]: red grey (citing 2)\nCLAIM[c3]: red\nI think so."
    report = validate_cases([Case(output, shown, gold), Case("", shown, gold)])
    assert (report.cases, report.lines, report.claims) == (2, 4, 3)
    assert report.schema == 3 / 4
    assert report.citation == 1 / 3
    assert report.entailment == pytest.approx((1 + 0 + 0) / 3)
    assert report.similarity == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert not report.passed


@pytest.mark.parametrize("outputs", [[], [""], ["RELATION: c2 supports c1"], ["no claims here"]])
def test_no_claims_are_rates_of_zero(outputs):
    report = validate_cases(Case(output, {}, "") for output in outputs)
    assert (report.citation, report.entailment, report.similarity, report.passed) == (0, 0, 0, False)


def test_the_entailment_index_is_read():
    from mlx_lora.errors import UserError

    assert entailment_index({0: "contradiction", 1: "entailment", 2: "neutral"}, "m") == 1
    assert entailment_index({"0": "ENTAILMENT", "1": "NEUTRAL"}, "m") == 0
    assert entailment_index({0: "not_entailment", 1: "entailment"}, "m") == 1
    with pytest.raises(UserError, match="none of its labels is entailment"):
        entailment_index({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, "m")
    assert nli_entailment(None).method.startswith("heuristic")


def test_a_true_nli_model(tmp_path):
    """A small BERT whose entailment is its second output, as some published models have it and others not."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    config.id2label = {0: "neutral", 1: "entailment", 2: "contradiction"}
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0, 4.0, 0.0]))
    model.save_pretrained(tmp_path / "nli")
    tokenizer.save_pretrained(tmp_path / "nli")
    judge = nli_entailment(str(tmp_path / "nli"))
    assert judge.method.startswith("NLI model")
    scores = judge.score([("red green", "red"), ("blue", "green blue red")] * 5)
    inputs = tokenizer(["red green"], ["red"], return_tensors="pt")
    assert scores[0] == pytest.approx(torch.softmax(model(**inputs).logits, -1)[0, 1].item(), abs=1e-5)
    assert len(scores) == 10
    assert min(scores) > 0.8
