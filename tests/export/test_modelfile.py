"""A Modelfile is read back by the rules of Ollama's parser, written here a second time."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lora.errors import UserError
from mlx_lora.export.ollama.modelfile import (
    OllamaModel,
    check_modelfile,
    ends_early,
    stop_texts,
    unprintable,
    write_modelfile,
)


def unquote(text: str) -> tuple[str, bool]:
    if text.startswith('"""'):
        closed = len(text) >= 6 and text.endswith('"""')
        return (text[3:-3], True) if closed else ("", False)
    if text.startswith('"'):
        closed = len(text) >= 2 and text.endswith('"')
        return (text[1:-1], True) if closed else ("", False)
    return text, True


def parse(modelfile: str) -> list[tuple[str, str]]:
    """(command, value) as Ollama sees them, one character at a time."""
    commands, position, size = [], 0, len(modelfile)
    while position < size:
        if modelfile[position] in " \t\r\n":
            position += 1
        elif modelfile[position] == "#":
            while position < size and modelfile[position] not in "\r\n":
                position += 1
        else:
            words = []
            for _ in range(2 if modelfile[position:].upper().startswith("PARAMETER") else 1):
                start = position
                while modelfile[position] not in " \t":
                    position += 1
                words.append(modelfile[start:position].lower())
                position += 1
            value = ""
            while position < size:
                character = modelfile[position]
                position += 1
                if character in "\r\n" and unquote(value.strip())[1]:
                    break
                if character in " \t\r\n" or unicodedata.category(character)[0] in "LMNPS":
                    value += character
            text, ended = unquote(value.strip())
            assert ended, "the value does not end"
            commands.append((words[-1], text))
    return commands


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "some model.gguf"
    file.write_bytes(b"GGUF")
    return file


def test_what_it_says(weights):
    model = OllamaModel('You are "Lumen".\nBe brief.', ["<|eot_id|>", "<|end|>"])
    assert parse(write_modelfile(weights, model)) == [
        ("from", str(weights)),
        ("system", 'You are "Lumen".\nBe brief.'),
        ("stop", "<|eot_id|>"),
        ("stop", "<|end|>"),
        ("temperature", "0.7"),
        ("top_p", "0.9"),
        ("top_k", "40"),
        ("num_ctx", "4096"),
    ]
    assert check_modelfile(weights, model) == []
    assert model.request()["parameters"]["stop"] == ["<|eot_id|>", "<|end|>"]
    assert "system" not in OllamaModel(None, []).request()
    assert "SYSTEM" not in write_modelfile(weights, OllamaModel(None, []))
    template = "{{ .System }} {{ .Prompt }}"
    assert parse(write_modelfile(weights, OllamaModel(None, [], template)))[1] == ("template", template)
    assert OllamaModel(None, [], template).request()["template"] == template


def test_a_relative_path_becomes_absolute(weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    from pathlib import Path

    assert parse(write_modelfile(Path(weights.name), OllamaModel(None, [])))[0] == ("from", str(weights))


# Few kinds of characters, so that quotes and line ends meet often.
TEXTS = st.text(st.sampled_from('"""\n\r\t aé\u00a0\u200d#'), min_size=1, max_size=14)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_a_text_comes_back_or_is_refused(text):
    import tempfile
    from pathlib import Path

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        kept = "".join(c for c in text if c not in unprintable(text))
        try:
            notes = check_modelfile(Path(file.name), OllamaModel(text, ["<end>"]))
        except UserError:
            # Refused only where the parser would indeed have gone wrong.
            try:
                broken = parse(f'FROM x\nSYSTEM """{kept}"""\nPARAMETER stop """<end>"""\n')
            except (AssertionError, IndexError):
                return
            assert broken != [("from", "x"), ("system", kept), ("stop", "<end>")]
            return
        written = write_modelfile(Path(file.name), OllamaModel(text, ["<end>"]))
        assert parse(written)[1] == ("system", kept)
        assert parse(written)[2] == ("stop", "<end>")
        assert bool(notes) == (kept != text)


@pytest.mark.parametrize(
    ("text", "early"),
    [
        ('say """\nand go on', True),
        ('say """  \nand go on', True),
        ('"""\nfirst', True),
        ('""\nfirst', False),
        ('it ends in "', False),
        ('it ends in """', False),
        ('in """ the middle\nof a line', False),
        ('a carriage """\rreturn', True),
    ],
)
def test_quotes_at_the_end_of_a_line(text, early):
    assert ends_early(text) is early


def test_what_is_dropped_is_said(weights):
    model = OllamaModel("ten\u00a0000 \u200dpeople, tab\tkept", [])
    notes = check_modelfile(weights, model)
    assert parse(write_modelfile(weights, model))[1] == ("system", "ten000 people, tab\tkept")
    assert len(notes) == 1
    assert "U+00A0 NO-BREAK SPACE" in notes[0]
    assert "U+200D ZERO WIDTH JOINER" in notes[0]


def test_paths_that_would_start_a_download(weights, tmp_path):
    with pytest.raises(UserError, match="there is no such file, and Ollama would try to download"):
        write_modelfile(tmp_path / "absent.gguf", OllamaModel(None, []))
    odd = tmp_path / "a\u00a0model.gguf"
    odd.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="cannot hold this path"):
        write_modelfile(odd, OllamaModel(None, []))


def test_stop_texts_are_the_tokens_that_end_an_answer():
    from mlx_lora.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("builtin/tiny-lumen")
    assert stop_texts(tokenizer, tokenizer.base_facts.ends) == ["<|eot_id|>"]
    other = tokenizer.convert_ids_to_tokens(1018)
    assert stop_texts(tokenizer, [1022, 1018]) == [other, "<|eot_id|>"]
