"""The live page in Debian's Chromium, on a real server: what it shows, its buttons, and that everybody can use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
from page_workspace import BASE, HOSTILE, progress, warn, write_dataset, write_run, write_workspace
from server import running_server

from mlx_lora.runs.generations import Generations
from mlx_lora.runs.samples import write_samples

pytest.importorskip("playwright")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium on this machine"),
]
WIDTHS = (400, 800, 1600)
VIEWS = {
    "runs": "#/runs",
    "run": "#/run?name=adapters/lumen",
    "jobs": "#/jobs",
    "adapters": "#/adapters",
    "adapter": "#/adapter?name=adapters/agent",
    "night": "#/night?name=adapters/agent&cycle=0003",
    "datasets": "#/datasets",
    "dataset": "#/dataset?name=data/eisv",
    "compare": f"#/compare?a={BASE}&b=adapters/trained",
}
HEADINGS = {
    "runs": "Runs",
    "run": "adapters/lumen",
    "jobs": "Jobs",
    "adapters": "Adapters",
    "adapter": "adapters/agent",
    "night": "Night 3 of agent",
    "datasets": "Datasets",
    "dataset": "data/eisv",
    "compare": "Compare answers",
}
PATIENCE = 30_000


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


LONG = "a-name-without-a-space-" * 6


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server for the tests that change nothing."""
    place = tmp_path_factory.mktemp("shared")
    models = write_workspace(place / "models")
    warn(write_run(models / LONG, done=50), "x" * 300)
    write_run(models / "long", steps=10_000, every=1)
    with running_server(place, models=models) as running:
        yield running


@pytest.fixture
def models(tmp_path):
    return write_workspace(tmp_path / "models")


@pytest.fixture
def server(tmp_path, models):
    with running_server(tmp_path, models=models) as running:
        yield running


