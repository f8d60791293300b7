"""``mlx-lora doctor``, run as a user does: on this machine as it is, and with something broken or absent."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlx_lora import memory
from mlx_lora.backends.registry import choose
from mlx_lora.doctor import machine, nights
from mlx_lora.files import nearest_existing
from mlx_lora.sleep.scheduling import installation, launchd

REPO = Path(__file__).parents[2]
SUBJECTS = ["machine", "memory", "disk", "GPU", "MLX", "BLAS", "torch", "backend", "llama.cpp", "converter", "Ollama"]
SUBJECTS += ["hub token", "hub cache", "night"]
TOKEN = "hf_mustNeverBePrinted"
RAISES = 'raise ImportError("broken on purpose\\nand a second line")'
ABORTS = "import os; os.abort()"
BACKENDS = ("mlx", "mlx_lm", "mlx_cpu", "mlx_metal", "torch", "peft", "accelerate", "bitsandbytes")
LLAMA_CPP = ("cyllama", "llama_cpp", "llama_cpp_python", "gguf")


class Handler(BaseHTTPRequestHandler):
    """Ollama's ``/api/version``, or one of the ways in which a server can be no Ollama."""

    behaviour = "ollama"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.behaviour == "drip":
            # Each byte comes soon enough for a limit on silence.
            for _ in range(40):
                self.wfile.write(b"H")
                time.sleep(0.2)
            return
        body = b"<html>a captive portal</html>" if self.behaviour == "html" else b'{"version": "0.99.7"}'
        found = self.path == "/api/version"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self):
        with suppress(OSError):  # the client has left
            super().handle()


