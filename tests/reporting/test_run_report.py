"""Report of a run: what it says, that it asks no other host, and its charts in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from mlx_lora.runs.events import (
    Checkpoint,
    Evaluation,
    Progress,
    Start,
    TrainingResult,
    TrainingWarning,
    append_event,
)
from mlx_lora.training.report import write_report

RECORD = {"model": "m <of mine>", "data": "d", "data_sha256": {"train": "abc"}}
SPEEDS = {"tokens_per_second": 9000.4, "supervised_tokens_per_second": 3.0, "peak_memory_gb": 1.23456}
EVENTS = [
    Start(
        step=0,
        model="m",
        train_examples=288,
        valid_examples=36,
        trainable_parameters=180224,
        trained_modules="4 of 4 layers, 7 modules",
        total_steps=2,
    ),
    *(
        Progress(step=step, epoch=1, learning_rate=0.1, loss=loss, unweighted_loss=loss, grad_norm=1.0, **SPEEDS)
        for step, loss in ((1, 2.51234567), (2, 1.51234567))
    ),
    Evaluation(step=2, epoch=1, validation_loss=1.7),
    Checkpoint(step=2),
    TrainingWarning(step=2, message="mind the <gap>"),
    TrainingResult(steps=2, loss=1.51234567, validation_loss=1.7, best_step=2, tokens=9, seconds=75.0),
]


@pytest.fixture
def page(tmp_path):
    for event in EVENTS:
        append_event(tmp_path / "metrics.jsonl", event)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "cut sh')
    write_report(tmp_path, {"lora_rank": 4}, RECORD, [("a <prompt>", "reference", "answer")])
    return tmp_path / "report.html"


def test_what_matters_is_said_first(page):
    text = page.read_text()
    wanted = [
        *("m &lt;of mine&gt;", "2 steps.", "1.512", "2.512 at the start", "best, at step 2", "1 min 15 s", "9,000"),
        *(
            "1.23 GB",
            "288",
            "180,224",
            "mind the &lt;gap&gt;",
            "<svg",
            "mlx-lora generate --target",
            "a &lt;prompt&gt;",
        ),
        *("lora_rank", "abc"),
    ]
    places = [text.index(each) for each in wanted[:3]], [each in text for each in wanted]
    assert places[0] == sorted(places[0])
    assert all(places[1]), wanted[places[1].index(False)]
    assert "2.51234" not in text


def test_the_page_asks_no_other_host(page):
    text = page.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<script src|<img", text)


def test_why_there_are_no_samples(page, tmp_path):
    write_report(tmp_path, {}, RECORD, [], missing="no memory was left for <samples>")
    assert "no memory was left for &lt;samples&gt;" in page.read_text()


@pytest.mark.slow
def test_the_arrow_keys_name_the_values_in_a_browser(page):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    press = (
        "<script>const svg = document.querySelector('svg[data-chart]');"
        "svg.dispatchEvent(new KeyboardEvent('keydown', {key: 'End'}));"
        "document.title = getComputedStyle(document.body).backgroundColor;</script></body>"
    )
    page.write_text(page.read_text().replace("</body>", press))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert '<output aria-live="polite">step 2: training 1.512, validation 1.7</output>' in done.stdout
    assert 'class="pointer"' in done.stdout
