"""Search time, recall, import rate and memory of an index, beside Chroma where it is installed.

    python benchmarks/retrieval.py [--chunks 100000] [--embed 200] [--texts FOLDER] [--out benchmarks/retrieval]

Each side runs in a process of its own on the same random vectors (384 dimensions, in clusters as texts of one topic
are) and the same texts of Zipf's words. Recall is against brute force. The import rate of the sides is that of the
store alone; the embedding model's own rate is measured on real texts, and is the same for both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import record

from mlx_lora.memory import peak_resident
from mlx_lora.processes import python_environment

REPO = Path(__file__).parent.parent
TEXTS = Path(os.environ.get("MLX_LORA_REALDATA", REPO.parent / "shared" / "realdata")) / "pdca"
DIMENSION, QUERIES, K, PER_DOCUMENT, CLUSTERS = 384, 200, 10, 100, 500
WORDS = np.array([f"w{n}" for n in range(20_000)])
ZIPF = 1 / (np.arange(20_000) + 10)


def vectors(number: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, DIMENSION), dtype=np.float32)
    found = centres[generator.integers(0, CLUSTERS, number)]
    found += generator.standard_normal((number, DIMENSION), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def texts(number: int, words: int, seed: int) -> list[str]:
    drawn = np.random.default_rng(seed).choice(20_000, size=(number, words), p=ZIPF / ZIPF.sum())
    return [" ".join(row) for row in WORDS[drawn]]


class Given:
    """The embedder of this benchmark: the vectors that were made for it, in order."""

    name, dimension = "given", DIMENSION

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.used = rows, 0

    def embed(self, batch):
        self.used += len(batch)
        return self.rows[self.used - len(batch) : self.used]

    def count_tokens(self, batch):
        return [text.count(" ") + 1 for text in batch]


def timed(ask, number: int) -> tuple[list[tuple[float, float]], list]:
    """Return (milliseconds, those of the processors) and the answers of each query, after ten to warm up."""
    for n in range(10):
        ask(n)
    took, answers = [], []
    for n in range(number):
        begin, processor = time.perf_counter(), time.process_time()
        answers.append(ask(n))
        took.append((1000 * (time.perf_counter() - begin), 1000 * (time.process_time() - processor)))
    return took, answers


def figures(took: list[tuple[float, float]]) -> dict[str, float]:
    """Return percentiles; the processors' time, of all threads, is the one that other programs change least."""
    wall, processors = np.array(took).T
    return {
        **{f"p{n}_ms": round(float(np.percentile(wall, n)), 2) for n in (50, 95)},
        "cpu_p95_ms": round(float(np.percentile(processors, 95)), 2),
    }


def recall(answers: list[list[int]], rows: np.ndarray, questions: np.ndarray) -> float:
    """Return the share of the K nearest by brute force that were found."""
    right = 0
    for question, answer in zip(questions, answers, strict=True):
        scores = rows @ question
        least = np.partition(scores, -K)[-K]
        right += sum(scores[n] >= least - 1e-6 for n in answer)
    return right / (K * len(questions))


def measure_ours(chunks: int, folder: Path) -> dict[str, object]:
    from mlx_lora.retrieval.index import Index

    rows, questions, asked = vectors(chunks, 1), vectors(QUERIES, 2), texts(QUERIES, 8, 4)
    (folder / "docs").mkdir()
    lines = texts(chunks, 40, 3)
    for begin in range(0, chunks, PER_DOCUMENT):
        content = "\n".join(json.dumps({"text": text}) for text in lines[begin : begin + PER_DOCUMENT])
        (folder / "docs" / f"d{begin:07}.jsonl").write_text(content + "\n")
    before = peak_resident()
    with Index.open(folder / "index", embedder=Given(rows)) as index:
        begin = time.perf_counter()
        assert index.add([folder / "docs"]).chunks == chunks
        rate = chunks / (time.perf_counter() - begin)
        embedder = Given(questions)
        index._embedder = embedder

        def ask(mode):
            def one(n):
                embedder.used = n
                return index.search(asked[n], K, mode=mode)

            return one

        modes = {mode: timed(ask(mode), QUERIES) for mode in ("vector", "text", "hybrid")}
    answers = [[hit.id - 1 for hit in hits] for hits in modes["vector"][1]]
    size = sum(file.stat().st_size for file in (folder / "index").iterdir())
    return {
        "store_chunks_per_s": round(rate),
        **{mode: figures(took) for mode, (took, _) in modes.items()},
        "recall_at_10": recall(answers, rows, questions),
        "memory_mb": round((peak_resident() - before) / 2**20),
        "disk_mb": round(size / 2**20),
    }