@contextmanager
def serving(behaviour):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"behaviour": behaviour}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def environment(tmp_path):
    """Make an environment without a hub token, an Ollama that is found by chance, or a given proxy."""

    def make(broken=None, **more) -> dict[str, str]:
        unwanted = ("HF_", "HUGGING_FACE_", "OLLAMA_", "COLUMNS", "TORCHELASTIC_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        for module, code in (broken or {}).items():
            (tmp_path / "broken" / module).mkdir(parents=True)
            (tmp_path / "broken" / module / "__init__.py").write_text(code)
        path = os.pathsep.join(filter(None, [str(tmp_path / "broken"), kept.get("PYTHONPATH")]))
        home = {"HF_HOME": str(tmp_path / "hub"), "OLLAMA_HOST": "127.0.0.1:1"}
        return {**kept, **home, "PYTHONPATH": path, **more}

    return make


def findings(done) -> dict[str, dict[str, str]]:
    """Of a run with ``--json``, by name."""
    assert "Traceback" not in done.stderr
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def rows(done) -> dict[str, tuple[str, str]]:
    """Of the table: name -> (state, what was found and what to do), with the lines of a cell joined."""
    assert "Traceback" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    found: dict[str, tuple[str, str]] = {}
    name = ""
    for line in re.findall(r"^│(.*)│$", done.stdout, re.M):
        first, state, text = (cell.strip() for cell in line.split("│"))
        if first:
            name = first
            found[name] = (state, text)
        else:
            found[name] = (found[name][0], f"{found[name][1]} {text}")
    return found


def test_this_machine(command, environment):
    with serving("ollama") as url:
        done = command("doctor", "--json", env=environment(HF_TOKEN=TOKEN, OLLAMA_HOST=url))
    assert done.returncode == 0
    assert TOKEN not in done.stdout + done.stderr
    found, expected = findings(done), choose()
    assert list(found) == SUBJECTS
    assert json.loads(done.stdout)["backend"] == {"name": expected.name, "why": expected.why}
    assert all(set(one) == {"name", "state", "found", "advice"} for one in found.values())
    assert all(one["found"] and one["state"] in ("ok", "missing", "note") for one in found.values())
    # Whatever is missing here comes with what to do about it.
    assert all(one["advice"] for one in found.values() if one["state"] != "ok")
    assert f"Python {sys.version.split()[0]}" in found["machine"]["found"]
    assert re.match(r"[\d.]+ GB, [\d.]+ GB of it available", found["memory"]["found"])
    assert (found["Ollama"]["state"], found["Ollama"]["found"]) == ("ok", f"0.99.7 at {url}")
    assert found["hub token"]["state"] == "ok"
    assert (found["MLX"]["state"], found["backend"]["state"]) == ("ok", "ok")
    assert expected.why in found["backend"]["found"]
    if found["torch"]["state"] == "missing":
        assert "mlx-lora[torch]" in found["torch"]["advice"]


@pytest.mark.slow
def test_a_torch_that_does_not_import_and_an_ollama_that_never_ends(command, environment):
    with serving("drip") as url:
        done = command("doctor", env=environment({"torch": RAISES}, OLLAMA_HOST=url))
    found = rows(done)
    assert list(found) == SUBJECTS
    state, said = found["torch"]
    assert state == "missing"
    assert "does not work: ImportError: broken on purpose" in said
    assert "pip install --force-reinstall torch`" in said
    assert "second line" not in done.stdout
    assert found["Ollama"][0] == "missing"
    assert f"{url}: no answer in 2 seconds" in found["Ollama"][1]
    assert "or correct OLLAMA_HOST" in found["Ollama"][1]
    assert found["hub token"][0] == "missing"
    assert "`hf auth login`" in found["hub token"][1]
    # Where transformers finds torch, mlx-lm imports it too, and nothing trains.
    works = found["MLX"][0] == "ok"
    assert done.returncode == (0 if works else 1)
    assert works or "mlx-lm imports torch, which is broken here" in found["MLX"][1]
    assert works or "CANNOT TRAIN" in done.stdout


def test_an_mlx_that_kills_its_process(command, environment, tmp_path):
    done = command("doctor", "--json", env=environment({"mlx_lm": ABORTS}, HF_HUB_OFFLINE="1"), cwd=tmp_path)
    found = findings(done)
    assert found["MLX"]["state"] == "missing"
    assert "killed by SIGABRT" in found["MLX"]["found"]
    assert "pip install --force-reinstall mlx mlx-lm" in found["MLX"]["advice"]
    torch_works = found["torch"]["state"] == "ok"
    assert done.returncode == (0 if torch_works else 1)
    if choose().name == "mlx":
        assert "which does not work" in found["backend"]["found"]
        assert ("use the other one: `--backend torch`" in found["backend"]["advice"]) == torch_works
    assert found["hub token"]["state"] == "note"
    assert "HF_HUB_OFFLINE" in found["hub token"]["found"]
    assert str(tmp_path) in found["disk"]["found"]
    assert str(tmp_path / "hub" / "hub") in found["hub cache"]["found"]


def test_nothing_that_could_train(environment, tmp_path):
    """In a true environment that has what this one has, but for MLX, torch and llama.cpp."""
    venv.create(tmp_path / "venv", symlinks=True)
    place = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if (
            re.split(r"[-.]", entry.name)[0].lower() not in (*BACKENDS, *LLAMA_CPP)
            and not (place / entry.name).exists()
        ):
            (place / entry.name).symlink_to(entry)
    program = [tmp_path / "venv" / "bin" / "python", "-m", "mlx_lora", "doctor", "--json"]
    done = subprocess.run(program, env=environment(), cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    found = findings(done)
    assert [found[name]["state"] for name in ("MLX", "torch", "backend", "llama.cpp")] == ["missing"] * 4
    backend = json.loads(done.stdout)["backend"]
    assert backend["name"] is None
    assert "neither MLX nor torch is installed" in backend["why"]
    assert found["torch"]["found"].startswith("not installed: torch, ")
    assert "`pip install 'mlx-lora[torch]'`" in found["torch"]["advice"]
    assert "`pip install 'mlx-lora[gguf]'`" in found["llama.cpp"]["advice"]
    assert "no Ollama answers there" in found["Ollama"]["found"]


def test_help_says_what_the_exit_status_means(command):
    said = " ".join(command("doctor", "--help").stdout.split())
    assert "0 this machine can train" in said
    assert "1 it cannot" in said


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1:notaport", "this is not an Ollama server's address"),
        ("{html}", "what answers there is not Ollama"),
        ("{absent}", "no Ollama answers there"),
    ],
)
def test_what_is_no_ollama(monkeypatch, host, said):
    with serving("html") as url, socket.create_server(("127.0.0.1", 0)) as taken:
        absent = f"127.0.0.1:{taken.getsockname()[1]}"
        taken.close()
        monkeypatch.setenv("OLLAMA_HOST", host.format(html=url, absent=absent))
        found = machine.ollama()
    assert found.state == "missing"
    assert said in found.found
    assert "ollama serve" in found.advice


