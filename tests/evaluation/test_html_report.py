"""The page of an evaluation and of a comparison: complete, inert, and usable in a real browser."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from suite_reports import result, suite_report

from mlx_lora.evaluation.gates import judge_reports
from mlx_lora.evaluation.statistics.comparison import HeldoutRows, compare
from mlx_lora.evaluation.views.html_report import write_comparison, write_html

HOSTILE = "</div></details><script>document.title = 'owned'</script><img src=http://x.example/i onerror=alert(1)>"
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Parser that collects attributes, the texts of each kind of element, and unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.attributes, self.elements, self.unbalanced = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        if not self.open or self.open.pop()[0] != tag:
            self.unbalanced.append(tag)
        if tag in ("td", "th", "tr", "p"):
            self.handle_data(" ")

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def texts(self, name, kind=""):
        return [text for tag, attrs, text in self.elements if tag == name and kind in (attrs.get("class") or "")]


@pytest.fixture
def reports():
    """Reports of A and of B on two suites, with every kind of result."""
    cases = [result(f"c{i}", True, f"## Plan\nfine {i}\n") for i in range(18)]
    a = [
        suite_report("first", [*cases, result("lost", False, HOSTILE, HOSTILE), result("gone", False, None)], 0.95),
        suite_report("second", [result("s1", True, "\n\nindented\n"), result("s2", False, "bell \x07, half \ud83d")]),
    ]
    b = [
        suite_report("first", [*cases, result("lost", True, "## Plan\nall there"), result("gone", True, "yes")]),
        suite_report("second", [result("s1", False, "indented too"), result("s2", False, "bell")], target="runs/b"),
    ]
    a[0]["warnings"] = ["these cases cannot tell a model from a <constant>"]
    return a, b


@pytest.fixture
def evaluation(tmp_path, reports):
    final = judge_reports(reports[0], {"first": "ship", "second": "quality", "third": "ship"}, {"second": "it <moves>"})
    write_html(tmp_path / "report.html", final, reports[0])
    return tmp_path / "report.html"


@pytest.fixture
def comparison(tmp_path, reports):
    a, b = reports
    pairs = {
        x["suite"]: [(r["id"], r["passed"], s["passed"]) for r, s in zip(x["results"], y["results"], strict=True)]
        for x, y in zip(a, b, strict=True)
    }
    again = {suite: {case: passed != (case == "c3") for case, _, passed in rows} for suite, rows in pairs.items()}
    losses = {"new": HeldoutRows([1.0, 1.1, 1.2], [1.5, 1.5, 1.8]), "one": HeldoutRows([1.0], [1.0])}
    found = compare(pairs, reruns=[again], heldout=losses, anchors={"best": pairs["first"]})
    write_comparison(tmp_path / "comparison.html", found.as_dict(), a, b)
    return tmp_path / "comparison.html"


def test_the_table_comes_first_and_every_number_is_there(evaluation):
    text = html.unescape(evaluation.read_text())
    rows = [" ".join(row.split()) for row in Page(evaluation.read_text()).texts("tr")]
    first, second, third = (next(row for row in rows if row.startswith(name)) for name in ("first", "second", "third"))
    assert first == (
        "first failed ship 18 of 20 1 not answered pass rate 0.900 ≥ 0.95 not met 0.699 to 0.972 · INCONCLUSIVE: "
        "32 more cases would settle it 0.900 0.250 20"
    )
    assert "waived" in second
    assert "it <moves>" in second
    assert third == "third blocked ship there is no report; run the evaluation of this suite – – –"
    places = [text.index(said) for said in ("not cleared", "first: pass rate 0.900", "a <constant>", "<table", "gone")]
    assert places == sorted(places)
    for said in ("1.3 s", "0.08 s", "1,234", "5.50 GB", "max tokens", "512", "## The constant"):
        assert said in text, said


def test_every_answer_is_complete_with_its_reason(evaluation, reports):
    page = Page(evaluation.read_text())
    shown = page.texts("div", "text")
    wanted = [row[key] for report in reports[0] for row in report["results"] for key in ("prompt", "answer", "error")]
    for said in filter(None, wanted):
        assert said.replace("\x07", "\\u0007").replace("\ud83d", "\\ud83d") in shown
    opened = {" ".join(e[2].split()[:2]) for e in page.elements if e[0] == "details" and "open" in e[1]}
    assert opened == {"lost failed", "gone not", "s2 failed"}
    summaries = [" ".join(text.split()) for text in page.texts("summary")]
    assert "lost failed one ## Plan is missing" in summaries
    assert "gone not answered one not answered: the server closed the connection" in summaries
    assert len(page.texts("details", "case")) == 22


@pytest.mark.parametrize("name", ["evaluation", "comparison"])
def test_a_page_is_well_formed_and_asks_no_other_host(name, request):
    text = request.getfixturevalue(name).read_text()
    page = Page(text)
    assert not page.unbalanced
    assert not page.open
    assert len(page.texts("script")) == 1
    assert not page.texts("img")
    assert any("<script>document.title" in said for said in page.texts("div", "text"))
    assert not [value for _, value in page.attributes if value and re.search(r"https?:|^//|javascript:", value)]
    assert not [key for key, _ in page.attributes if key.startswith("on") or key in ("src", "style")]
    assert not re.search(r"https?:|@import|url\(|\bfetch\b|XMLHttp|import\(", "".join(page.texts("script")))
    assert not re.search(r"https?:|@import|url\(", "".join(page.texts("style")))
    ids = [value for key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for key, value in page.attributes if key == "href"} <= set(ids)


def test_two_targets_side_by_side(comparison):
    page = Page(comparison.read_text())
    rows = {row.split()[0]: " ".join(row.split()) for row in page.texts("tr")}
    assert rows["first"].startswith("first inconclusive")
    assert "0.895 (17) 1.000 (19) -0.105" in rows["first"]
    assert "0, 2" in rows["first"]
    assert rows["new"].startswith("new better 3 in 3 1.1000 1.6000 +0.5000")
    assert rows["one"] == "one inconclusive 1 in 1 1.0000 1.0000 +0.0000 margin -0.02"
    assert rows["tokens"] == "tokens a second 1,234 1,234"
    summaries = [" ".join(text.split()) for text in page.texts("summary")]
    assert summaries[:2] == ["lost A failed, B passed one", "gone A failed, B passed one"]
    assert "c3 both passed unstable, left out one" in summaries
    assert "s1 A passed, B failed one" in summaries
    case = next(text for text in page.texts("details", "case") if text.startswith("\ns1"))
    assert "\n\nindented\n" in case
    marked = ["## Plan\nall there", "indented\n", "indented too", "\\u0007, half \\ud83d"]
    assert page.texts("mark") == [HOSTILE, *marked]


def test_reports_of_the_published_shape_and_other_cases(tmp_path, reports):
    published = {
        key: reports[0][1][key]
        for key in ("test_name", "total_tests", "passed", "failed", "pass_rate", "gate", "gate_passed", "results")
    }
    write_html(tmp_path / "a.html", judge_reports([published, {"test_name": "broken"}]), [published])
    assert "report lacks" in (tmp_path / "a.html").read_text()
    tools = result("t", True, json.dumps([1]), [{"type": "text", "text": "look"}])
    other = [suite_report("third", [tools])]
    found = compare({"third": [("t", True, True)]}).as_dict()
    write_comparison(tmp_path / "b.html", found, other, reports[1])
    text = html.unescape((tmp_path / "b.html").read_text())
    assert "There is no report of B on this suite" in text
    assert "There is no report of A on this suite" in text
    assert "B: this case was not asked" in text
    assert '"text": "look"' in text


def test_many_long_answers_are_all_on_a_page_of_a_few_megabytes(tmp_path):
    def answers(seed):
        drawn = random.Random(seed)
        words = [f"word{number}" for number in range(3000)]
        said = [" ".join(drawn.choices(words[i : i + 400], k=250)) for i in range(500)]
        return [suite_report("long", [result(f"c{i}", i % 2 == 0, text) for i, text in enumerate(said)])]

    a, b = answers(1), answers(2)
    assert min(len(row["answer"]) for row in a[0]["results"]) > 1700
    write_html(tmp_path / "a.html", judge_reports(a), a)
    pairs = {"long": [(row["id"], row["passed"], row["passed"]) for row in a[0]["results"]]}
    write_comparison(tmp_path / "b.html", compare(pairs).as_dict(), a, b)
    size = sum(len(row["answer"]) for row in a[0]["results"])
    assert (tmp_path / "a.html").stat().st_size < size + 500_000
    assert (tmp_path / "b.html").stat().st_size < 2 * size + 3_000_000
    shown = (tmp_path / "a.html").read_text()
    assert all(row["answer"] in shown for row in a[0]["results"])


def browse(page, script: str, width: int = 500):
    """Run a script in a page in Chromium, in a frame of a width, and return what it gives to ``done``."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    call = (
        "<script>{const done = (value) => parent.postMessage(JSON.stringify(value), '*');"
        + script
        + "}</script></body>"
    )
    page.write_text(page.read_text().replace("</body>", call))
    frame = page.with_name("frame.html")
    listen = "addEventListener('message', (event) => { document.querySelector('pre').textContent = event.data; })"
    frame.write_text(
        f"<body><script>{listen}</script><pre></pre>"
        f"<iframe src='{page.name}' style='width:{width}px;height:900px'></iframe>"
    )
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--dump-dom",
        "--virtual-time-budget=3000",
    ]
    done = subprocess.run([browser, *options, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(html.unescape(re.search("<pre>(.*)</pre>", done.stdout, re.S)[1]))


SEEN = """
const seen = () => [...document.querySelectorAll('details.case')].filter((each) => each.checkVisibility())
  .map((each) => each.querySelector('b').textContent);
const [suite, result] = document.querySelectorAll('select');
const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event('input', {bubbles: true})); };
"""


@pytest.mark.slow
def test_the_filter_in_a_browser(evaluation):
    script = """
    const found = {title: document.title, all: seen(), count: document.querySelector('.filter output').value};
    choose(result, 'unanswered'); found.unanswered = seen();
    choose(result, 'failed'); found.failed = seen();
    found.count_failed = document.querySelector('.filter output').value;
    choose(suite, 'suite-2'); found.second = seen();
    choose(result, 'passed'); found.passed = seen();
    document.querySelector('button[name=close]').click();
    found.closed = document.querySelector('details.case:not([hidden])').open;
    found.focus = ['a', 'select', 'summary', 'button'].map((name) => document.querySelector(name).tabIndex);
    location.hash = '#suite-1';
    addEventListener('hashchange', () => { found.shown = seen().length; done(found); });
    """
    found = browse(evaluation, SEEN + script)
    assert found == {
        "title": "Evaluation of runs/one",
        "all": ["lost", "gone", "s2"],
        "count": "22 of 22 cases",
        "unanswered": ["gone"],
        "failed": ["lost", "gone", "s2"],
        "count_failed": "3 of 22 cases",
        "second": ["s2"],
        "passed": ["s1"],
        "closed": False,
        "focus": [0, 0, 0, 0],
        "shown": 22,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluation", "comparison"])
def test_a_page_fits_a_screen_of_400_pixels(name, request):
    script = """
    for (const each of document.querySelectorAll('details')) each.open = true;
    const wide = (each) => each.checkVisibility() && !each.closest('thead')
      && each.getBoundingClientRect().right > innerWidth + 1;
    const found = [...document.querySelectorAll('body *')].filter(wide).map((each) => each.outerHTML.slice(0, 99));
    done({inner: innerWidth, scroll: document.documentElement.scrollWidth, wide: found});
    """
    found = browse(request.getfixturevalue(name), script, 400)
    assert found == {"inner": 400, "scroll": 400, "wide": []}


@pytest.mark.slow
def test_only_what_differs_in_a_browser(comparison):
    script = """
    const found = {title: document.title};
    for (const kind of ['differs', 'lost', 'won', 'unanswered', 'unstable', 'words']) {
      choose(result, kind);
      found[kind] = seen();
    }
    choose(result, 'passed'); found.passed = seen().length;
    done(found);
    """
    assert browse(comparison, SEEN + script) == {
        "title": "runs/one compared with runs/one, runs/b",
        "differs": ["lost", "gone", "s1"],
        "lost": ["lost", "gone"],
        "won": ["s1"],
        "unanswered": ["gone"],
        "unstable": ["c3"],
        "words": ["lost", "gone", "s1", "s2"],
        "passed": 18,
    }
