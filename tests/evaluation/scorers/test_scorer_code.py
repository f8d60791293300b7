from collections import Counter

import pytest

GOOD = """class A extends B {
  x: C;
  constructor() {
    super(1); // base
  }
  init(x: C): this { this.x = x; return this; }
}
"""
RULE = {"code": {"language": "typescript", "rule": "empty_constructor"}}


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("super(1); // base", "", ""),
        ("constructor() {\n    super(1); // base\n  }\n", "", ""),
        (
            "super(1);",
            "super(1); this.x = null;",
            "class A (line 1): its constructor does more than super(...): line 4",
        ),
        ("super(1);", "super.init();", "class A (line 1): its constructor does more than super(...): line 4"),
        ("super(1);", "super(1); super(2);", "class A (line 1): its constructor calls super(...) more than once"),
        (
            "constructor()",
            "constructor(private readonly x: C)",
            "class A (line 1): its constructor has the parameter property 'private readonly x: C'",
        ),
        ("constructor()", "private constructor(x?: C)", ""),
        ("init(x", "setup(x", "class A (line 1): it has no init() that holds the set-up"),
        ("init(x", "static init(x", "class A (line 1): it has no init() that holds the set-up"),
        ("this.x = x; return this;", " /* nothing */ ", "class A (line 1): its init() is empty"),
        ("init(x: C): this { this.x = x; return this; }", "init = async (x: C) => { this.x = x; };", ""),
        ("class A", "export default abstract class A", ""),
        ("class A", "const A = class", "class without a name (line 1): its constructor does more"),
        (
            "class A extends B",
            "class D {}\nclass A extends B",
            "class D (line 1): it has no init() that holds the set-up",
        ),
        ("class A extends B", "class E extends A { constructor() { super(); } }\nclass A extends B", ""),
        ("class A extends B", "interface A", "does not parse"),
    ],
)
def test_the_empty_constructor(judge, old, new, wrong):
    assert old in GOOD
    code = GOOD.replace(old, new, 1)
    if wrong.startswith("class without"):
        code = code.replace("super(1);", "f();")
    reason = judge(RULE, f"Here:\n```typescript\n{code}```\nDone.").reason
    assert (reason == "") if not wrong else wrong in reason


def test_a_cycle_of_parents_ends(judge):
    assert not judge(RULE, "class A extends B {}\nclass B extends A {}").passed


def test_which_text_is_the_code(judge):
    assert judge(RULE, GOOD).passed
    assert judge(RULE, f"```json\n{{}}\n```\n```ts\n{GOOD}").passed  # cut off before its fence
    assert judge(RULE, f"```\n{GOOD}```").passed
    assert judge(RULE, "```python\nx = 1\n```").reason == "the answer holds no typescript code"
    assert judge(RULE, "```ts\nconst x = 1;\n```").reason == "the code has no class"
    assert judge(RULE, "").reason == "the answer holds no typescript code"


@pytest.mark.parametrize(
    ("language", "text", "parses"),
    [
        ("typescript", "const a = <div className='x'>{b}</div>;", True),
        ("typescript", "const a = <T>b;", True),
        ("typescript", "class A {\n  f( { }\n}", False),
        ("typescript", "Here is the class you want.", False),
        ("typescript", "{" * 50_000, False),
        ("python", "def f(x: int) -> int:\n    return x\n", True),
        ("python", "def f():\npass", False),
        ("python", "print 'x'", False),
        ("python", "(" * 50_000, False),
        ("python", "x = '\0'", False),
        ("python", "re.compile('\\d')", True),
    ],
)
def test_parses(judge, language, text, parses, recwarn):
    assert judge({"code": {"language": language, "rule": "parses"}}, text).passed is parses
    assert not recwarn.list


def test_the_line_that_does_not_parse(judge):
    broken = "class A {\n  x = 1;\n  f() { return = 3; }\n}"
    assert judge({"code": "parses"}, broken).reason == "the typescript code does not parse: line 3 is wrong"


def test_real_classes(judge, realdata):
    """Each by eye: 4 obey; 22 fill their constructor, 14 of them without an init(); 4 only lack init()."""
    files = sorted((realdata / "typescript").iterdir())
    texts = {file.name.partition("__")[2]: file.read_text(encoding="utf-8") for file in files}
    scores = [judge(RULE, file.read_text(encoding="utf-8")) for file in files]
    assert len(files) == 30
    assert all(judge({"code": "parses"}, text).passed for text in texts.values())
    kinds = Counter(("does more" in s.reason, "no init()" in s.reason) for s in scores)
    assert {name for name, text in texts.items() if judge(RULE, text).passed} == {
        "DefaultWeb4TestCase.ts",
        "DefaultWeb4Requirement.ts",
        "RequirementOverview.ts",
        "PeerManager.ts",
    }
    assert kinds == {(False, False): 4, (True, True): 14, (True, False): 8, (False, True): 4}