def test_how_to_get_ollama(monkeypatch, tmp_path):
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "https://ollama.com/download" in machine.ollama().advice
    (tmp_path / "ollama").write_text("#!/bin/sh\n")
    (tmp_path / "ollama").chmod(0o755)
    assert "start it: `ollama serve`" in machine.ollama().advice


def test_a_gpu_that_nothing_can_use(monkeypatch, tmp_path):
    """The driver's own program names it; what to do depends on the torch that is there."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA H100 80GB HBM3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    none = {"gpu": None}
    found = machine.gpu(none, {"failed": "killed by SIGILL"})
    assert (found.state, "NVIDIA H100 80GB HBM3" in found.found) == ("missing", True)
    assert "mlx-lora[torch]" in found.advice
    assert "CUDA build" in machine.gpu(none, {"build": None, "gpus": []}).advice
    assert "update the driver" in machine.gpu(none, {"build": "CUDA 13.0", "gpus": []}).advice
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed because it could not talk to the driver\nexit 9\n")
    assert machine.gpu(none, {"build": None, "gpus": []}).state == "note"


def test_gpus_and_their_memory():
    cuda = {"build": "CUDA 12.8", "gpus": [{"name": "NVIDIA H100", "memory": 85_000_000_000}] * 2}
    metal = {"gpu": {"kind": "Metal", "name": "Apple M2 Max", "memory": 51_500_000_000}}
    assert machine.gpu({}, cuda).found.count("NVIDIA H100 (85.0 GB, CUDA 12.8, through torch)") == 2
    assert machine.gpu(metal, {}).found == "Apple M2 Max (Metal, through MLX)"
    assert "85.0 GB + 85.0 GB" in machine.recommended_memory({}, cuda)
    assert machine.memory(machine.recommended_memory(metal, {})).found.endswith("Metal recommends 51.5 GB for a model")


VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            418231.
Pages inactive:                           20000.
Pages speculative:                         1000.
Pages throttled:                              0.
Pages wired down:                        120304.
Pages purgeable:                             24.
"Translation faults":                 123456789.
Pages copy-on-write:                    7654321.
"""


def test_memory():
    total, available = machine.memory_sizes()
    assert 0 < available <= total
    assert memory.available_of_vm_stat(VM_STAT) == 31_000 * 16384
    assert memory.available_of_vm_stat("") is None


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no control groups")
def test_a_container_has_its_share_of_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 200000\n")
    assert memory.memory_sizes() == (1000000, 500000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.memory_sizes()[0] > 1000000


def test_a_disk_where_nothing_lies_yet(tmp_path):
    found = machine.disk("hub cache", tmp_path / "a" / "b", "set HF_HOME")
    assert str(tmp_path / "a" / "b") in found.found
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_disk_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o555)
    found = machine.disk("hub cache", tmp_path / "a", "set HF_HOME")
    assert "may not be written" in found.found
    assert found.advice.endswith("or set HF_HOME")
    tmp_path.chmod(0o755)