def measure_chroma(chunks: int, folder: Path) -> dict[str, object]:
    import chromadb
    from chromadb.config import Settings

    rows, questions, lines = vectors(chunks, 1), vectors(QUERIES, 2), texts(chunks, 40, 3)
    before = peak_resident()
    client = chromadb.PersistentClient(str(folder / "chroma"), settings=Settings(anonymized_telemetry=False))
    collection = client.create_collection("chunks", metadata={"hnsw:space": "cosine"}, embedding_function=None)
    begin = time.perf_counter()
    for start in range(0, chunks, 5000):
        part = slice(start, min(start + 5000, chunks))
        names = [str(n) for n in range(part.start, part.stop)]
        collection.add(ids=names, embeddings=rows[part], documents=lines[part])
    rate = chunks / (time.perf_counter() - begin)
    took, answers = timed(lambda n: collection.query(query_embeddings=questions[n : n + 1], n_results=K), QUERIES)
    found = [[int(name) for name in answer["ids"][0]] for answer in answers]
    size = sum(file.stat().st_size for file in (folder / "chroma").rglob("*") if file.is_file())
    return {
        "version": chromadb.__version__,
        "store_chunks_per_s": round(rate),
        "vector": figures(took),
        "recall_at_10": recall(found, rows, questions),
        "memory_mb": round((peak_resident() - before) / 2**20),
        "disk_mb": round(size / 2**20),
    }


def measure_embedding(number: int, source: Path) -> dict[str, object]:
    """Import real documents with the real model."""
    if not source.is_dir():
        return {"failed": [f"{source}: there is no such folder; name one with documents by --texts"]}
    from mlx_lora.retrieval.embedding import default_embedder
    from mlx_lora.retrieval.index import Index

    embedder = default_embedder()
    embedder.embed(["warm up"])
    with tempfile.TemporaryDirectory() as folder, Index.open(Path(folder) / "index", embedder=embedder) as index:
        begin, processor, chunks, documents = time.perf_counter(), time.process_time(), 0, 0
        for file in sorted(source.glob("*")):
            chunks += index.add([file]).chunks
            documents += 1
            if chunks >= number:
                break
        wall, cpu = time.perf_counter() - begin, time.process_time() - processor
    return {"documents": documents, "chunks": chunks, "chunks_per_s": chunks / wall, "chunks_per_cpu_s": chunks / cpu}


SIDES = {"ours": measure_ours, "chroma": measure_chroma}


def in_process(side: str, chunks: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--side", side, "--chunks", str(chunks), "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, env=python_environment(), check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--embed", type=int, default=200, help="chunks to embed with the real model; 0 leaves it out")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="documents to embed")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(SIDES[options.side](options.chunks, options.folder)))
        return
    sides = [side for side in SIDES if side == "ours" or importlib.util.find_spec("chromadb")]
    measured: dict[str, object] = {side: in_process(side, options.chunks) for side in sides}
    if options.embed:
        measured["embedding"] = measure_embedding(options.embed, options.texts)
    record(options.out, chunks=options.chunks, dimension=DIMENSION, queries=QUERIES, **measured)


if __name__ == "__main__":
    main()
