"""The LaunchAgent of a night, read back by plistlib, and launchctl's ways to fail."""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_lora.errors import UserError
from mlx_lora.sleep.scheduling import launchd
from mlx_lora.sleep.scheduling.schedule import Schedule

PLACE = Path('/Users/me/My "projects" & more/100 % <ünïcode> $HOME')
UID = os.getuid()


def schedule(place=PLACE, at="03:00", every="day") -> Schedule:
    return Schedule(place / "adapters" / "agent", place / "sleep.yaml", at, every, place)


def content_of(made, variables=None):
    [(file, text)] = launchd.render(made, variables or {}).items()
    assert file == launchd.files_of(made.name)[0]
    return plistlib.loads(text.encode())


@pytest.mark.usefixtures("doubles")
def test_the_plist():
    content = content_of(schedule(), {"PATH": "/opt/my tools:/usr/bin"})
    log = f"{Path.home()}/Library/Logs/{content['Label']}.log"
    assert content == {
        "Label": launchd.label_of(schedule().name),
        "ProgramArguments": [
            *("/usr/bin/caffeinate", "-i", "-s", sys.executable, "-P", "-m", "mlx_lora"),
            *("sleep", "run", "--config", str(PLACE / "sleep.yaml"), "--if-due"),
        ],
        "WorkingDirectory": str(PLACE),
        "EnvironmentVariables": {"PATH": "/opt/my tools:/usr/bin", "MLX_LORA_NIGHT": str(PLACE / "adapters" / "agent")},
        "StartCalendarInterval": [{"Hour": hour, "Minute": 0} for hour in (3, 4, 5)],
        "RunAtLoad": True,
        "ProcessType": "Interactive",
        "ExitTimeOut": 120,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    # The display stays off: with it on, the watchdog of the GPU ends training.
    assert "-d" not in content["ProgramArguments"]
    assert not {"Nice", "LowPriorityIO", "LowPriorityBackgroundIO"} & set(content)
    assert os.path.isabs(content["ProgramArguments"][3])


def test_days_and_midnight():
    found = content_of(schedule(at="23:30", every="mon,sat"))["StartCalendarInterval"]
    assert found == [
        {"Weekday": 1, "Hour": 23, "Minute": 30},
        {"Weekday": 6, "Hour": 23, "Minute": 30},
        {"Weekday": 2, "Hour": 0, "Minute": 30},
        {"Weekday": 0, "Hour": 0, "Minute": 30},
        {"Weekday": 2, "Hour": 1, "Minute": 30},
        {"Weekday": 0, "Hour": 1, "Minute": 30},
    ]
    assert len(content_of(schedule(every="weekday"))["StartCalendarInterval"]) == 15
    # Every other night: each night a start, and the command decides.
    assert content_of(schedule(every="2"))["StartCalendarInterval"] == content_of(schedule())["StartCalendarInterval"]


def written(doubles, tmp_path):
    made = schedule(tmp_path / "a b")
    [(file, text)] = launchd.render(made, {}).items()
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return made.name, file


def test_load_and_unload(doubles, tmp_path):
    name, file = written(doubles, tmp_path)
    label = launchd.label_of(name)
    launchd.load(name)
    assert launchd.is_loaded(name)
    assert f"launchctl bootstrap gui/{UID} {file}" in doubles.calls()
    assert f"launchctl enable gui/{UID}/{label}" in doubles.calls()
    assert not [call for call in doubles.calls() if "bootout" in call]
    # Again, in place of the one that is loaded.
    launchd.load(name)
    assert f"launchctl bootout gui/{UID}/{label}" in doubles.calls()
    assert launchd.is_loaded(name)
    launchd.unload(name)
    assert not launchd.is_loaded(name)
    launchd.unload(name)
    assert launchd.found() == [file]
    assert launchd.name_in(file) == name
    assert (Path.home() / "Library" / "Logs").is_dir()


def test_a_job_that_is_still_going_down(doubles, tmp_path, monkeypatch):
    monkeypatch.setattr(launchd, "PAUSE", 0)
    name, _ = written(doubles, tmp_path)
    launchd.load(name)
    doubles.say("launchctl bootstrap", err="Bootstrap failed: 37: Operation already in progress\n", rc=37, times=3)
    launchd.load(name)
    assert launchd.is_loaded(name)


def test_launchctl_refuses(doubles, tmp_path):
    name, _ = written(doubles, tmp_path)
    said = "Bootstrap failed: 125: Domain does not support specified action\n"
    doubles.say("launchctl bootstrap", err=said, rc=125)
    with pytest.raises(UserError) as error:
        launchd.load(name)
    assert str(error.value) == f"launchctl did not load the night: {said.strip()}"
    assert len(doubles.calls("launchctl bootstrap")) == 1


def test_an_error_although_it_was_loaded(doubles, tmp_path):
    """As of some versions of macOS 14."""
    name, _ = written(doubles, tmp_path)
    launchd.load(name)
    doubles.say("launchctl print", rc=113, times=1)
    doubles.forget()
    launchd.load(name)
    assert "bootout" not in "".join(doubles.calls())
    assert len(doubles.calls("launchctl bootstrap")) == 1


def test_launchctl_does_not_let_go(doubles, tmp_path):
    name, _ = written(doubles, tmp_path)
    launchd.load(name)
    doubles.say("launchctl bootout", err="Boot-out failed: 1: Operation not permitted\n", rc=1)
    with pytest.raises(UserError, match="did not unload the night: Boot-out failed: 1: Operation not permitted"):
        launchd.unload(name)


def test_no_launchctl(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not launchd.is_loaded(schedule().name)
    launchd.unload(schedule().name)
    with pytest.raises(UserError, match="there is no launchctl on this machine"):
        launchd.load(schedule().name)


@pytest.mark.parametrize(
    ("at", "every", "event"),
    [
        ("03:00", "day", "MTWRFSU 02:55:00"),
        ("03:00", "mon,thu", "MR 02:55:00"),
        ("00:02", "mon,sun", "US 23:57:00"),
        ("03:00", "2", "MTWRFSU 02:55:00"),
    ],
)
def test_waking_is_advice_only(doubles, at, every, event):
    [advice] = launchd.advice(schedule(at=at, every=every))
    assert f"sudo pmset repeat wakeorpoweron {event} " in advice
    assert doubles.calls() == []


def test_folders_that_macos_keeps_from_jobs(doubles):
    found = launchd.advice(schedule(Path.home() / "Documents" / "agent"))
    assert "Full Disk Access" in found[1]
    assert len(launchd.advice(schedule(Path.home() / "Documents-of-mine"))) == 1


def test_the_command_runs(doubles, tmp_path):
    """In the environment that launchd gives: from another directory, through caffeinate, as the job's own process."""
    content = content_of(
        schedule(tmp_path), {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    )
    caffeinate, *rest = content["ProgramArguments"]
    begin = rest[: rest.index("mlx_lora") + 1]
    command = [str(Path(caffeinate).name), *begin, "--version"]
    variables = {**content["EnvironmentVariables"], "DOUBLES": os.environ["DOUBLES"]}
    done = subprocess.run(command, cwd=content["WorkingDirectory"], env=variables, capture_output=True, text=True)
    assert done.stdout.startswith("mlx-lora, version "), done.stderr
    assert doubles.calls() == [" ".join(command)]


def test_files_that_are_no_plists(tmp_path):
    for text in ("", "no plist", "<plist><dict></dict></plist>", "bplist00\x01", "<?xml version='1.0'?><plist><di"):
        (tmp_path / "a.plist").write_text(text)
        assert launchd.name_in(tmp_path / "a.plist") is None
    assert launchd.name_in(tmp_path / "absent.plist") is None
