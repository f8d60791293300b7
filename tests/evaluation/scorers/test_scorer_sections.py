import pytest

SEED = (
    "## Objective\nGoal.\n\n## Plan\nA.\n## Do\nB.\n## Check\nC.\n## Act\nD.\n\n"
    "PRECEDES: [next](b.md)\nFOLLOWS: [last](a.md)\n"
)
V3 = (
    "# 📋 **PDCA Cycle: X**\n## **📋 PLAN**\nA.\n## **🔧 DO**\n```bash\nls\n```\n"
    "## **✅ CHECK**\nC.\n## **🎯 ACT**\nD.\n[GitHub](https://h/a) | [§/a.md](./a.md)\n"
)
FULL = {"substance": True, "dual_links": True}
TRON = {"sections": {"all": ["Trigger", "Response", "Outcome", "Next"], "order": True}}


def test_profiles(judge):
    assert judge({"sections": None}, SEED).passed
    assert judge({"sections": FULL}, SEED).passed
    assert not judge({"sections": None}, V3).passed
    assert judge({"sections": FULL}, V3, profile="template_v3").passed
    assert not judge({"sections": None}, SEED, profile="template_v3").passed
    for text in (
        SEED,
        V3,
        V3.lower().replace("📋 plan", "1. plan phase"),
        "# Plan\n**Do:**\n### C - Check\n#### ⚡ ACT\n",
    ):
        assert judge({"sections": {"profile": "relaxed"}}, text).passed, text
    assert judge({"sections": {"profile": "relaxed"}}, SEED.replace("## Do", "## Done")).reason == (
        "the answer lacks '## Do' (profile relaxed)"
    )
    # The profile that a user asks for comes before the suite's.
    assert judge({"sections": {"profile": "seed"}}, V3, profile="relaxed").passed


def test_headings_are_headings(judge):
    """Neither a deeper heading, a longer word, nor a heading within a code block is the section."""
    for wrong in ("### Plan", "## Planning", "The ## Plan", "```\n## Plan\n```"):
        assert "lacks '## Plan'" in judge({"sections": None}, SEED.replace("## Plan", wrong)).reason, wrong
    assert judge({"sections": None}, f"```markdown\n{SEED}```").passed
    assert judge({"sections": None}, SEED.replace("## Do", "```\n## Do")).passed  # a fence that is never closed
    assert judge({"sections": None}, SEED.replace("FOLLOWS", "follows")).reason == (
        "the answer lacks 'FOLLOWS:' (profile seed)"
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("A.", "{{PLAN_TEXT}}", "line 5 still has the placeholder {{PLAN_TEXT}}"),
        ("A.", "Text\n{{#each DO_ACTIONS}}", "line 6 still has the placeholder {{#each DO_ACTIONS}}"),
        ("A.", "Use `{{TITLE}}` and ${{ GITHUB_SHA }}.", ""),
        ("A.", "", "the section '## Plan' is empty"),
        ("A.", "### Steps\n---\n", "the section '## Plan' is empty"),
        ("A.", "TBD", "the section '## Plan' is empty"),
        ("A.", "## Notes\ntext", "the section '## Plan' is empty"),
        ("A.", "### Steps\n- one", ""),
        ("A.", "```\nmake\n```", ""),
        ("D.", "", "the section '## Act' is empty"),
        ("[next](b.md)", "", "the link 'PRECEDES:' is missing or empty"),
        ("[next](b.md)", "[]()", "the link 'PRECEDES:' is missing or empty"),
        (
            "[next](b.md)",
            "{{NEXT}}",
            "line 13 still has the placeholder {{NEXT}}; the link 'PRECEDES:' is missing or empty",
        ),
        ("[next](b.md)", "none yet, this is the last", ""),
        (": [next](b.md)", ":\n- [next](b.md)", ""),
        ("PRECEDES: [next](b.md)\n", "PRECEDES: b.md, ", ""),
        ("PRECEDES: [next](b.md)\n", "PRECEDES: ", "the link 'PRECEDES:' is missing or empty"),
    ],
)
def test_substance_and_links(judge, old, new, reason):
    assert old in SEED
    assert judge({"sections": FULL}, SEED.replace(old, new)).reason == reason


def test_dual_links_of_the_template(judge):
    check = {"sections": {"profile": "template_v3", "dual_links": True}}
    assert judge(check, V3.replace("[§/a.md](./a.md)", "a.md")).passed
    assert judge(check, V3.replace("./a.md", ".")).passed
    assert "has an empty half" in judge(check, V3.replace("https://h/a", "{{GITHUB_URL}}")).reason
    assert "has an empty half" in judge(check, V3.replace("./a.md", "")).reason
    assert "no dual link" in judge(check, V3.replace("[GitHub](https://h/a) | ", "")).reason


def test_order(judge):
    bold = "**Trigger:** a\n**Response:** b\n**Outcome:** c\n**Next:** d"
    for text in (
        bold,
        bold.replace("**Trigger:**", "**[T]rigger:**").replace("**Next:**", "**[N]ext:**"),
        bold.replace("**", ""),
        bold.replace("**", "").replace("Response", "- **R**esponse"),
        "### Trigger\na\n### 📌 Response\nb\n### Outcome\nc\n### Next\nd",
        bold.lower(),
        bold + "\n**Trigger:** again",
    ):
        assert judge(TRON, text).passed, text
    assert judge(TRON, "**Response:** b\n**Trigger:** a\n**Outcome:** c\n**Next:** d").reason == (
        "'Response' does not come after 'Trigger'"
    )
    assert judge(TRON, bold.replace("**Next:** d", "Next, we go.")).reason.startswith("the answer lacks 'Next'")
    assert judge(TRON, bold.replace("**Trigger:**", "**Triggered:**")).metrics == {"found": 0.75}
    filled = {"sections": {**TRON["sections"], "substance": True}}
    assert judge(filled, bold).passed
    assert judge(filled, bold.replace("**Outcome:** c", "**Outcome:**")).reason == "the section 'Outcome' is empty"


# Of the 40 documents, two use plain headings, one has no ACT and one neither CHECK nor ACT. One links to files only,
# since its GitHub links could not be verified; one has no link at all.
@pytest.mark.parametrize(
    ("profile", "pdca_schema", "pdca_template"),
    [("seed", 0, 0), ("template_v3", 36, 35), ("relaxed", 38, 37)],
)
def test_real_documents(judge, realdata, profile, pdca_schema, pdca_template):
    texts = [file.read_text(encoding="utf-8") for file in sorted((realdata / "pdca").iterdir())]
    assert len(texts) == 40
    names = ["## Objective", "## Plan", "## Do", "## Check", "## Act", "PRECEDES:", "FOLLOWS:"]
    assert sum(judge({"sections": {"all": names}}, text, profile).passed for text in texts) == pdca_schema
    assert sum(judge({"sections": FULL}, text, profile).passed for text in texts) == pdca_template
    ordered = {"sections": {"all": names[1:5], "order": True}}
    assert sum(judge(ordered, text, profile).passed for text in texts) == max(pdca_schema, 2)


def test_the_template_itself_has_its_headings_and_no_substance(judge, realdata):
    text = (realdata / "pdca_template_v3.md").read_text(encoding="utf-8")
    assert judge({"sections": None}, text, "template_v3").passed
    assert "placeholder {{TITLE}}" in judge({"sections": FULL}, text, "template_v3").reason
