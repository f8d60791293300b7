"""Generations of an adapter: what each change does to refs, links and history, and bad directories."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from mlx_lora.backends.adapter_format import published
from mlx_lora.errors import UserError
from mlx_lora.files import file_lock
from mlx_lora.runs import journal
from mlx_lora.runs.generations import Generations
from mlx_lora.runs.history import History
from mlx_lora.runs.refs import Refs

PIPES = {"capture_output": True, "text": True, "timeout": 60}


def state(generations):
    refs = generations.refs
    return refs.live, refs.previous, refs.best, refs.trial


def night(generations, make_run, number, **options):
    made = generations.add(make_run(number), {"cycle": f"{number:04d}"})
    generations.promote(made, f"night {number}", cycle=f"{number:04d}", **options)
    return made


def test_a_generation_is_a_copy_that_its_manifest_describes(tmp_path, make_run):
    generations = Generations(tmp_path / "agent")
    assert (generations.live, generations.numbers(), generations.history()) == (None, [], [])
    number = generations.add(make_run(1), {"cycle": "0001", "gate": {"verdict": "better"}})
    assert (number, generations.live) == (1, None)
    manifest = json.loads((generations.path(1) / "manifest.json").read_text())
    assert manifest["gate"] == {"verdict": "better"}
    assert (manifest["generation"], manifest["parent"], manifest["round"], manifest["cycle"]) == (1, None, None, "0001")
    assert set(manifest["sha256"]) == {"adapters.safetensors", "adapter_config.json", "run.json", "report.html"}
    # The same run again is the same generation, of another night it is not.
    assert generations.add(make_run(1), {"cycle": "0001"}) == 1
    assert generations.add(make_run(1), {"cycle": "0002"}) == 2
    assert [line["event"] for line in generations.history()] == ["added", "added"]


def test_a_run_that_started_from_a_generation_is_its_child(generations, make_run):
    run = make_run(7001, init_adapter=str(generations.path(2)))
    number = generations.add(run, {"cycle": "a"})
    assert json.loads((generations.path(number) / "manifest.json").read_text())["parent"] == 2
    run = make_run(7002, init_adapter="/elsewhere/generations/0002")
    number = generations.add(run, {"cycle": "b"})
    assert json.loads((generations.path(number) / "manifest.json").read_text())["parent"] == 3


def test_promotion_trial_and_rollback(generations, make_run):
    assert state(generations) == (3, 2, 3, None)
    night(generations, make_run, 4, trial=True)
    assert state(generations) == (4, 3, 3, 4)
    generations.promote(4, "again", trial=True)
    assert state(generations) == (4, 3, 3, 4)
    generations.confirm("the suite passed")
    generations.confirm("the suite passed")
    assert state(generations) == (4, 3, 3, None)
    night(generations, make_run, 5, trial=True)
    assert generations.rollback("collapsed") == 4
    # Undoing goes further back each time, never forth to what was undone.
    assert state(generations) == (4, 3, 3, None)
    assert generations.rollback("worse") == 3
    assert generations.rollback("worse") == 2
    night(generations, make_run, 6)
    assert state(generations) == (6, 2, 3, None)
    assert generations.rollback("by hand", to=5) == 5
    assert generations.rollback("to the base", to=0) is None
    assert generations.live is None
    events = [(line["event"], line["generation"]) for line in generations.history()]
    assert events[-2:] == [("rolled_back", 5), ("rolled_back", None)]
    assert events.count(("promoted", 4)) == events.count(("confirmed", 4)) == 1


def test_the_first_generation_is_undone_to_the_base(tmp_path, make_run):
    generations = Generations(tmp_path / "agent")
    night(generations, make_run, 1)
    assert published(generations.directory) == generations.path(1)
    assert (generations.directory / "adapters.safetensors").exists()
    assert generations.rollback("bad") is None
    assert published(generations.directory) == generations.directory
    assert not (generations.directory / "adapters.safetensors").exists()
    with pytest.raises(UserError, match="no generation is live"):
        generations.rollback("again")
    generations.promote(1, "it was good after all")
    assert (generations.live, generations.previous) == (1, None)
    assert (generations.directory / "adapters.safetensors").exists()


def test_a_rollback_passes_over_what_is_damaged(generations, make_run):
    night(generations, make_run, 4)
    weights = generations.path(3) / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    shutil.rmtree(generations.path(2))
    assert generations.rollback("bad") == 1
    with pytest.raises(UserError, match="truncated"):
        generations.rollback("there", to=3)
    with pytest.raises(UserError, match="there is no generation 2; generations: 1, 3, 4; refs: live is 1"):
        generations.rollback("there", to=2)


def test_a_damaged_generation_is_not_promoted(generations):
    weights = generations.path(1) / "adapters.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"not the adapter that manifest\.json describes"):
        generations.promote(1, "by hand")
    assert generations.live == 3


def test_collection_keeps_what_is_named(generations, make_run):
    for number in range(4, 11):
        night(generations, make_run, number)
    generations.mark_best(2, "the best")
    generations.pin(1)
    generations.pin(4)
    generations.unpin(4)
    generations.rollback("worse", to=5)
    assert state(generations) == (5, 4, 2, None)
    assert generations.collect(keep=2) == [3, 6, 7, 8]
    assert generations.numbers() == [1, 2, 4, 5, 9, 10]
    assert generations.collect(keep=2) == []
    assert generations.add(make_run(11), {"cycle": "0011"}) == 11


def test_collected_numbers_are_not_used_again(tmp_path, make_run):
    generations = Generations(tmp_path / "agent")
    for number in (1, 2, 3):
        generations.add(make_run(number), {"cycle": str(number)})
    assert generations.collect(keep=0) == [1, 2, 3]
    assert generations.add(make_run(4), {"cycle": "4"}) == 4
    collected = [line for line in generations.history() if line["event"] == "collected"]
    assert all(len(line["sha256"]) == 64 for line in collected)


def test_a_generation_that_is_put_back_from_a_copy_stays(generations, make_run, tmp_path):
    shutil.copytree(generations.path(1), tmp_path / "kept")
    assert generations.collect(keep=0) == [1]
    shutil.copytree(tmp_path / "kept", generations.directory / "generations" / "0001")
    generations.promote(1, "it was put back")
    assert generations.live == 1


def test_pins(generations):
    generations.pin(1)
    generations.pin(1)
    assert generations.pinned == {1}
    generations.unpin(1)
    generations.unpin(1)
    assert generations.pinned == set()
    assert not (generations.directory / "refs" / "pinned").exists()
    with pytest.raises(UserError, match="there is no generation 9"):
        generations.pin(9)


def test_a_torn_last_line_is_dropped(generations):
    file = generations.directory / "history.jsonl"
    whole = file.read_bytes()
    lines = len(generations.history())
    for torn in (b'{"format": 1, "number"', b"\0\0\0", b'{"format": 1\n'):
        file.write_bytes(whole + torn)
        assert len(generations.history()) == lines
        generations.recover()
        assert file.read_bytes() == whole
    # The last event, which had not been acknowledged.
    file.write_bytes(whole[:-10])
    generations.recover()
    assert state(generations) == (3, 2, None, None)


def changed(line, **keys):
    return json.dumps({**json.loads(line), **keys}).encode()


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [lines[0], changed(lines[1], reason="another"), *lines[2:]], 3),
        (lambda lines: [lines[0], b"torn in the middle", *lines[2:]], 2),
        (lambda lines: [lines[0], changed(lines[1], refs=None), *lines[2:]], 2),
        (lambda lines: [lines[0], changed(lines[1], number=7), *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
    ],
)
def test_a_broken_chain_is_one_sentence_that_names_the_line(generations, damage, number):
    file = generations.directory / "history.jsonl"
    broken = b"\n".join(damage(file.read_bytes().splitlines())) + b"\n"
    file.write_bytes(broken)
    for change in (generations.history, generations.recover, lambda: generations.rollback("bad")):
        with pytest.raises(UserError, match=rf"history\.jsonl, line {number}: the chain is broken, .*rename it"):
            change()
    assert (file.read_bytes(), generations.live) == (broken, 3)
    # As the sentence says.
    file.rename(file.with_name("history.jsonl.broken"))
    assert generations.rollback("bad") == 2
    assert state(generations) == (2, 1, 3, None)


def test_a_later_format_is_refused(generations):
    file = generations.directory / "history.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:-1], changed(lines[-1], format=2)]) + b"\n")
    with pytest.raises(UserError, match="format 2"):
        generations.recover()


@pytest.mark.parametrize("lost", ["refs", "refs/live", "live", "adapters.safetensors"])
def test_refs_and_links_that_are_lost_are_made_again(generations, lost):
    place = generations.directory / lost
    shutil.rmtree(place) if lost == "refs" else place.unlink()
    assert published(generations.directory) == generations.path(3)
    generations.recover()
    assert state(generations) == (3, 2, 3, None)
    assert (generations.directory / "adapters.safetensors").exists()


def test_an_unreadable_ref_falls_back_to_the_link(generations):
    (generations.directory / "refs" / "live").write_text("\0\0\0")
    assert published(generations.directory) == generations.path(3)
    generations.recover()
    assert (generations.directory / "refs" / "live").read_text() == "0003\n"


def test_a_copy_that_followed_the_links(generations, tmp_path, make_run):
    copy = Generations(tmp_path / "copy")
    shutil.copytree(generations.directory, copy.directory)
    assert (copy.directory / "live").is_dir()
    assert not (copy.directory / "live").is_symlink()
    night(copy, make_run, 4)
    assert (copy.directory / "live").resolve() == copy.path(4)
    assert (copy.directory / "adapters.safetensors").resolve() == copy.path(4) / "adapters.safetensors"
    assert (copy.directory / "live.copied-1" / "adapters.safetensors").exists()


def test_a_plain_run_is_not_replaced(tmp_path, make_run):
    shutil.copytree(make_run(1), tmp_path / "agent")
    with pytest.raises(UserError, match="this is a run, which generations would replace"):
        Generations(tmp_path / "agent").add(make_run(2), {})
    assert not (tmp_path / "agent" / "generations").exists()


def test_a_run_without_an_adapter_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"has no adapters\.safetensors"):
        Generations(tmp_path / "agent").add(tmp_path / "run", {})
    assert not (tmp_path / "agent").exists()


def test_two_writers_wait_for_each_other(tmp_path, make_run):
    def write(first):
        generations = Generations(tmp_path / "agent")
        for number in range(first, first + 8):
            night(generations, make_run, number)

    for number in range(16):
        make_run(number)
    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    generations = Generations(tmp_path / "agent")
    history = generations.history()
    assert [line["number"] for line in history] == list(range(1, 33))
    assert generations.numbers() == list(range(1, 17))
    assert Refs.of_line(history[-1]) == generations.refs


def test_a_writer_that_does_not_end_is_named(generations, monkeypatch):
    monkeypatch.setattr(journal, "PATIENCE", 0.05)
    with file_lock(generations.directory / journal.LOCK, "held"):
        with pytest.raises(UserError, match="another process is changing its generations"):
            generations.rollback("bad")
        # Readers do not wait.
        assert generations.live == 3


class Disk:
    """The system's calls that may need space on a disk, of which some fail."""

    NAMES = ("fsync", "replace", "rename", "symlink", "mkdir")

    def __init__(self, monkeypatch):
        self.count, self.fails = 0, lambda number: False
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))

    def failing(self, call):
        def run(*arguments, **keywords):
            self.count += 1
            if self.fails(self.count):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **keywords)

        return run