@pytest.fixture
def night(doubles, tmp_path, monkeypatch):
    """Install nights of adapters in a directory of their own; returns the adapter's directory."""
    monkeypatch.chdir(tmp_path)

    def make(adapter="agent", scheduler="launchd", every="day") -> Path:
        config = f"name: adapters/{adapter}\nmodel_name: builtin/tiny-lumen\nstores: [{{salience: x.json}}]\n"
        (tmp_path / f"{adapter}.yaml").write_text(config)
        plan = installation.plan(f"{adapter}.yaml", "03:00", every, scheduler)
        installation.install(plan, False, lambda: {"mlx_small": 1.0})
        return plan.schedule.name

    return make


def cycle(name, number="0001", started=None, **content) -> None:
    directory = name / "cycles" / number
    directory.mkdir(parents=True)
    started = started or datetime.now().astimezone().isoformat()
    (directory / "cycle.json").write_text(
        json.dumps({"cycle": number, "started": started, "ended": started, **content})
    )


def test_no_night(doubles):
    [found] = nights.night_findings()
    assert (found.name, found.state, found.advice) == ("night", "ok", "")
    assert found.found.startswith("none is installed")


def test_several_nights(night):
    name, other = night(), night("other", "systemd", "mon,sat")
    cycle(name, decision="promoted", generation=7, reason="better on every night")
    found = nights.night_findings()
    assert [(one.name, one.state) for one in found] == [("night", "ok")] * 2
    tomorrow = datetime.now().astimezone() + timedelta(days=1)
    assert found[0].found.startswith(f"{name}: every night at 03:00, next due 20")
    assert f"{tomorrow:%Y}" in found[0].found
    assert re.search(
        r"the last one, 0001 of [\d-]+ [\d:]+, promoted generation 7: better on every night$", found[0].found
    )
    assert found[1].found.startswith(f"{other}: on Mon, Sat at 03:00, next due 20")
    assert found[1].found.endswith("; no night yet")


def test_what_the_last_night_did(night):
    name = night()
    cycle(name, "0001", decision="kept", reason="no better")
    assert nights.night_findings()[0].found.endswith("kept: no better")
    cycle(name, "0002", decision="skipped", reason="9 new experiences, 10 are needed")
    assert nights.night_findings()[0].found.endswith("skipped: 9 new experiences, 10 are needed")
    cycle(name, "0003", decision="failed", reason="the disk is full")
    found = nights.night_findings()[0]
    assert (found.state, found.found.endswith("failed: the disk is full")) == ("note", True)
    assert "sleep report" in found.advice
    cycle(name, "0004", ended=None)
    assert "is running or was cut" in nights.night_findings()[0].found


def test_a_night_that_cannot_run(night, doubles, tmp_path):
    name = night()
    [plist] = launchd.files_of(name)
    launchd.unload(name)
    assert "launchd has not loaded it" in nights.night_findings()[0].advice
    launchd.load(name)
    (tmp_path / "agent.yaml").write_text("name: adapters/agent\nstores: 7\n")
    assert nights.night_findings()[0].advice.startswith("tonight's would fail: ")
    file = name / "schedule.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"installed": "2026-01-01T12:00:00+00:00"}))
    night()
    assert nights.night_findings()[0].advice.startswith("none since 2026-01-02 03:00: ")
    cycle(name, decision="kept")
    assert nights.night_findings()[0].advice == ""
    file.write_text(json.dumps(json.loads(before) | {"python": "/gone/python"}))
    assert nights.night_findings()[0].advice.startswith("its Python, /gone/python, is gone; ")
    file.write_text("torn")
    assert nights.night_findings()[0].found.startswith(f"{file}: this is not a schedule")
    file.unlink()
    found = nights.night_findings()[0]
    assert "no schedule.json" in found.found
    assert f"uninstall --config {name}" in found.advice
    plist.write_text("no plist")
    assert "cannot be read" in nights.night_findings()[0].found


def test_a_night_in_the_table(night, command, environment):
    name = night()
    cycle(name, decision="failed", reason="a sentence that is long enough to be wrapped in a table of 80 columns")
    state, said = rows(command("doctor", env=environment()))["night"]
    assert state == "note"
    assert "every night at 03:00" in said
    assert "mlx-lora sleep report" in said