@contextmanager
def opened(browser, server, view="#/runs", width=1200, height=900, expected="", **options):
    """A page with the server's token; whatever it prints as an error, but for ``expected``, fails the test."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda told: errors.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(f"{server.url}/#token={server.token}")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible(timeout=PATIENCE)
    show(page, view)
    yield page
    context.close()
    assert [error for error in errors if not expected or expected not in error] == []


def show(page, view):
    page.evaluate("view => { location.hash = view; }", view)


def heading(page, name):
    found = page.get_by_role("heading", name=name, exact=True).first
    expect(found).to_be_visible(timeout=PATIENCE)
    return found


def settled(page, view):
    """Wait until a view has all that it loads by itself."""
    heading(page, HEADINGS[view])
    if view == "run":
        expect(page.locator("#curves svg")).to_have_count(5, timeout=PATIENCE)
    if view == "dataset":
        expect(page.get_by_text("exact duplicates")).to_be_visible(timeout=PATIENCE)
    if view == "night":
        expect(page.get_by_role("heading", name="Steps", exact=True)).to_be_visible()


def test_the_token_leaves_the_address_and_opens_what_asks_for_it(browser, shared):
    server = shared
    with opened(browser, server) as page:
        assert page.evaluate("location.href") == f"{server.url}/#/runs"
        expect(page.get_by_role("link", name="adapters/lumen")).to_be_visible()
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        page.reload()
        expect(page.get_by_role("link", name="adapters/lumen")).to_be_visible()
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url + VIEWS["adapter"].join(["/", ""]))
    field = page.get_by_label("Token")
    expect(field).to_be_focused(timeout=PATIENCE)
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Token")).to_be_visible()
    page.get_by_label("Token").fill(f" {server.token}\n")
    page.keyboard.press("Enter")
    heading(page, "adapters/agent")
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light"), (800, "light"), (1600, "dark")])
def test_everybody_can_use_it(browser, shared, width, scheme):
    """Nothing serious for axe, nothing to scroll sideways to, in any view."""
    axe = Axe()
    with opened(browser, shared, width=width, color_scheme=scheme) as page:
        for name, view in {**VIEWS, "long": f"#/run?name={LONG}"}.items():
            show(page, view)
            settled(page, name) if name in VIEWS else heading(page, LONG)
            found = [
                (violation["id"], [node["html"] for node in violation["nodes"]])
                for violation in axe.run(page).response["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
            assert found == [], name
            wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wider <= 0, name


STEPS = """([title, low, high]) => {
  const [first, last] = JSON.parse(document.querySelector(`figure[data-title=${title}] svg`).dataset.chart).x;
  return first === low && last === high;
}"""


def until_steps(page, title, low, high):
    """Wait until a chart is drawn of these steps."""
    page.wait_for_function(STEPS, arg=[title, low, high])


def test_ten_thousand_points_are_drawn_pointed_at_and_zoomed_into(browser, shared):
    with opened(browser, shared, "#/run?name=long") as page:
        loss = page.locator("figure[data-title=Loss]")
        expect(loss.locator("polyline.s0")).to_be_visible(timeout=PATIENCE)
        points = loss.locator("polyline.s0").get_attribute("points").split()
        assert 200 <= len(points) <= 402
        box = loss.locator("svg").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.5, middle)
        expect(loss.locator("output")).to_contain_text(re.compile(r"step [\d,]+: training 0\.\d+"))
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=4)
        expect(loss.locator("rect.area")).to_be_visible()
        page.mouse.up()
        told = page.get_by_text(re.compile(r"^Steps [\d,]+ to [\d,]+$"))
        expect(told).to_be_visible()
        low, high = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+", told.inner_text()))
        assert 4000 < low < high < 7000
        # More detail than before, on every chart.
        for title in ("Loss", "Speed"):
            until_steps(page, title, low, high)
        page.get_by_role("button", name="All steps").click()
        expect(told).to_have_count(0)
        # By the keys: to the last step, nearer, and back.
        until_steps(page, "Loss", 1, 10_000)
        loss.locator("svg").focus()
        page.keyboard.press("End")
        expect(loss.locator("output")).to_contain_text("step 10,000")
        page.keyboard.press("+")
        expect(told).to_contain_text("10,000")
        expect(loss.locator("svg")).to_be_focused()
        page.keyboard.press("0")
        expect(told).to_have_count(0)


def test_a_logarithmic_axis(browser, shared):
    with opened(browser, shared, VIEWS["run"]) as page:
        settled(page, "run")
        loss = page.locator("figure[data-title=Loss] svg")
        before = loss.locator("polyline.s0").get_attribute("points")
        button = page.get_by_role("button", name="Logarithmic")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(loss.locator("polyline.s0")).not_to_have_attribute("points", before)
        button.click()
        expect(loss.locator("polyline.s0")).to_have_attribute("points", before)


def test_five_hundred_runs_are_filtered_and_sorted(browser, server, models):
    for number in range(500):
        run = models / "many" / f"run-{number:03d}"
        write_run(run, steps=20, done=20 if number % 2 else 10)
    with opened(browser, server) as page:
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(503, timeout=PATIENCE)
        page.get_by_label("Filter").fill("many run-49")
        expect(rows).to_have_count(10)
        expect(page.get_by_text("10 of 503 runs")).to_be_visible()
        page.locator("select[name=status]").select_option("unfinished")
        expect(rows).to_have_count(5)
        page.get_by_role("button", name="Run").click()
        expect(rows.first.get_by_role("link")).to_have_text("many/run-490")
        page.get_by_role("button", name="Run").click()
        expect(rows.first.get_by_role("link")).to_have_text("many/run-498")
        expect(page.get_by_role("columnheader", name="Run")).to_have_attribute("aria-sort", "descending")
        # What was typed stays through the next look.
        write_run(models / "many" / "run-499-b", steps=20, done=10)
        expect(rows).to_have_count(6, timeout=PATIENCE)
        expect(page.get_by_label("Filter")).to_have_value("many run-49")


def test_markup_in_data_is_text(browser, server, models):
    name = "<img src=x onerror=alert(1)>"
    run = write_run(models / name, done=50, model=HOSTILE)
    warn(run, HOSTILE)
    row = {"prompt": HOSTILE, "reference": HOSTILE, "before": HOSTILE, "after": "<b>bold</b>"}
    write_samples(run / "samples.json", [row])
    (run / "config.yaml").write_text(f"model_name: {json.dumps(HOSTILE)}\n")
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
    write_dataset(models / "<i>data", messages=messages)
    agent = Generations(models / "adapters/agent")
    agent.rollback(HOSTILE)
    record = models / "adapters/agent/cycles/0003/cycle.json"
    record.write_text(record.read_text().replace("What did we say", json.dumps(HOSTILE)[1:-1]))
    views = {
        "#/runs": name,
        f"#/run?name={name}": HOSTILE,
        "#/dataset?name=<i>data": HOSTILE,
        "#/adapter?name=adapters/agent": HOSTILE,
        "#/night?name=adapters/agent&cycle=0003": HOSTILE,
        "#/run?name=<b>nothing</b>": "There is no run '<b>nothing</b>' below the models directory.",
    }
    # The last view is of a run that is not there.
    with opened(browser, server, expected="status of 404") as page:
        for view, text in views.items():
            show(page, view)
            expect(page.get_by_text(text).first).to_be_visible(timeout=PATIENCE)
            page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert page.locator("main img, main script, main b:text-is('bold')").count() == 0
            assert page.title() != "owned"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_server_that_dies_and_comes_back(browser, tmp_path, models):
    port = free_port()
    with running_server(tmp_path, models=models, port=port) as server:
        context = opened(browser, server, expected="net::ERR")
        page = context.__enter__()
        expect(page.get_by_role("link", name="adapters/lumen")).to_be_visible()
        server.process.kill()
        server.process.wait()
        gone = page.get_by_text("The server does not answer")
        expect(gone).to_be_visible(timeout=PATIENCE)
        # What was there stays to be read.
        expect(page.get_by_role("link", name="adapters/lumen")).to_be_visible()
    write_run(models / "made-meanwhile", done=50)
    with running_server(tmp_path, models=models, port=port):
        expect(page.get_by_role("link", name="made-meanwhile")).to_be_visible(timeout=PATIENCE)
        expect(gone).to_be_hidden()
        context.__exit__(None, None, None)


def press_until_focused(page, locator, key="Tab", most=60):
    for _ in range(most):
        if locator.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{most} times {key} do not reach {locator}")


def test_promote_and_roll_back_by_keyboard(browser, server, models):
    agent = Generations(models / "adapters/agent")
    with opened(browser, server, VIEWS["adapter"]) as page:
        heading(page, "adapters/agent")
        press_until_focused(page, page.get_by_role("button", name="Make live: generation 1"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        expect(page.get_by_label("Reason, for the history")).to_be_focused()
        page.keyboard.type("it was kinder")
        page.keyboard.press("Enter")
        expect(page.get_by_text("Generation 1 of adapters/agent is live.")).to_be_visible()
        expect(page.get_by_text("generation 1 is live", exact=True)).to_be_visible()
        assert (agent.live, agent.history()[-1]["reason"]) == (1, "it was kinder")
        # The button is gone; the next key goes on in the page, not from its top.
        assert page.evaluate("document.getElementById('main').contains(document.activeElement)")
        press_until_focused(page, page.get_by_role("button", name="Roll back"), "Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Return to")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.type("no, it was not")
        page.keyboard.press("Enter")
        expect(page.get_by_text("Generation 3 is live, no longer generation 1.")).to_be_visible()
        assert (agent.live, agent.history()[-1]["event"]) == (3, "rolled_back")
        # Nothing happens where the dialog is closed.
        press_until_focused(page, page.get_by_role("button", name="Make live: generation 2"))
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("button", name="Make live: generation 2")).to_be_focused()
        assert agent.live == 3


def test_a_change_that_is_refused_says_why(browser, server, models):
    with opened(browser, server, VIEWS["adapter"], expected="status of 409") as page:
        heading(page, "adapters/agent")
        button = page.get_by_role("button", name="Make live: generation 1")
        expect(button).to_be_visible()
        file = models / "adapters/agent/generations/0001/adapters.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
        button.click()
        page.get_by_role("button", name="Make it live").click()
        expect(page.locator("#said.bad")).to_contain_text("truncated or broken")
        assert Generations(models / "adapters/agent").live == 3


def test_a_running_training_is_followed(browser, server, models):
    """A run that is no job: the curves grow while its lock is held."""
    from mlx_lora.files import file_lock

    run = models / "adapters/half"
    with file_lock(run / ".lock", "held"), opened(browser, server, "#/run?name=adapters/half") as page:
        expect(page.locator(".title").get_by_text("running")).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("150 / 400")).to_be_visible()
        line = page.locator("figure[data-title=Loss] polyline.s0")
        expect(line).to_be_visible()
        before = line.get_attribute("points")
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"event": "progress", **vars(progress(300)), "time": 1.0}) + "\n")
        expect(page.get_by_text("300 / 400")).to_be_visible(timeout=PATIENCE)
        expect(line).not_to_have_attribute("points", before, timeout=PATIENCE)


def post_job(server, rows: int = 40, **settings):
    """A job on the built-in base, through OpenAI's routes; returns its id."""
    lines = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"I say {n} aloud."}]}
        for n in range(rows)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with server.client() as client:
        uploaded = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", content)})
        assert uploaded.status_code == 200, uploaded.text
        body = {"model": BASE, "training_file": uploaded.json()["id"], "mlx_lora": settings}
        made = client.post("/v1/fine_tuning/jobs", json=body)
        assert made.status_code == 200, made.text
        return made.json()["id"]


