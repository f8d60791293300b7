"""``sleep install`` and ``sleep uninstall``, run as a user does, with both schedulers."""

from __future__ import annotations

import json
import plistlib
import shutil
import sys
from pathlib import Path

import pytest

from mlx_lora.errors import UserError
from mlx_lora.sleep.scheduling import installation, launchd, systemd
from mlx_lora.sleep.scheduling.schedule import installed, is_due, read_schedule

CONFIG = "name: adapters/agent\nmodel_name: builtin/tiny-lumen\nstores: [{salience: experiences.json}]\n"
RATES = {"mlx_small": 10.0, "mlx_large": 100.0}


@pytest.fixture
def project(doubles, tmp_path, monkeypatch) -> Path:
    """A directory with a config, which is the working directory, and the doubles."""
    place = tmp_path / "my project"
    place.mkdir()
    (place / "sleep.yaml").write_text(CONFIG)
    monkeypatch.chdir(place)
    return place


def everything(place: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}


def all_files(project: Path) -> dict[str, bytes]:
    return everything(project) | everything(Path.home())


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["launchd", "systemd"])
def test_from_installation_to_removal(command, refused, project, doubles, scheduler):
    at_first = all_files(project)
    sleep = ["--config", "sleep.yaml", "--scheduler", scheduler]
    done = command("sleep", "install", *sleep, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    name = project / "adapters" / "agent"
    assert found["state"] == "new"
    assert (found["name"], found["config"]) == (str(name), str(project / "sleep.yaml"))
    assert (found["at"], found["every"], found["scheduler"]) == ("03:00", "day", scheduler)
    for file in found["files"]:
        assert Path(file["file"]).read_text() == file["content"]
    assert all(rate > 0 for rate in found["rates"].values())
    there = installed(name)
    assert there["next_due"] == found["next_due"]
    assert there["next_due"][11:16] == "03:00"
    assert there["rates"] == found["rates"]
    # It runs at night, not when it is loaded.
    assert not is_due(name)[0]
    module = installation.SCHEDULERS[scheduler]
    assert module.is_loaded(name)
    assert module.name_in(Path(there["file"])) == name

    after = all_files(project)
    doubles.forget()
    done = command("sleep", "install", *sleep)
    assert done.returncode == 0, done.stderr
    assert f"this is installed already; the next night is due at {found['next_due']}" in done.stdout
    assert all_files(project) == after
    assert not [call for call in doubles.calls() if "bootstrap" in call or "enable --now" in call]

    done = command("sleep", "install", *sleep, "--at", "4:15")
    assert done.returncode == 2
    assert done.stderr.endswith("differs; --print shows how, --replace writes the new one\n")
    assert done.stderr.count("\n") == 1
    assert f"--- {there['file']}" in done.stdout
    assert any(line.startswith("+") and ("15" in line) for line in done.stdout.splitlines())
    assert all_files(project) == after

    done = command("sleep", "install", *sleep, "--at", "4:15", "--replace", "--json")
    assert json.loads(done.stdout)["state"] == "replaced"
    assert installed(name)["at"] == "04:15"
    assert module.is_loaded(name)

    done = command("sleep", "uninstall", "--config", "sleep.yaml", "--json")
    assert done.returncode == 0, done.stderr
    removed = json.loads(done.stdout)["removed"]
    assert removed == [*map(str, module.files_of(name)), str(name / "schedule.json")]
    assert not module.is_loaded(name)
    assert all_files(project) == at_first
    assert "no night is installed" in command("sleep", "uninstall", "--config", "sleep.yaml").stdout


@pytest.mark.parametrize("scheduler", ["launchd", "systemd"])
def test_print_only_prints(command, project, doubles, scheduler):
    before = all_files(project)
    done = command("sleep", "install", "--config", "sleep.yaml", "--print", "--scheduler", scheduler)
    assert done.returncode == 0, done.stderr
    assert all_files(project) == before
    assert not [call for call in doubles.calls() if call.startswith(("launchctl", "systemctl"))]
    plan = installation.plan("sleep.yaml", "03:00", "day", scheduler)
    assert all(f"{file}:" in done.stdout for file in plan.files)
    if scheduler == "launchd":
        start = done.stdout.index("<?xml")
        printed = done.stdout[start : done.stdout.index("</plist>") + len("</plist>")]
        assert plistlib.loads(printed.encode())["RunAtLoad"] is True
        assert "$ launchctl bootstrap gui/" in done.stdout
        assert "sudo pmset repeat wakeorpoweron MTWRFSU 02:55:00" in done.stdout
    else:
        assert all(text in done.stdout for text in plan.files.values())
        assert "$ systemctl --user enable --now mlx-lora-sleep-agent-" in done.stdout
        assert "loginctl enable-linger" in done.stdout


def test_launchctl_that_fails(refused, project, doubles):
    """Its words, and nothing that was not there before."""
    before = all_files(project)
    said = "Bootstrap failed: 125: Domain does not support specified action\n"
    doubles.say("launchctl bootstrap", err=said, rc=125)
    sentence = refused("sleep", "install", "--config", "sleep.yaml", "--scheduler", "launchd", "--json")
    file = launchd.files_of(project / "adapters" / "agent")[0]
    assert sentence == f"mlx-lora: launchctl did not load the night: {said.strip()}; {file} has been taken back"
    assert all_files(project) == before
    assert not (project / "adapters" / "agent").exists()


@pytest.mark.parametrize("scheduler", ["launchd", "systemd"])
def test_a_replacement_that_fails_leaves_the_old_one(project, doubles, scheduler, monkeypatch):
    monkeypatch.setattr(launchd, "PAUSE", 0)
    installation.install(installation.plan("sleep.yaml", "03:00", "day", scheduler), False, lambda: RATES)
    before, name = all_files(project), project / "adapters" / "agent"
    doubles.say("launchctl bootstrap", err="Bootstrap failed: 5: Input/output error\n", rc=5, times=launchd.TRIES)
    doubles.say("systemctl --user enable", err="Failed to connect to bus\n", rc=1, times=1)
    with pytest.raises(UserError, match=r"Failed to connect to bus|Input/output error.*is as it was"):
        installation.install(installation.plan("sleep.yaml", "05:00", "day", scheduler), True, lambda: RATES)
    assert all_files(project) == before
    assert installation.SCHEDULERS[scheduler].is_loaded(name)
    assert installed(name)["at"] == "03:00"


def test_a_ctrl_c_in_between(project, monkeypatch):
    before = all_files(project)

    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(launchd, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        installation.install(installation.plan("sleep.yaml", "03:00", "day", "launchd"), False, lambda: RATES)
    assert all_files(project) == before


def test_the_job_that_starts_at_once_knows_its_time(project, monkeypatch):
    """launchd starts it while it is loaded."""
    seen = []
    monkeypatch.setattr(launchd, "load", lambda name: seen.append(is_due(name)))
    installation.install(installation.plan("sleep.yaml", "03:00", "day", "launchd"), False, lambda: RATES)
    assert [due for due, _ in seen] == [False]


def test_an_adapter_that_is_there_stays(project, doubles):
    """Whatever fails, its generations are nobody else's."""
    kept = project / "adapters" / "agent" / "history.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}\n")
    doubles.say("launchctl bootstrap", rc=5, times=1)
    plan = installation.plan("sleep.yaml", "03:00", "day", "launchd")
    with pytest.raises(UserError, match="exit status 5"):
        installation.install(plan, False, lambda: RATES)
    installation.install(plan, False, lambda: RATES)
    installation.uninstall(plan.schedule.name)
    assert everything(project / "adapters") == {str(kept): b"{}\n"}


def test_a_plist_of_another_form(project):
    """Converted to binary by plutil, it differs, and is put back byte by byte."""
    plan = installation.plan("sleep.yaml", "03:00", "day", "launchd")
    installation.install(plan, False, lambda: RATES)
    [file] = plan.files
    binary = plistlib.dumps(plistlib.loads(file.read_bytes()), fmt=plistlib.FMT_BINARY)
    file.write_bytes(binary)
    plan = installation.plan("sleep.yaml", "03:00", "day", "launchd")
    assert plan.differs
    with pytest.raises(UserError, match="differs"):
        installation.install(plan, False, lambda: RATES)
    assert "<key>RunAtLoad</key>" in plan.diff()
    assert file.read_bytes() == binary


def test_a_file_that_was_edited_is_not_deleted(project):
    plan = installation.plan("sleep.yaml", "03:00", "day", "launchd")
    installation.install(plan, False, lambda: RATES)
    [file] = plan.files
    edited = file.read_text().replace("<true/>", "<false/>")
    file.write_text(edited)
    installation.uninstall(plan.schedule.name)
    assert not file.exists()
    assert file.with_name(f"{file.name}.edited-1").read_text() == edited
    assert launchd.found() == []


def test_launchctl_that_does_not_let_go(project, doubles):
    plan = installation.plan("sleep.yaml", "03:00", "day", "launchd")
    installation.install(plan, False, lambda: RATES)
    before = all_files(project)
    doubles.say("launchctl bootout", err="Boot-out failed: 1: Operation not permitted\n", rc=1)
    with pytest.raises(UserError, match="Operation not permitted"):
        installation.uninstall(plan.schedule.name)
    assert all_files(project) == before


def test_two_adapters(command, project, doubles):
    """Each has its own job; removing one leaves the other, also where its directory is gone."""
    (project / "other.yaml").write_text(CONFIG.replace("adapters/agent", "adapters/other"))
    names = []
    for config in ("sleep.yaml", "other.yaml"):
        plan = installation.plan(config, "03:00", "day", "systemd")
        installation.install(plan, False, lambda: RATES)
        names.append(plan.schedule.name)
    assert len(systemd.found()) == 2
    done = command("sleep", "uninstall", "--config", "other")
    assert "no more nights" in done.stdout, done.stderr
    assert [systemd.name_in(file) for file in systemd.found()] == names[:1]
    shutil.rmtree(names[0])
    assert installed(names[0]) is None
    command("sleep", "uninstall", "--config", "adapters/agent")
    assert systemd.found() == []


def test_the_nights_go_on_counting(project, monkeypatch):
    """The same nights, installed anew, keep the night from which every third is counted."""
    plan = installation.plan("sleep.yaml", "03:00", "3", "launchd")
    installation.install(plan, False, lambda: RATES)
    file = plan.schedule.name / "schedule.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"installed": "2026-01-01T12:00:00+00:00"}))
    again = installation.plan("sleep.yaml", "03:00", "3", "launchd")
    content = installation.install(again, True, lambda: {"mlx_small": 1.0})
    assert content["installed"] == "2026-01-01T12:00:00+00:00"
    assert read_schedule(plan.schedule.name)["rates"] == {"mlx_small": 1.0}
    other = installation.plan("sleep.yaml", "03:00", "2", "launchd")
    assert installation.install(other, True, lambda: RATES)["installed"] > "2026-01-02"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config", "absent.yaml"], "there is no such config file"),
        (["--config", "quickstart"], "this is not a config of the night"),
        (["--config", "broken.yaml"], "there is no key 'min_news'"),
        (["--config", "sleep.yaml", "--at", "25:00"], "--at '25:00': this must be a time such as 03:00"),
        (["--config", "sleep.yaml", "--every", "funday"], "there is no day 'funday'"),
    ],
)
def test_refused(refused, project, options, said):
    (project / "broken.yaml").write_text(CONFIG + "min_news: 3\n")
    before = all_files(project)
    assert said in refused("sleep", "install", *options)
    assert all_files(project) == before


