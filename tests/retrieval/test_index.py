"""Index: what is added is found, exactly; state by state, whoever reads, writes, or is killed."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from embedders import HashedWords

from mlx_lora.errors import UserError
from mlx_lora.processes import python_environment
from mlx_lora.retrieval import importer
from mlx_lora.retrieval.documents import document_of
from mlx_lora.retrieval.importer import Importer
from mlx_lora.retrieval.index import Index
from mlx_lora.retrieval.snapshot import Snapshot
from mlx_lora.retrieval.text_query import expression_of, words_of
from mlx_lora.retrieval.vectors import best_rows


@pytest.fixture
def docs(tmp_path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "harbour.md").write_text("# Harbour\n\nShips wait.\n\n## Tides\n\nThe tide turns twice a day.\n")
    (folder / "kitchen.md").write_text("# Kitchen\n\nBread rises slowly.\n\n## Ovens\n\nThe oven is hot.\n")
    (folder / "code.ts").write_text("export class TideClock {\n  constructor() {}\n}\n")
    return folder


@pytest.fixture
def make_index(tmp_path):
    opened = []

    def make(name="index", embedder=None, **options):
        opened.append(Index.open(tmp_path / name, embedder=embedder or HashedWords(), **options))
        return opened[-1]

    yield make
    for index in opened:
        index.close()


def write_many(folder: Path, number: int, parts: int = 4) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = []
    for n in range(number):
        sections = "\n".join(f"## Part {p}\n\ndocument{n} part{p} common words here\n" for p in range(parts))
        files.append(folder / f"d{n:04}.md")
        files[-1].write_text(f"# Document {n}\n{sections}")
    return files


class TestSearch:
    @pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
    def test_the_right_passage_is_first(self, docs, make_index, mode):
        index = make_index()
        added = index.add([docs])
        assert (added.documents, added.chunks, added.refused) == (3, 5, [])
        hit = index.search("the tide turns", k=2, mode=mode)[0]
        assert hit.text == "The tide turns twice a day."
        assert (hit.document, hit.collection) == (str(docs / "harbour.md"), "process_docs")
        assert hit.metadata["headings"] == "Harbour > Tides"
        assert hit.metadata["line"] == 7

    def test_a_sum_of_reciprocal_ranks(self, docs, make_index):
        index = make_index()
        index.add([docs])
        assert index.search("the tide turns")[0].score == pytest.approx(2 / 61)

    def test_collections_and_metadata_narrow_a_search(self, docs, make_index):
        index = make_index()
        index.add([docs])
        for mode in ("hybrid", "vector", "text"):
            assert {h.collection for h in index.search("tide clock", collections=["components"], mode=mode)} == {
                "components"
            }
            found = index.search("tide clock constructor", where={"patterns": "empty_constructor"}, mode=mode)
            assert [h.document for h in found] == [str(docs / "code.ts")]
            assert index.search("tide", where={"patterns": "no such"}, mode=mode) == []
        both = index.search("tide", k=9, where={"file_type": ["md", "ts"]}, mode="vector")
        assert len(both) == 5
        with pytest.raises(UserError, match="nearest is components"):
            index.search("tide", collections=["component"])
        with pytest.raises(UserError, match="not a mode"):
            index.search("tide", mode="exact")
        with pytest.raises(UserError, match="cannot be searched"):
            index.search("tide", where={"layer": {"$gt": 1}})

    @pytest.mark.parametrize("query", ["", " ", "\0", "\ud800", '"', "a AND OR NOT (", "NEAR/2 *", "ÉTÉ", "x" * 10**5])
    def test_any_query_is_a_query(self, docs, make_index, query):
        index = make_index()
        index.add([docs])
        for mode in ("hybrid", "text"):
            index.search(query, mode=mode)

    def test_an_empty_index_has_no_hits(self, make_index):
        assert make_index().search("anything") == []

    def test_what_must_not_be_retrieved_is_not(self, tmp_path, make_index):
        file = tmp_path / "private.md"
        file.write_text("---\nok_to_retrieve: false\nlicense: MIT\n---\n# Tide\n\nThe tide turns.\n")
        index = make_index()
        index.add([file])
        assert index.list()[0].metadata["license"] == "MIT"
        for mode in ("hybrid", "vector", "text"):
            assert index.search("tide", mode=mode) == []

    def test_words_of_many_chunks_give_way_to_rare_ones(self):
        class Counts:
            def document_count(self, word):
                return {"harbour": 3, "ship": 9000, "common": 20_000, "words": 90_000}.get(word, 0)

        assert expression_of("the common words, ship, harbour, missing", Counts()) == '"harbour" OR "ship"'
        assert expression_of("the common words", Counts()) == '"common"'
        assert expression_of("?!", Counts()) == ""

    def test_words_inside_identifiers(self, tmp_path, make_index):
        assert words_of("new HTTPServer2Loader(readFile) plain Word") == "http server2 loader read file"
        (tmp_path / "a.ts").write_text("const x = new WsServer()")
        (tmp_path / "b.py").write_text("y = read_file()")
        index = make_index()
        index.add([tmp_path / "a.ts", tmp_path / "b.py"])
        for query, name in [("ws server", "a.ts"), ("WsServer", "a.ts"), ("read_file", "b.py"), ("file", "b.py")]:
            assert [Path(h.document).name for h in index.search(query, mode="text")] == [name]


class TestExactness:
    def test_recall_is_one_against_brute_force(self, tmp_path, make_index):
        index = make_index(embedder=HashedWords(16))
        index.add(write_many(tmp_path / "many", 100))
        index.remove(document=tmp_path / "many" / "d0007.md")
        with index._store.transaction():
            texts = {c: f"{h}\n{t}" for c, _, h, t in index._store.chunks_with_text(0, 10**6)}
        matrix = index.embedder.embed(list(texts.values()))
        for query in ("document3 part1", "common words", "document99 document98"):
            scores = matrix @ index.embedder.embed([query])[0]
            best = sorted(zip(-scores, texts, strict=True))[:10]
            found = index.search(query, k=10, mode="vector")
            assert [h.score for h in found] == pytest.approx([-s for s, _ in best], abs=1e-6)
            assert all(texts[h.id].endswith(h.text) for h in found)

    def test_best_rows_of_ties_are_the_first(self):
        scores = np.array([1, 3, 3, -np.inf, 3, 2], dtype=np.float32)
        assert best_rows(scores, 2).tolist() == [1, 2]
        assert best_rows(scores, 9).tolist() == [1, 2, 4, 5, 0]


class TestIncremental:
    def test_unchanged_documents_are_skipped_and_changed_ones_replaced(self, docs, make_index):
        index = make_index()
        index.add([docs])
        (docs / "kitchen.md").write_text("# Kitchen\n\nSoup simmers.\n")
        before = index.embedder.embedded
        added = index.add([docs])
        assert (added.documents, added.chunks, added.unchanged) == (1, 1, 2)
        assert index.embedder.embedded == before + 1
        assert [h.text for h in index.search("oven hot bread", mode="text")] == []
        assert index.search("soup", k=1)[0].text == "Soup simmers."

    def test_remove_a_document_and_a_collection(self, docs, make_index):
        index = make_index()
        index.add([docs])
        assert index.remove(docs / "harbour.md") == 1
        assert index.remove(collection="components") == 1
        assert [d.document for d in index.list()] == [str(docs / "kitchen.md")]
        assert index.search("tide", mode="text") == []
        assert len(index.search("tide", k=9, mode="vector")) == 2
        with pytest.raises(UserError, match=r"has no .*nearest is .*kitchen\.md"):
            index.remove("kitchen")
        with pytest.raises(UserError, match="name the document"):
            index.remove()

    def test_dead_rows_are_compacted(self, tmp_path, make_index, monkeypatch):
        monkeypatch.setattr(importer, "LEAST_DEAD_ROWS", 10)
        index = make_index()
        files = write_many(tmp_path / "many", 20)
        index.add(files)
        reader = make_index(readonly=True)
        expected = reader.search("document19 part3", k=1, mode="vector")[0].text
        for file in files[:15]:
            index.remove(file)
        with index._store.transaction():
            assert index._store.settings()["rows"] < 60
        assert [p.name for p in index._store.directory.glob("*.f32")] == [
            f"vectors-{index._store.settings()['vectors']}.f32"
        ]
        for one in (index, reader):
            assert one.search("document19 part3", k=1, mode="vector")[0].text == expected
            assert len(one.search("common", k=99, mode="vector")) == 20

    def test_another_embedder_embeds_all_again(self, docs, make_index):
        make_index().add([docs])
        other = HashedWords(24, "other")
        index = make_index(embedder=other)
        with pytest.raises(UserError, match="embedded by hashed-32, not by hashed-24other"):
            index.search("tide")
        assert index.search("tide", mode="text")
        added = index.add([])
        assert (added.documents, other.embedded) == (0, 5)
        assert index.search("the tide turns", k=1)[0].text == "The tide turns twice a day."
        index.add([docs])
        assert other.embedded == 6  # one for the question

    @pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: os.truncate(f, 100)])
    def test_damaged_vectors_are_a_sentence_and_are_made_anew(self, docs, make_index, damage):
        make_index().add([docs])
        index = make_index()
        damage(next(index._store.directory.glob("*.f32")))
        with pytest.raises(UserError, match="`mlx-lora index add` without paths makes it anew"):
            index.search("tide")
        index.add([])
        assert index.search("the tide turns", k=1)[0].text == "The tide turns twice a day."


class TestPlaces:
    def test_what_is_not_an_index_is_refused(self, tmp_path, docs):
        with pytest.raises(UserError, match="not an index"):
            Index.open(tmp_path / "none", readonly=True)
        with pytest.raises(UserError, match="not an index"):
            Index.open(tmp_path / "none", create=False)
        assert not (tmp_path / "none").exists()
        with pytest.raises(UserError, match="holds other files"):
            Index.open(docs)
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "index.db").write_bytes(b"no database" * 1000)
        with pytest.raises(UserError, match="cannot be used"):
            Index.open(tmp_path / "broken", readonly=True)

    def test_a_later_format_is_refused(self, docs, make_index):
        index = make_index()
        index.add([docs])
        with sqlite3.connect(index._store.file) as connection:
            connection.execute("UPDATE settings SET value = 2 WHERE name = 'format'")
        with pytest.raises(UserError, match="format 2"):
            make_index()

    def test_a_second_writer_is_refused(self, docs, make_index, monkeypatch):
        index, other, begun, end = make_index(), make_index(), threading.Event(), threading.Event()
        real = Importer._write

        def slow(self, *arguments):
            begun.set()
            end.wait(30)
            real(self, *arguments)

        monkeypatch.setattr(Importer, "_write", slow)
        thread = threading.Thread(target=index.add, args=([docs],))
        thread.start()
        begun.wait(30)
        with pytest.raises(UserError, match="another process is writing"):
            other.add([docs])
        end.set()
        thread.join()
        assert len(other.list()) == 3

    def test_an_index_that_may_not_be_written_is_read(self, docs, make_index, tmp_path, monkeypatch):
        index = make_index()
        index.add([docs])
        index.close()
        monkeypatch.setattr(os, "access", lambda *a, **k: False)  # root may write anywhere
        assert make_index(readonly=True).search("tide turns", k=1)[0].text == "The tide turns twice a day."


IMPORT = """
import sys
from pathlib import Path
from embedders import HashedWords
from mlx_lora.retrieval import importer
from mlx_lora.retrieval.documents import document_of
from mlx_lora.retrieval.index import Index
importer.BATCH_CHUNKS = 8
with Index.open(sys.argv[1], embedder=HashedWords(**eval(sys.argv[3]))) as index:
    print("open", flush=True)
    index.add(sys.argv[2:3], on_progress=lambda done, total: print(done, flush=True))