def test_a_job_is_followed_paused_resumed_and_cancelled(browser, server):
    # Longer than the test takes.
    job = post_job(server, num_epochs=100_000, batch_size=4, log_steps=5)
    with opened(browser, server, f"#/run?name={job}") as page:
        title = page.locator(".title")
        expect(title.get_by_text("running")).to_be_visible(timeout=120_000)
        line = page.locator("figure[data-title=Loss] polyline.s0")
        expect(line).to_be_visible(timeout=120_000)
        before = line.get_attribute("points")
        expect(line).not_to_have_attribute("points", before, timeout=PATIENCE)
        expect(page.locator("#events li").first).to_be_visible()
        show(page, "#/jobs")
        page.get_by_role("button", name=f"Pause {job}").click()
        resume = page.get_by_role("button", name=f"Resume {job}")
        expect(resume).to_be_visible(timeout=120_000)
        resume.click()
        expect(page.get_by_role("button", name=f"Pause {job}")).to_be_visible(timeout=PATIENCE)
        page.get_by_role("button", name=f"Cancel {job}").click()
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.get_by_text("cancelled", exact=True)).to_be_visible(timeout=120_000)


def test_two_models_answers_are_compared(browser, shared):
    with opened(browser, shared, f"#/compare?a={BASE}&b={BASE}") as page:
        page.get_by_label("Prompt").fill("How is the lamp?")
        page.get_by_label("Longest answer, tokens").fill("12")
        page.get_by_role("button", name="Ask both").click()
        expect(page.get_by_text("Both have answered.")).to_be_visible(timeout=120_000)
        first, second = (page.locator("#answers pre").nth(i).inner_text() for i in (0, 1))
        assert first == second != ""
        assert page.locator("#answers mark").count() == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_screenshots(browser, shared, width, tmp_path):
    """Every view at every width, where PAGE_SCREENSHOTS names a directory; else only that they are shown."""
    out = Path(os.environ.get("PAGE_SCREENSHOTS", tmp_path))
    for scheme in ("light", "dark"):
        with opened(browser, shared, width=width, color_scheme=scheme) as page:
            for name, view in VIEWS.items():
                show(page, view)
                settled(page, name)
                file = out / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=file, full_page=True)
                assert file.stat().st_size > 5000