def test_no_place_for_the_plist(refused, project, doubles):
    (Path.home() / "Library").write_text("a file")
    before = all_files(project)
    sentence = refused("sleep", "install", "--config", "sleep.yaml", "--scheduler", "launchd", "--json")
    assert "LaunchAgents" in sentence
    assert all_files(project) == before


def test_a_broken_config_can_still_be_uninstalled_by_its_adapter(refused, command, project):
    plan = installation.plan("sleep.yaml", "03:00", "day", "launchd")
    installation.install(plan, False, lambda: RATES)
    (project / "sleep.yaml").write_text("stores: 7\n")
    assert "sleep.yaml" in refused("sleep", "uninstall", "--config", "sleep.yaml")
    assert command("sleep", "uninstall", "--config", "agent").returncode == 0
    assert launchd.found() == []


def test_another_system(project):
    with pytest.raises(UserError, match="this system is win32"):
        installation.plan("sleep.yaml", "03:00", "day", platform="win32")
    assert installation.plan("sleep.yaml", "03:00", "day", platform="darwin").scheduler.NAME == "launchd"
    assert installation.plan("sleep.yaml", "03:00", "day", platform="linux").scheduler.NAME == "systemd"


def test_no_secrets_are_written(project, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", "/models")
    for scheduler in ("launchd", "systemd"):
        text = "".join(installation.plan("sleep.yaml", "03:00", "day", scheduler).files.values())
        assert "hf_secret" not in text
        assert "/models" in text
        assert sys.executable in text


def test_ac_power_is_asked_for_by_the_config(project):
    def service():
        return "".join(installation.plan("sleep.yaml", "03:00", "day", "systemd").files.values())

    assert "ConditionACPower=true" in service()
    (project / "sleep.yaml").write_text(CONFIG + "guards: {min_battery: 50}\n")
    assert "ConditionACPower" not in service()
