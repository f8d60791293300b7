"""Report of a run: what it says, that it asks no other host, and its charts in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from mlx_lora.training.report import write_report

RECORD = {"model": "m <of mine>", "data": "d", "data_sha256": {"train": "abc"}}
PROGRESS = {"event": "progress", "learning_rate": 0.1, "tokens_per_second": 9000.4, "peak_memory_gb": 1.23456}
EVENTS = [
    {
        "event": "start",
        "step": 0,
        "train_examples": 288,
        "valid_examples": 36,
        "trainable_parameters": 180224,
        "trained_modules": "4 of 4 layers, 7 modules",
    },
    {**PROGRESS, "step": 1, "loss": 2.51234567, "grad_norm": 1, "supervised_tokens_per_second": 3},
    {**PROGRESS, "step": 2, "loss": 1.51234567, "grad_norm": 2, "supervised_tokens_per_second": 3},
    {"event": "evaluation", "step": 2, "validation_loss": 1.7},
    {"event": "checkpoint", "step": 2},
    {"event": "warning", "step": 2, "message": "mind the <gap>"},
    {"event": "complete", "steps": 2, "loss": 1.51234567, "seconds": 75.0, "stopped": None},
]


@pytest.fixture
def page(tmp_path):
    lines = "".join(json.dumps(event) + "\n" for event in EVENTS) + '{"event": "cut sh'
    (tmp_path / "metrics.jsonl").write_text(lines)
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