print("end", flush=True)
"""


def start_import(index: Path, folder: Path, **embedder) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", IMPORT, str(index), str(folder), repr(embedder)],
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment(),
    )


def check_state(index: Index, parts: int = 4) -> int:
    """Check that each document is there whole, with its own vectors; return how many there are."""
    with index._store.transaction():
        rows = index._store.documents()
        texts = index._store.chunks_with_text(0, 10**6)
        words = index._store.match("common", None)
    assert all(chunks == parts for _, _, _, chunks, _ in rows)
    assert len(texts) == len(words) == parts * len(rows)
    if texts:
        snapshot = Snapshot(index._store)
        with index._store.transaction():
            snapshot.refresh()
        expected = HashedWords(snapshot.vectors.shape[1], index.embedder.salt).embed(
            [f"{h}\n{t}" for _, _, h, t in texts]
        )
        assert np.allclose(snapshot.vectors[[row for _, row, _, _ in texts]], expected, atol=1e-6)
    return len(rows)


class TestKill:
    @pytest.mark.parametrize("after", [1, 3, 6])
    def test_an_import_that_was_killed_is_whole_and_resumes(self, tmp_path, after):
        write_many(tmp_path / "many", 60)
        with start_import(tmp_path / "index", tmp_path / "many") as process:
            for _ in range(after):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
            have = check_state(index)
            assert have < 60
            added = index.add([tmp_path / "many"])
            assert (added.documents, added.unchanged) == (60 - have, have)
            assert check_state(index) == 60

    @pytest.mark.parametrize("where", ["append_rows", "put_document", "change_settings", "remove_stale_vectors"])
    @pytest.mark.parametrize("salt", ["", "other"])
    def test_death_at_each_step(self, tmp_path, monkeypatch, where, salt):
        """A process that dies right after a step leaves nothing of its transaction."""
        files = write_many(tmp_path / "many", 6)
        index = Index.open(tmp_path / "index", embedder=HashedWords())
        index.add(files[:3])
        index.close()

        class Death(BaseException):
            pass

        owner = importer if where == "append_rows" else importer.Store
        real = getattr(owner, where)

        def die(*arguments, **options):
            real(*arguments, **options)
            raise Death

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, die)
            index = Index.open(tmp_path / "index", embedder=HashedWords(salt=salt))
            with pytest.raises(Death):
                index.add(files)
            index.close()
        with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
            stored = index._store.settings()["embedder"]
        with Index.open(tmp_path / "index", embedder=HashedWords(salt=stored.removeprefix("hashed-32"))) as index:
            assert check_state(index) == 3
        with Index.open(tmp_path / "index", embedder=HashedWords(salt=salt)) as index:
            index.add(files)
            assert check_state(index) == 6
            assert len(list(index._store.directory.glob("*.f32"))) == 1

    @pytest.mark.slow
    def test_killed_at_forty_random_moments(self, tmp_path):
        write_many(tmp_path / "many", 200)
        generator, have = np.random.default_rng(7), 0
        for turn in range(40):
            embedder = {"salt": "other" if turn % 3 == 2 else ""}
            with start_import(tmp_path / "index", tmp_path / "many", **embedder) as process:
                process.stdout.readline()
                time.sleep(generator.uniform(0, 0.3))
                os.kill(process.pid, signal.SIGKILL)
            with Index.open(tmp_path / "index", embedder=HashedWords(**embedder)) as index:
                stored = index._store.settings()["embedder"]
                index._embedder = HashedWords(salt=stored.removeprefix("hashed-32"))
                now = check_state(index)
                assert now >= have
                have = now


class TestReaders:
    def test_readers_see_whole_documents_while_one_writes(self, tmp_path):
        folder = tmp_path / "many"
        write_many(folder, 2)
        writer = Index.open(tmp_path / "index", embedder=HashedWords())
        writer.add([folder])
        wrong, done, searches = [], threading.Event(), [0] * 3

        def read(number):
            with Index.open(tmp_path / "index", readonly=True, embedder=HashedWords()) as reader:
                while not done.is_set():
                    try:
                        for hit in reader.search("document1 part1", k=5):
                            text = hit.text
                            if not text.startswith(f"document{int(Path(hit.document).stem[1:])} part"):
                                wrong.append(hit)
                        wrong.extend(d for d in reader.list() if d.chunks != 4)
                        searches[number] += 1
                    except Exception as error:
                        wrong.append(error)
                        return

        threads = [threading.Thread(target=read, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        process = start_import(tmp_path / "index", folder)  # a writer in another process, too
        process.communicate()
        for number in range(4):
            write_many(folder, 10 * (number + 1))
            writer.add([folder])
            writer.remove(folder / f"d{number:04}.md")
            Importer(writer._store, writer.embedder)._rewrite(
                lambda chunks: writer._embedder.embed([f"{c[2]}\n{c[3]}" for c in chunks])
            )
        deadline = time.monotonic() + 60
        while min(searches) < 5 and not wrong and time.monotonic() < deadline:
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join()
        writer.close()
        assert wrong == []
        assert min(searches) >= 5

    def test_one_index_serves_several_threads(self, docs, make_index):
        index = make_index()
        index.add([docs])
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(index.search("the tide turns", k=1)[0].text)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["The tide turns twice a day."] * 8


class TestCommand:
    def test_add_search_list_remove(self, docs, tmp_path, command, model_files):
        index = tmp_path / "index"
        done = command("index", "add", "--index", index, docs, "--json")
        assert json.loads(done.stdout) == {
            "index": str(index),
            "documents": 3,
            "chunks": 5,
            "unchanged": 0,
            "refused": [],
        }
        done = command("index", "search", "--index", index, "When does the sea level change?", "-k", 1)
        assert "The tide turns twice a day." in done.stdout
        done = command("index", "search", "--index", index, "tide", "--where", "layer=unknown", "--json")
        assert [Path(h["document"]).name for h in json.loads(done.stdout)["hits"]] == ["code.ts"]
        assert "3 documents, 5 chunks" in command("index", "list", "--index", index).stdout
        shutil.rmtree(docs)
        assert "1 documents removed" in command("index", "remove", "--index", index, docs / "code.ts").stdout

    def test_errors_are_one_sentence(self, tmp_path, refused, docs):
        assert "not an index" in refused("index", "search", "--index", tmp_path / "none", "tide")
        assert "not an index" in refused("index", "list", "--index", tmp_path / "none")
        assert "not an index" in refused("index", "remove", "--index", tmp_path / "none", "x")
        assert "no such file" in refused("index", "add", "--index", tmp_path / "new", tmp_path / "none")
        assert "not a collection" in refused("index", "add", "--index", tmp_path / "new", docs, "--collection", "x")
        assert "not an embedding model" in refused("index", "add", "--index", tmp_path / "new", docs, "--embedder", "x")


class TestDamage:
    @pytest.mark.parametrize("seed", range(12))
    def test_a_damaged_database_is_a_sentence(self, docs, tmp_path, seed):
        with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
            index.add([docs])
        file = tmp_path / "index" / "index.db"
        content, draw = bytearray(file.read_bytes()), np.random.default_rng(seed)
        for place in draw.integers(100, len(content), 400 * (1 + seed % 3)):
            content[place] = draw.integers(0, 256)
        file.write_bytes(content)
        (docs / "new.md").write_text("# New\n\nThe tide.\n")
        steps = [
            lambda index: index.list(),
            lambda index: index.search("the tide", mode="text"),
            lambda index: index.search("the tide", where={"layer": "unknown"}),
            lambda index: index.add([docs]),
            lambda index: index.remove(docs / "kitchen.md"),
        ]
        for step in steps:
            with suppress(UserError), Index.open(tmp_path / "index", embedder=HashedWords()) as index:
                step(index)


class TestDocumentsOfOtherStores:
    def test_their_metadata_and_flags_are_kept_and_a_change_of_them_replaces(self, make_index):
        index = make_index()

        def add(**metadata):
            document = document_of("sleep:a/b", [("The tide turns.", {})], index.embedder.count_tokens, metadata)
            return index.add_documents([(document, "daily_buffer")])

        assert add(night="0001", who="mira@lumen.io", ok_to_train=False).documents == 1
        assert add(night="0001", who="mira@lumen.io", ok_to_train=False).unchanged == 1
        found = index.list()[0].metadata
        assert (found["night"], found["who"]) == ("0001", "[e-mail address]")
        assert (found["ok_to_train"], found["ok_to_retrieve"]) == (False, True)
        assert index.mark_trained("a@1", "2026-11-27", ["sleep:a/b"]) == 0
        assert add(night="0002", ok_to_train=True).documents == 1
        assert [listed.metadata["night"] for listed in index.list()] == ["0002"]
        # Its name is not a path, and is found as it is.
        assert index.mark_trained("a@1", "2026-11-27", ["sleep:a/c"]) == 0
        assert index.mark_trained("a@1", "2026-11-27", ["sleep:a/b"]) == 1
        assert index.list()[0].collection == "pdca_historical"

    def test_what_must_not_be_retrieved_is_not_found(self, make_index):
        index = make_index()
        parts = [("The tide turns.", {})]
        document = document_of("sleep:a/b", parts, index.embedder.count_tokens, {"ok_to_retrieve": False})
        index.add_documents([(document, "daily_buffer")])
        assert index.search("tide") == []
