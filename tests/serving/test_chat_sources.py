"""Chat with ``retrieval``: the passages of an index come before the question, and with the answer."""

from __future__ import annotations

import openai
import pytest
from chat_helpers import user
from run_fixtures import sharpen
from server import running_server

from mlx_lora.retrieval.index import Index

TEXTS = {
    "harbour.md": "# Harbour\n\nThe lantern of the harbour was lit by Ada on the ninth of May.\n",
    "kitchen.md": "# Kitchen\n\nThe copper pans hang beside the window, seven of them.\n",
}
QUESTION = "Who lit the lantern of the harbour?"
ASKED = {"model": "base", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def place(make_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    sharpen(make_model("llama")).rename(root / "base")
    for name, text in TEXTS.items():
        (root / name).write_text(text)
    with Index.open(root / "index") as index:
        index.add([root / name for name in TEXTS], collection="process_docs")
    return root


@pytest.fixture(scope="module")
def client(place, tmp_path_factory):
    with (
        running_server(tmp_path_factory.mktemp("server"), models=place, index=place / "index", backend="mlx") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as made,
    ):
        yield made


def test_the_passages_come_before_the_question_and_with_the_answer(client):
    plain = client.chat.completions.create(**ASKED, messages=user(QUESTION))
    found = client.chat.completions.create(**ASKED, messages=user(QUESTION), extra_body={"retrieval": True})
    assert [source["document"].rpartition("/")[2] for source in found.sources] == ["harbour.md", "kitchen.md"]
    assert "lit by Ada" in found.sources[0]["text"]
    assert found.sources[0]["number"] == 1
    assert found.usage.prompt_tokens > plain.usage.prompt_tokens + 40
    assert plain.sources is None
    parts = list(
        client.chat.completions.create(**ASKED, messages=user(QUESTION), stream=True, extra_body={"retrieval": True})
    )
    assert parts[0].sources == found.sources
    assert "".join(part.choices[0].delta.content or "" for part in parts) == found.choices[0].message.content


def test_what_is_added_to_the_index_is_found_at_once(client, place):
    (place / "attic.md").write_text("# Attic\n\nThe trunk in the attic belongs to Zephyrine.\n")
    with Index.open(place / "index") as index:
        index.add([place / "attic.md"], collection="process_docs")
    asked = user("Whose trunk is in the attic?")
    found = client.chat.completions.create(**ASKED, messages=asked, extra_body={"retrieval": True})
    assert "Zephyrine" in found.sources[0]["text"]


def test_a_message_without_text_and_a_server_without_an_index(client, place, tmp_path):
    picture = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    with pytest.raises(openai.UnprocessableEntityError, match="which has no text"):
        client.chat.completions.create(**ASKED, messages=picture, extra_body={"retrieval": True})
    with (
        running_server(tmp_path, models=place, backend="mlx") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as other,
        pytest.raises(openai.ConflictError, match="start it with --index DIR"),
    ):
        other.chat.completions.create(**ASKED, messages=user(QUESTION), extra_body={"retrieval": True})
