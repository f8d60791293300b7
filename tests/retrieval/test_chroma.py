"""An index and Chroma's embedded client, in both directions."""

import pytest
from embedders import HashedWords

from mlx_lora.errors import UserError
from mlx_lora.retrieval.chroma import import_chroma, write_chroma
from mlx_lora.retrieval.index import Index


@pytest.fixture
def client(tmp_path):
    chromadb = pytest.importorskip("chromadb", reason="needs the extra chroma")
    from chromadb.config import Settings

    return chromadb.PersistentClient(str(tmp_path / "chroma"), settings=Settings(anonymized_telemetry=False))


@pytest.fixture
def index(tmp_path):
    with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
        yield index


def fill(client, name, rows):
    embedder = HashedWords()
    collection = client.create_collection(name, embedding_function=None)
    ids, texts, metadata = (list(column) for column in zip(*rows, strict=True))
    collection.add(ids=ids, documents=texts, metadatas=metadata, embeddings=embedder.embed(texts))


def test_an_existing_directory_is_imported(client, index, tmp_path):
    rows = [
        ("b", "The tide turns.", {"file_path": "tides.md", "chunk_index": 1, "agent_name": "Joe"}),
        ("a", "Ships wait, says ann@corp.io.", {"file_path": "tides.md", "chunk_index": 0, "agent_name": "Joe"}),
        ("c", "Bread rises.", {"file_path": "bread.md"}),
    ]
    fill(client, "pdca_historical", rows)
    fill(client, "other", [("d", "An oven.", {"n": 1})])
    added = import_chroma(index, tmp_path / "chroma")
    assert (added.documents, added.chunks) == (3, 4)
    listed = {(d.document, d.collection): d.chunks for d in index.list()}
    assert listed == {
        ("chroma:other/d", "process_docs"): 1,
        ("chroma:pdca_historical/bread.md", "pdca_historical"): 1,
        ("chroma:pdca_historical/tides.md", "pdca_historical"): 2,
    }
    hit = index.search("tide turns", k=1, where={"agent_name": "Joe"})[0]
    assert (hit.text, hit.metadata["chroma_id"], hit.metadata["chunk_index"]) == ("The tide turns.", "b", 1)
    assert "ann@" not in str(index.search("ships", k=9))
    assert import_chroma(index, tmp_path / "chroma").unchanged == 3


def test_a_secret_stops_it(client, index, tmp_path):
    fill(client, "other", [("a", "password = 'tr0ub4dor&3x'", {"n": 1})])
    with pytest.raises(UserError, match="a likely password"):
        import_chroma(index, tmp_path / "chroma")
    assert index.list() == []


def test_a_copy_finds_what_the_index_finds(client, index, tmp_path):
    for name in ("tide", "bread", "ships"):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n\nAll about {name} number {len(name)}.\n")
    index.add([tmp_path / f"{name}.md" for name in ("tide", "bread", "ships")])
    assert write_chroma(index, tmp_path / "chroma") == 3
    assert write_chroma(index, tmp_path / "chroma") == 3
    collection = client.get_collection("process_docs", embedding_function=None)
    assert collection.count() == 3
    for question in ("tide", "bread", "ships"):
        vector = index.embedder.embed([f"all about {question}"])
        found = collection.query(query_embeddings=vector, n_results=1)
        hit = index.search(f"all about {question}", k=1, mode="vector")[0]
        assert (found["documents"][0][0], found["metadatas"][0][0]["document"]) == (hit.text, hit.document)
        assert 1 - found["distances"][0][0] == pytest.approx(hit.score, abs=1e-5)


def test_what_is_no_chroma_is_a_sentence(index, tmp_path):
    with pytest.raises(UserError, match="not a directory of Chroma"):
        import_chroma(index, tmp_path)
    (tmp_path / "chroma.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"cannot be read|not installed"):
        import_chroma(index, tmp_path)