def failure(change, generations):
    """Return the sentence with which a change fails; ``None`` if it does not."""
    try:
        change(generations)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("what", ["promote", "rollback", "add", "collect"])
def test_a_full_disk_at_each_point(generations, make_run, monkeypatch, tmp_path, what, for_good):
    start, run = tmp_path / "start", make_run(4)
    change = {
        "promote": lambda copy: copy.promote(2, "better", trial=True),
        "rollback": lambda copy: copy.rollback("bad", to=3),
        "add": lambda copy: copy.add(run, {"cycle": "0004"}),
        "collect": lambda copy: copy.collect(keep=0),
    }[what]
    generations.rollback("for the test", to=1)
    shutil.copytree(generations.directory, start, symlinks=True)
    disk, failures = Disk(monkeypatch), 0
    for first in range(1, 100):
        copy = Generations(tmp_path / f"copy-{first}")
        shutil.copytree(start, copy.directory, symlinks=True)
        before, lines = copy.refs, copy.history()
        disk.count, disk.fails = 0, lambda number, first=first: number >= first if for_good else number == first
        said = failure(change, copy)
        assert said is None or "disk is full" in said
        reached, disk.fails = disk.count >= first, lambda number: False
        history = copy.history()
        assert copy.live == Refs.of_line(history[-1]).live
        if said and not for_good:
            # A single failure: nothing has changed.
            assert copy.refs == before
            assert history[: len(lines)] == lines
            assert Refs.of_line(history[-1]) == before
        failures += said is not None
        copy.recover()
        assert copy.refs == Refs.of_line(copy.history()[-1])
        assert (copy.directory / "live").resolve() == copy.path(copy.live)
        if not reached:
            break
    assert failures > 1
    assert said is None


