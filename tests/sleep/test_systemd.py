"""The timer and the service of a night, read by systemd itself where it is, and systemctl's ways to fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_lora.errors import UserError
from mlx_lora.sleep.scheduling import systemd
from mlx_lora.sleep.scheduling.schedule import Schedule

ODD = "a \"b\" 'c' %d $HOME \\n ünï;#"


def schedule(place=Path("/home/me/agent"), at="03:00", every="day") -> Schedule:
    return Schedule(place / "adapters" / "agent", place / "sleep.yaml", at, every, place)


def texts_of(made, variables=None, **options) -> tuple[list[str], list[str]]:
    timer, service = systemd.render(made, variables or {}, **options).values()
    return timer.splitlines(), service.splitlines()


@pytest.mark.usefixtures("doubles")
def test_the_units():
    timer, service = texts_of(schedule(), {"PATH": "/opt/my tools:/usr/bin"})
    assert timer[timer.index("[Timer]") : timer.index("[Install]")] == [
        "[Timer]",
        *(f"OnCalendar=*-*-* 0{hour}:00:00" for hour in (3, 4, 5)),
        *("Persistent=true", "RandomizedDelaySec=15min", "FixedRandomDelay=true", ""),
    ]
    assert "WantedBy=timers.target" in timer
    run = f'"{sys.executable}" "-P" "-m" "mlx_lora" "sleep" "run" "--config" "/home/me/agent/sleep.yaml" "--if-due"'
    inhibit = f'"{shutil.which("systemd-inhibit")}" "--what=sleep:idle" "--who=mlx-lora"'
    assert service[service.index("[Service]") : service.index("[X-MlxLora]")] == [
        "[Service]",
        "Type=oneshot",
        "WorkingDirectory=/home/me/agent",
        'Environment="PATH=/opt/my tools:/usr/bin"',
        f'ExecStart=-:{inhibit} "--why=Night of /home/me/agent/adapters/agent" {run}',
        f"ExecStart=:{run}",
        *("SuccessExitStatus=1", "TimeoutStopSec=120", ""),
    ]
    assert "ConditionACPower=true" not in service
    assert "ConditionACPower=true" in texts_of(schedule(), on_ac_power=True)[1]


def test_days_and_midnight():
    timer, _ = texts_of(schedule(at="23:30", every="mon,sun"))
    assert [line.partition("=")[2] for line in timer if line.startswith("OnCalendar")] == [
        "Mon,Sun *-*-* 23:30:00",
        "Mon,Tue *-*-* 00:30:00",
        "Mon,Tue *-*-* 01:30:00",
    ]


@pytest.fixture
def verify(tmp_path, monkeypatch):
    """Let systemd read the units of a schedule; returns its complaints."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))

    def run(made, variables=None, change=("", "")):
        place = tmp_path / "units"
        place.mkdir(exist_ok=True)
        files = []
        for file, text in systemd.render(made, variables or {}, on_ac_power=True).items():
            files.append(place / file.name)
            files[-1].write_text(text.replace(*change) if change[0] else text)
        command = ["systemd-analyze", "--user", "verify", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if "Failed to initialize manager" in done.stderr:
            pytest.skip("systemd-analyze cannot verify units here")
        return done.stdout + done.stderr

    return run


def test_systemd_reads_the_units(verify, tmp_path):
    for at, every in (("03:00", "day"), ("23:30", "mon,sat"), ("00:05", "weekday")):
        assert verify(schedule(tmp_path, at, every), {"PATH": "/a b:/usr/bin"}) == ""


def test_systemd_understands_odd_paths(verify, tmp_path, monkeypatch):
    """It says which program is not there, and which directory is not absolute, as it has understood them."""
    program = str(tmp_path / "a %d $HOME ünï;#" / "python")
    monkeypatch.setattr(sys, "executable", program)
    # It looks for the first program only.
    said = verify(schedule(tmp_path / ODD), {"PATH": ODD}, change=("ExecStart=-:", "X-First="))
    assert f"Command {program} is not executable" in said
    # Quotation marks in the name of a program, which systemd itself refuses.
    monkeypatch.setattr(sys, "executable", str(tmp_path / ODD / "python"))
    assert verify(schedule(tmp_path / ODD), {"PATH": ODD}) == ""
    said = verify(schedule(tmp_path / ODD), change=("WorkingDirectory=/", "WorkingDirectory="))
    assert f"WorkingDirectory= path is not absolute: {tmp_path / ODD}".replace(": /", ": ") in said


def test_nothing_is_expanded():
    _, service = texts_of(schedule(Path(f"/{ODD}")), {"PATH": ODD})
    quoted = "/a \\\"b\\\" 'c' %%d $HOME \\\\n ünï;#"
    assert f'Environment="PATH={quoted[1:]}"' in service
    starts = [line for line in service if line.startswith("ExecStart=")]
    assert len(starts) == 2
    assert all(f'"--config" "{quoted}/sleep.yaml" "--if-due"' in line for line in starts)
    assert f"WorkingDirectory=/{ODD}".replace("%", "%%") in service


def written(tmp_path):
    made = schedule(tmp_path / "a %b")
    for file, text in systemd.render(made, {}).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return made.name, systemd.files_of(made.name)[0]


def test_load_and_unload(doubles, tmp_path):
    name, timer = written(tmp_path)
    assert not systemd.is_loaded(name)
    doubles.forget()
    systemd.load(name)
    assert doubles.calls()[:2] == ["systemctl --user daemon-reload", f"systemctl --user enable --now {timer.name}"]
    assert systemd.is_loaded(name)
    assert systemd.found() == [timer]
    assert systemd.name_in(timer) == name
    systemd.unload(name)
    assert not systemd.is_loaded(name)
    systemd.unload(name)
    # Nothing is done for others, and nothing as root.
    assert all(call.startswith("systemctl --user ") for call in doubles.calls())


def test_the_directory_of_the_units(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert systemd.directory() == tmp_path / "systemd" / "user"


def test_systemctl_refuses(doubles, tmp_path):
    name, _ = written(tmp_path)
    doubles.say("systemctl --user enable", err="Failed to connect to bus: No medium found\n", rc=1)
    with pytest.raises(UserError) as error:
        systemd.load(name)
    said = "systemctl did not start the timer of the night: Failed to connect to bus: No medium found"
    assert str(error.value) == said
    doubles.say("systemctl --user is-active", "active\n")
    doubles.say("systemctl --user disable", err="Failed to disable unit: Access denied\n", rc=1)
    with pytest.raises(UserError, match="did not stop the timer of the night: Failed to disable unit: Access denied"):
        systemd.unload(name)


def test_no_systemctl(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    systemd.unload(schedule().name)
    with pytest.raises(UserError, match="there is no systemctl on this machine"):
        systemd.load(schedule().name)


def test_lingering_is_named_where_it_is_off(doubles):
    [advice] = systemd.advice(schedule())
    assert "loginctl enable-linger" in advice
    doubles.say("loginctl show-user", "yes\n")
    assert systemd.advice(schedule()) == []
    assert not [call for call in doubles.calls() if "enable-linger" in call]


def test_the_command_runs(doubles, tmp_path):
    """Through systemd-inhibit, whose status is the command's."""
    name, _ = written(tmp_path)
    inhibit = [shutil.which("systemd-inhibit"), "--what=sleep:idle", "--who=mlx-lora", f"--why=Night of {name}"]
    done = subprocess.run(
        [*inhibit, sys.executable, "-P", "-m", "mlx_lora", "--nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert len(doubles.calls("systemd-inhibit --what=sleep:idle")) == 1


def test_files_that_are_no_timers(tmp_path):
    for text in ("", "[Timer]\n", "[X-MlxLora]\nNight=\n"):
        (tmp_path / "a.timer").write_text(text)
        assert systemd.name_in(tmp_path / "a.timer") is None
    (tmp_path / "a.timer").write_bytes(b"\xff\xfe")
    assert systemd.name_in(tmp_path / "a.timer") is None
    assert systemd.name_in(tmp_path / "absent.timer") is None
