import sqlite3

import pytest
from embedders import HashedWords
from test_documents import PDCA

from mlx_lora.errors import UserError
from mlx_lora.retrieval.index import Index
from mlx_lora.retrieval.timeline import FILE, quality_score


@pytest.fixture
def pdcas(tmp_path):
    """Three PDCAs: the second names the first, the third is of the same session."""
    folder = tmp_path / "pdcas"
    folder.mkdir()
    for time, name in [("1800", "a"), ("1825", "b"), ("1900", "c")]:
        text = (
            PDCA.replace("UTC-1825", f"UTC-{time}")
            if name != "a"
            else PDCA.replace("UTC-1825", "UTC-1800").replace("🔗", "x", 1)
        )
        if name != "b":
            text = "\n".join(line for line in text.split("\n") if "Previous" not in line)
        (folder / f"2025-09-06-UTC-{time}-{name}.pdca.md").write_text(text)
    return folder


def rows(index_directory, query):
    with sqlite3.connect(index_directory / FILE) as connection:
        return connection.execute(query).fetchall()


def test_the_timeline_follows_the_index(tmp_path, pdcas):
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        index.add([pdcas])
        found = rows(
            tmp_path / "index", "SELECT id, cmm_level, quality_score, verification_status FROM pdcas ORDER BY timestamp"
        )
        assert found == [
            ("2025-09-06-UTC-1800-a", 3, 90.0, "complete"),
            ("2025-09-06-UTC-1825-b", 3, 100.0, "complete"),
            ("2025-09-06-UTC-1900-c", 3, 90.0, "complete"),
        ]
        found = rows(tmp_path / "index", "SELECT * FROM pdca_relationships ORDER BY from_pdca_id")
        assert found == [
            ("2025-09-06-UTC-1800-a", "2025-09-06-UTC-1825-b", "PRECEDES", 1.0, '{"by": "link"}'),
            ("2025-09-06-UTC-1825-b", "2025-09-06-UTC-1900-c", "PRECEDES", 0.8, '{"by": "session"}'),
        ]
        index.remove(pdcas / "2025-09-06-UTC-1825-b.pdca.md")
        assert len(rows(tmp_path / "index", "SELECT * FROM pdcas")) == 2
        (tmp_path / "index" / FILE).unlink()
        index.add([])
        assert len(rows(tmp_path / "index", "SELECT * FROM pdca_relationships")) == 1


def test_a_trained_buffer_becomes_history(tmp_path, pdcas):
    private = tmp_path / "private.md"
    private.write_text("# Tide\n\nAsk ann@corp.io\n")
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        index.add([pdcas, private], "daily_buffer")
        reader = Index.open(tmp_path / "index", readonly=True, embedder=HashedWords())
        assert rows(tmp_path / "index", "SELECT * FROM pdcas") == []
        assert reader.search("done", collections=["pdca_historical"]) == []
        assert index.mark_trained("night-7", "2026-02-03", [next(pdcas.iterdir())]) == 1
        assert index.mark_trained("night-8", "2026-02-04") == 2
        assert [d.document for d in index.list("daily_buffer")] == [str(private)]
        history = [d.metadata for d in index.list("pdca_historical")]
        assert [m["trained_in_adapter"] for m in history] == [True] * 3
        assert sorted(m["training_batch"] for m in history) == ["night-7", "night-8", "night-8"]
        assert {h.collection for h in reader.search("done", collections=["pdca_historical"])} == {"pdca_historical"}
        assert len(rows(tmp_path / "index", "SELECT * FROM pdca_relationships")) == 2
        reader.close()


def test_its_columns_are_those_of_the_spec(tmp_path, pdcas):
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        index.add([pdcas])
    columns = [(name, kind) for _, name, kind, *_ in rows(tmp_path / "index", "PRAGMA table_info(pdcas)")]
    assert [name for name, _ in columns] == [
        *("id", "agent_name", "agent_role", "date", "timestamp", "session_id", "branch", "sprint", "cmm_level"),
        *("task_type", "objective", "quality_score", "verification_status", "file_path"),
    ]
    assert dict(columns)["quality_score"] == "REAL"
    with sqlite3.connect(tmp_path / "index" / FILE) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            "INSERT INTO pdca_relationships "
            "SELECT from_pdca_id, to_pdca_id, relationship_type, 0, '' FROM pdca_relationships"
        )


def test_a_broken_timeline_is_a_sentence(tmp_path, pdcas):
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        (tmp_path / "index" / FILE).write_bytes(b"no database" * 1000)
        with pytest.raises(UserError, match="remove it, it is made anew"):
            index.add([pdcas])


@pytest.mark.parametrize(
    ("metadata", "score"),
    [
        ({}, 50),
        ({"cmm_level": 1}, 50),
        ({"cmm_level": 3}, 70),
        ({"verification_status": "complete"}, 70),
        ({"dual_links": 2}, 60),
        ({"cmm_level": 5, "verification_status": "complete", "dual_links": 1}, 100),
    ],
)
def test_quality_score(metadata, score):
    assert quality_score(metadata) == score
