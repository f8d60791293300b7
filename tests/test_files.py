"""Files that are replaced: no link is followed on the way, and what only its owner could read stays so."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlx_lora.errors import UserError
from mlx_lora.files import file_lock, is_locked, new_directory, temporary_beside, write_atomic
from mlx_lora.sources.salience import ExperienceCollector


@pytest.fixture
def victim(tmp_path):
    """A file that a planted link points to."""
    file = tmp_path / "elsewhere" / "victim"
    file.parent.mkdir()
    file.write_text("mine")
    return file


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_permissions_stay(tmp_path, mode):
    file = tmp_path / "run.json"
    file.write_text("{}")
    file.chmod(mode)
    write_atomic(file, "[]")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("[]", mode)


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").write_text("")
    write_atomic(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_nobody_else_reads_what_is_being_written(tmp_path, monkeypatch):
    file, seen = tmp_path / "secret", []
    file.write_text("old")
    file.chmod(0o600)
    synced = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(stat.S_IMODE(os.fstat(fd).st_mode)), synced(fd)))
    write_atomic(file, "new")
    assert seen[0] == 0o600


def test_links_in_the_temporary_place_are_not_followed(tmp_path, victim):
    temporary_beside(tmp_path / "run.json").symlink_to(victim)
    write_atomic(tmp_path / "run.json", "{}")
    assert (victim.read_text(), (tmp_path / "run.json").read_text()) == ("mine", "{}")
    assert not (tmp_path / "run.json").is_symlink()
    temporary_beside(tmp_path / "run").symlink_to(victim.parent)
    with new_directory(tmp_path / "run") as directory:
        (directory / "victim").write_text("new")
    assert victim.read_text() == "mine"


def test_an_adapter_is_not_written_through_a_link(tmp_path, victim):
    from mlx_lora.backends.mlx.backend import MLXBackend
    from mlx_lora.config import TrainingConfig
    from mlx_lora.models.resolve import resolve_model

    model = resolve_model("builtin/tiny-lumen")
    backend = MLXBackend(model)
    backend.attach_lora(TrainingConfig(lora_rank=1, lora_target_modules=["q_proj"]))
    (tmp_path / ".adapters.safetensors.tmp.safetensors").symlink_to(victim)
    (tmp_path / "adapters.safetensors").write_text("old")
    (tmp_path / "adapters.safetensors").chmod(0o600)
    backend.save_adapter(tmp_path, model)
    assert victim.read_text() == "mine"
    assert stat.S_IMODE((tmp_path / "adapters.safetensors").stat().st_mode) == 0o600
    assert not (tmp_path / "adapters.safetensors").is_symlink()


def test_a_buffer_keeps_its_permissions_and_its_lock_is_no_link(tmp_path, victim):
    file = tmp_path / "buffer.json"
    file.write_text("[]")
    file.chmod(0o600)
    response = "We found it together. Why does it feel so clear? I understand now, and I am curious about us."
    assert ExperienceCollector(file, 0.0).add_exchange("a", response, 1, "x")["stored"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / ".other.json.lock").symlink_to(victim.parent / "made")
    with pytest.raises(Exception, match="cannot be written"):
        ExperienceCollector(tmp_path / "other.json", 0.0).add_exchange("a", response, 1, "x")
    assert not (victim.parent / "made").exists()


HOLDERS = {
    "ours": "from mlx_lora.files import file_lock\nheld = file_lock(Path(sys.argv[1]), 'held')\nheld.__enter__()",
    "an earlier version": "import fcntl\nfile = open(sys.argv[1], 'r+b')\nfcntl.flock(file, fcntl.LOCK_EX)",
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_lock_ends_with_its_process(tmp_path, holder):
    lock = tmp_path / ".lock"
    lock.write_text("of another program")
    code = f"import sys\nfrom pathlib import Path\n{HOLDERS[holder]}\nprint('locked', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        for timeout in (0, 0.05):
            with pytest.raises(UserError, match="it is in use"), file_lock(lock, "it is in use", timeout):
                pass
        process.kill()
        process.wait()
        with file_lock(lock, "it is in use"):
            pass
    assert lock.read_text() == "of another program"


def test_a_lock_is_not_taken_through_a_link(tmp_path, victim):
    (tmp_path / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match="it cannot be written"), file_lock(tmp_path / ".lock", "held"):
        pass


def test_a_look_at_a_lock_keeps_nobody_from_it(tmp_path):
    """A look holds the lock for a moment, in which another process's attempt must not fail."""
    lock, looking = tmp_path / "lock", threading.Event()
    assert not is_locked(lock)

    def look():
        with file_lock(lock, "held"):
            looking.set()
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(look)
        assert looking.wait(60)
        with file_lock(lock, "held"):
            assert is_locked(lock)
            with pytest.raises(UserError, match="held"), file_lock(lock, "held"):
                pass
    assert not is_locked(lock)
