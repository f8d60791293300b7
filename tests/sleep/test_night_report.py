"""The page of a night, the index of all, the line of the log and the notification."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from night_fixtures import (
    HOSTILE,
    after_gathering,
    candidate,
    gather,
    guards,
    make_live,
    promoted,
    record,
    step,
)

from mlx_lora.cli.sleep import sleep
from mlx_lora.errors import UserError
from mlx_lora.sleep.night_record import Night, read_nights
from mlx_lora.sleep.reports import notification
from mlx_lora.sleep.reports.r_matrix import MOST_NIGHTS, matrices
from mlx_lora.sleep.reports.report import log_line, write_report


class Page(HTMLParser):
    """Tags and the visible text of a page."""

    def __init__(self, file):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def place(tmp_path):
    """An adapter with three nights that were promoted."""
    directory = tmp_path / "agent"
    for number in (1, 2, 3):
        promoted(directory, number)
    make_live(directory, 3)
    return directory


def read(place, number):
    return Page(write_report(place, f"{number:04d}"))


def content(place, number):
    return json.loads((place / "cycles" / f"{number:04d}" / "cycle.json").read_text())


def in_order(text, wanted):
    at = 0
    for each in wanted:
        assert each in text[at:], f"{each!r} is not in {text[at:]!r}"
        at = text.index(each, at) + len(each)


def test_a_promoted_night_from_the_decision_to_the_export(place):
    result = {"gguf": "exports/0004/agent-gen-4.q8_0.gguf", "ollama": "agent:gen-4", "alias": "agent:live"}
    promoted(place, 4, step("export", 13, result))
    make_live(place, 4)
    in_order(
        read(place, 4).text,
        [
            *("All nights", "Earlier: night 3", "Night 4 of agent", "Promoted as generation 4"),
            *("better on tonight's rows", "Live now: generation 4", "new 40 of 116 in the stores", "replayed 39"),
            *("Learned from", "salience", "data/experiences.json", "156", "3 answers were cut and trimmed"),
            *("26 answered by the live adapter itself", "own answers carry 0.36", "night 1: 13", "night 3: 13"),
            *(
                "Answers before and after",
                "as expected",
                "Expected",
                "Before",
                "I am not sure about the lamp.",
                "After",
            ),
            *("unchanged", "Hello"),
            *("Numbers of the decision", "Candidate better chosen", "night 4 loss", "better", "1.234"),
            *("1.647", "0.412 nats a token less", "not worse", "no more than 0.02 worse"),
            *("What each night still knows", "after", "0.91", "The numbers as a table", "0.907"),
            *("Training", "the gradient norm rose", "best step 45", "Left out, and why"),
            *("50 of salience: a loop of the same words", "30 more", "1 of salience: salience below 0.6"),
            *("Trial of the generation", "it loads, and answers 8 of 8 questions", "Export", "agent:gen-4"),
            *("Guards", "disk: 120 GB free", "Steps", "guards", "all passed", "60 steps", "the whole change passed"),
            "min_new: 10",
        ],
    )


def test_every_row_that_was_left_out_is_named_and_twenty_are_shown_first(place):
    page = read(place, 3)
    shown = [word for word in page.words if re.fullmatch("[0-9a-f]{16}|low-1", word)]
    assert shown == [*(f"{number:016x}" for number in range(50)), "low-1"]
    text = (place / "cycles/0003/report.html").read_text()
    before = text[: text.index("30 more")]
    assert f"{19:016x}" in before
    assert f"{20:016x}" not in before


def throttled_and_short(place):
    said = "macOS is throttling this job: 11 % of the speed at installation"
    steps = [guards(throttled=said), gather(9, "store traces: data/traces: this store is not there any more")]
    record(place, 4, "skipped", "9 new experiences, 10 are needed", steps, new=9)


def guard_failed(place):
    record(place, 4, "failed", "the battery is too low", [guards(power=False)])


def train_failed(place):
    steps = [guards(), gather(), step("train", 4, {"error": "a non-finite loss at step 12"})]
    record(place, 4, "failed", "training failed", steps, new=40, could_run=False)


def kept(place):
    tried = [candidate(4, 1.0, False), candidate(4, 0.75, False)]
    record(place, 4, "kept", "the answers collapsed", [guards(), gather(), *after_gathering(4, tried, None)], new=40)


def milder(place):
    tried = [candidate(4, 1.0, False), candidate(4, 0.5)]
    steps = [guards(), gather(), *after_gathering(4, tried, 0.5), step("promote", 11, {"generation": 4, "previous": 3})]
    record(place, 4, "promoted", "the milder one is better", steps, generation=4, new=40)


def rolled_back(place):
    directory = promoted(place, 4)
    found = json.loads((directory / "cycle.json").read_text())
    found["steps"][-1]["result"] = {"passed": False, "said": "3 of 8 answers loop"}
    (directory / "cycle.json").write_text(json.dumps(found))


def export_failed(place):
    promoted(place, 4, step("export", 13, {"failed": "http://127.0.0.1:11434: no Ollama answers there"}))


def cut(place):
    current = {"step": "train", "started": "2026-11-27T03:04:00+00:00", "attempts": 1}
    record(place, 4, None, "", [guards(), gather()], new=40, current=current)


def ended_in_a_step(place):
    current = {"step": "gather", "started": "2026-11-27T03:04:00+00:00", "attempts": 1}
    notes = ["the machine slept for 3 h"]
    record(place, 4, "skipped", "9 new examples, 10 are needed", [guards()], current=current, notes=notes)


def nothing_known(place):
    directory = record(place, 4, None, "", [])
    (directory / "cycle.json").write_text('{"format": 1}')


ENDS = [
    (
        throttled_and_short,
        [
            "Skipped",
            "9 new experiences, 10 are needed",
            "macOS is throttling this job",
            "store traces: data/traces: this st",
        ],
        "night 4: skipped: 9 new experiences, 10 are needed, 9 new",
    ),
    (
        guard_failed,
        ["Failed", "too low", "Live now: generation 3", "power: 23 % battery", "failed power: 23 %", "power failed"],
        "night 4: failed: the battery is too low",
    ),
    (
        train_failed,
        [
            "Could not run",
            "training failed",
            "train: a non-finite loss at step 12",
            "failed: a non-finite",
        ],
        "night 4: could not run: training failed, 40 new",
    ),
    (
        kept,
        [
            *("Not promoted", "the answers collapsed", "Live now: generation 3", "Candidate worse did not pass"),
            *("31 of 40 answers loop", "Milder: ¾ of the change worse did not pass", "none passed, 2 tried"),
        ],
        "night 4: not promoted: the answers collapsed, 40 new",
    ),
    (
        milder,
        [
            "Promoted as generation 4",
            "Candidate worse did not pass",
            "Milder: ½ of the change better chosen",
            "½ change",
        ],
        "night 4: promoted as generation 4, 40 new",
    ),
    (
        rolled_back,
        ["Rolled back: generation 4 failed its trial", "3 of 8 answers loop", "Live now: generation 3", "Trial of"],
        "night 4: rolled back: generation 4 failed its trial: 3 of 8 answers loop, 40 new, 39 replayed",
    ),
    (
        export_failed,
        ["Promoted as generation 4", "export: http://127.0.0.1:11434: no Ollama answers there", "failed: http"],
        "night 4: promoted as generation 4, 40 new, 39 replayed",
    ),
    (
        cut,
        ["Not finished, it is in the step train or was cut there", "Live now: generation 3", "did not end"],
        "night 4: not finished, it is in the step train or was cut there, 40 new",
    ),
    (
        ended_in_a_step,
        ["Skipped", "9 new examples, 10 are needed", "the machine slept for 3 h", "gather", "the night ended here"],
        "night 4: skipped: 9 new examples, 10 are needed",
    ),
    (nothing_known, ["Not finished", "Live now: generation 3", "Settings"], None),
]


@pytest.mark.parametrize(("end", "wanted", "line"), ENDS, ids=[end[0].__name__ for end in ENDS])
def test_every_way_in_which_a_night_ends(place, end, wanted, line):
    end(place)
    in_order(read(place, 4).text, wanted)
    if line:
        assert line in log_line(content(place, 4))
    index = Page(place / "cycles" / "index.html")
    assert wanted[0].lower() in index.text.lower()
    in_order(index.text, ["Night 4", "Night 3", "promoted as generation 3", "Night 2", "Night 1"])
    # The live generation's row, and no other, says so.
    assert index.words.count("live") == 1
    assert sum(attributes.get("class") == "live" for _, attributes in index.tags) == 1


def test_the_first_night_and_the_base(tmp_path):
    record(tmp_path / "a", 1, "failed", "no", [])
    make_live(tmp_path / "a", None)
    assert "Failed no Live now: the base, no generation" in read(tmp_path / "a", 1).text


def test_the_matrix_has_the_promoted_nights_and_the_losses_where_a_night_has_no_score(place):
    kept(place)
    rolled_back(place)
    found = matrices(read_nights(place))
    assert [matrix.title for matrix in found] == ["Score"]
    assert found[0].rows == [("1", ["1", "–", "–"]), ("2", ["0.969", "1", "–"]), ("3", ["0.938", "0.969", "1"])]
    without = candidate(4) | {"scores": {}, "losses": {"0001": 0.7, "0004": 0.5, "round-0002": 0.9}}
    record(place, 4, "promoted", "", after_gathering(4, [without], 1.0), generation=4)
    # Rounds of `train --increment` come before the nights.
    found = matrices(read_nights(place))
    assert [matrix.title for matrix in found] == ["Score", "Loss"]
    assert found[0].rows[-1] == ("4", ["–", "–", "–"])
    assert found[1].columns == ["r2", "1", "2", "3", "4"]
    assert found[1].rows[-1] == ("4", ["0.9", "0.7", "–", "–", "0.5"])


def test_a_year_of_nights_is_one_map_of_the_last_ones(tmp_path):
    nights = []
    for number in range(1, 101):
        judged = {
            "candidates": [{"alpha": 1.0, "scores": {f"{n:04d}": 1.0 for n in range(1, number + 1)}}],
            "chosen": 1,
        }
        steps = [step("judge", 1, judged)]
        nights.append(Night(tmp_path / f"{number:04d}", {"decision": "promoted", "steps": steps}))
    (found,) = matrices(nights)
    assert (len(found.rows), len(found.columns), found.older) == (MOST_NIGHTS, MOST_NIGHTS, 60)
    assert found.columns[-1] == found.rows[-1][0] == "100"


def hostile(value):
    if isinstance(value, dict):
        return {key: hostile(each) if key not in KEYS else each for key, each in value.items()}
    if isinstance(value, list):
        return [hostile(each) for each in value]
    return HOSTILE + value if isinstance(value, str) else value


KEYS = {"format", "cycle", "started", "ended", "step", "decision", "scores", "losses"}


def test_hostile_texts_are_inert_wherever_they_are(place):
    directory = promoted(place, 4, step("export", 13, {"alias": "agent:live"}))
    clean = read(place, 4)
    found = hostile(json.loads((directory / "cycle.json").read_text()))
    (directory / "cycle.json").write_text(json.dumps(found))
    page = read(place, 4)
    # The same elements with the same attributes: no text became one.
    assert [(tag, set(given)) for tag, given in page.tags] == [(tag, set(given)) for tag, given in clean.tags]
    assert page.text.count("onerror=alert(1)") > 30
    assert "\x1b" not in "".join(page.words)
    index = Page(place / "cycles" / "index.html")
    assert "img" not in {tag for tag, _ in index.tags}
    assert "onerror=alert(1)" in index.text
    line = log_line(found | {"decision": "kept", "reason": "two\nlines " + HOSTILE * 20})
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 450


def test_the_pages_ask_no_other_host_and_name_what_can_be_operated(place):
    page = write_report(place, "0003")
    for file in (page, place / "cycles" / "index.html"):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<script src|<img", text)
        tags = Page(file).tags
        assert [tag for tag, _ in tags].count("h1") == [tag for tag, _ in tags].count("main") == 1
        for tag, given in tags:
            if tag == "svg":
                assert given.get("aria-label") or given.get("aria-hidden")
            if "tabindex" in given:
                assert given.get("aria-label")
            if tag == "a":
                assert not given["href"].startswith("/")
                assert (file.parent / given["href"]).is_file() or "0002" in given["href"]


def test_nights_that_cannot_be_read(place, tmp_path):
    with pytest.raises(UserError, match="there is no such night; there are 0001 to 0003"):
        write_report(place, "0009")
    with pytest.raises(UserError, match="there was none yet"):
        write_report(tmp_path / "nobody", "0001")
    record(place, 4, "kept", "", [])
    for broken in ("{", "[]", '{"format": 99}', "\xff"):
        (place / "cycles/0004/cycle.json").write_text(broken, encoding="latin-1")
        with pytest.raises(UserError, match="record of this night cannot be read"):
            write_report(place, "0004")
        # The others' pages are written, and the index says it.
        assert "Night 3 of agent" in read(place, 3).text
        assert "Night 4 unreadable" in Page(place / "cycles/index.html").text.replace("2026-11-27 ", "")
    with open(place / "cycles/0003/run/metrics.jsonl", "ab") as file:
        file.write(b"\xff")
    assert "best step" in read(place, 3).text
    assert 'class="chart"' not in (place / "cycles/0003/report.html").read_text()


def test_the_command_writes_the_last_page_again(place):
    def run(*arguments):
        return CliRunner().invoke(sleep, ["report", str(place), *arguments], catch_exceptions=False)

    assert run().stdout.strip() == str(place / "cycles/0003/report.html")
    found = json.loads(run("2", "--json").stdout)
    assert found == {
        "cycle": "0002",
        "page": str(place / "cycles/0002/report.html"),
        "index": str(place / "cycles/index.html"),
    }
    assert (place / "cycles/0002/report.html").is_file()
    for wrong in ("9", "../0001", "x"):
        with pytest.raises(UserError, match="there is no such night"):
            run(wrong)


@pytest.fixture
def osascript(tmp_path, monkeypatch):
    """A double that records its arguments."""
    program, told = tmp_path / "bin" / "osascript", tmp_path / "told"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > "{told}"\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return told


def test_a_notification_gives_its_texts_as_arguments(osascript, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    text = '-e "quoted" & (do shell script "touch /tmp/owned") $(id) \x00 night'
    notification.notify("-title", text)
    said = osascript.read_text().split("\0")
    assert said[:6] == [part for line in notification.SCRIPT for part in ("-e", line)]
    assert said[6:-1] == ["--", "-title", text.replace("\x00", "\\u0000")]
    assert "quoted" not in "".join(notification.SCRIPT)


def test_no_notification_elsewhere_and_none_that_fails(osascript, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    notification.notify("a", "b")
    assert not osascript.exists()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tmp_path))
    notification.notify("a", "b")
    assert not osascript.exists()


MEASURE = """
<script>addEventListener('load', () => {
  document.querySelectorAll('details').forEach((each) => { each.open = true; });
  const wide = [...document.querySelectorAll('body *')].filter((each) => !each.closest('.heat-map')
    && each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML.slice(0, 80));
  const texts = document.querySelectorAll('svg.heat .cell text');
  const cells = [...texts].map((each) => each.getBoundingClientRect().height);
  const tall = Math.max(...[...document.querySelectorAll('.heat-map td')].map((each) => each.clientHeight));
  parent.postMessage(JSON.stringify({wide, tall, least: Math.min(...cells), title: document.title}), '*');
});</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_the_pages_fit_in_a_browser(place, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    directory = promoted(place, 4)
    found = json.loads((directory / "cycle.json").read_text())
    (directory / "cycle.json").write_text(json.dumps(hostile(found)))
    page = write_report(place, "0004")
    for file, title in ((page, "Night 4 of agent"), (place / "cycles/index.html", "Nights of agent")):
        file.write_text(file.read_text().replace("</body>", MEASURE))
        frame = file.with_name("frame.html")
        listen = "addEventListener('message', (event) => { document.querySelector('pre').textContent = event.data; })"
        frame.write_text(
            f"<body><script>{listen}</script><pre></pre><iframe src='{file.name}' style='width:{width}px'></iframe>"
        )
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=3000"]
        done = subprocess.run(
            [browser, *options, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        seen = json.loads(html.unescape(re.search("<pre>(.*)</pre>", done.stdout, re.DOTALL)[1]))
        assert seen["wide"] == []
        assert seen["title"] == title
        assert seen["least"] > 9
        # The numbers of the table are on one line each.
        assert seen["tall"] < 40