def test_names_are_synced_before_and_after_they_change(generations, monkeypatch, make_run):
    synced, renamed = set(), []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def note(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def change(call):
        def run(source, target):
            if not os.path.islink(source) and ".collected" not in str(target):
                assert os.path.realpath(source) in synced, source
            call(source, target)
            synced.discard(os.path.realpath(os.path.dirname(target)))
            renamed.append(os.path.realpath(os.path.dirname(target)))

        return run

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", change(replace))
    monkeypatch.setattr(os, "rename", change(rename))
    night(generations, make_run, 4)
    generations.rollback("bad")
    generations.collect(keep=0)
    assert len(set(renamed)) > 2
    assert set(renamed) <= synced
    assert str(generations.directory.resolve() / "history.jsonl") in synced


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, whom the system refuses")
def test_a_directory_that_may_not_be_written_to(generations):
    for place in (generations.directory.parent, generations.directory):
        place.chmod(0o755)
    code = (
        "import os, filelock\n"
        "from mlx_lora.runs.generations import Generations; from mlx_lora.errors import UserError\n"
        "os.setuid(65534); found = Generations('agent'); assert found.live == 3\n"
        "try: found.rollback('bad')\nexcept UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=generations.directory.parent, **PIPES)
    assert "writing there is not permitted" in done.stdout, done.stderr
    assert generations.live == 3


def test_the_history_is_read_while_it_is_written(generations, make_run):
    over, wrong = threading.Event(), []

    def read():
        while not over.wait(0.001):
            try:
                History.read(generations.directory / "history.jsonl").check()
            except UserError as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(4, 12):
        night(generations, make_run, number)
    over.set()
    reader.join()
    assert not wrong
