"""The timeline in Debian's redis-server beside the one in SQLite."""

import shutil
import socket
import subprocess
import time

import pytest
from embedders import HashedWords
from test_timeline import pdcas  # noqa: F401

from mlx_lora.errors import UserError
from mlx_lora.retrieval.index import Index
from mlx_lora.retrieval.redis_store import RedisTimeline
from mlx_lora.retrieval.timeline import Timeline


@pytest.fixture
def server(tmp_path):
    """A server of its own on a free port; its address."""
    pytest.importorskip("redis", reason="needs the extra redis")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server is installed: apt install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


def test_it_answers_as_sqlite_does(server, tmp_path, pdcas):  # noqa: F811
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        index.add([pdcas])
        ours, theirs = Timeline(tmp_path / "index"), RedisTimeline(server)
        assert theirs.write(ours) == 3
        names = [pdca["id"] for pdca in ours.pdcas()]
        assert theirs.in_order() == names
        for name in names:
            assert theirs.after(name) == ours.after(name)
            assert theirs.before(name) == ours.before(name)
        assert theirs.after(names[0]) == [names[1]]
        assert theirs.pdca(names[1])["quality_score"] == "100.0"
        # Written again, nothing of the earlier state remains.
        index.remove(pdcas / f"{names[1]}.pdca.md")
        assert theirs.write(ours) == 2
        assert theirs.pdca(names[1]) == {}
        assert theirs.after(names[0]) == [names[2]]
        theirs.close()


def test_errors_are_sentences(tmp_path):
    pytest.importorskip("redis", reason="needs the extra redis")
    with pytest.raises(UserError, match="Redis does not answer"):
        RedisTimeline("redis://127.0.0.1:1/0")
    with pytest.raises(UserError, match="not an address of Redis"):
        RedisTimeline("http://127.0.0.1:1")
    with pytest.raises(UserError, match="no timeline"):
        Timeline(tmp_path)
