"""Text of tokens as they come: whole characters, stop texts, and the tokens' bytes."""

from __future__ import annotations

import pytest

from mlx_lora.backends.answering import NewToken, TokenScore
from mlx_lora.models.tokenizer import load_tokenizer
from mlx_lora.serving.chat.prompts import encode_raw, text_pieces
from mlx_lora.serving.chat.token_text import AnswerText, Detokenizer, token_bytes, token_text

TEXTS = ["warmth 0.4", "Grüße 👩‍👩‍👧 aus Wien – naïve", "  two  spaces\n\ttab ", "日本語のテキスト", "a", "�?"]


@pytest.fixture(scope="module")
def byte_level():
    return load_tokenizer("builtin/tiny-lumen")


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer with Llama 2's decoder: ▁ for a space, bytes for unknown characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁two", "▁a", *"abcdefghijklmnopqrstuvwxyz0.4"]
    tokenizer = Tokenizer(models.BPE(dict(zip(pieces, range(len(pieces)), strict=True)), [], byte_fallback=True))
    prepend = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(prepend)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_parts_add_up_to_the_decoded_text(request, kind, text):
    tokenizer = request.getfixturevalue(kind)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer)
    parts = [detokenizer.add(token) for token in tokens]
    assert "".join(parts) + detokenizer.rest() == tokenizer.decode(tokens)


def test_an_answer_cut_within_a_character_ends_as_it_is_decoded(byte_level):
    for text in TEXTS:
        tokens = byte_level.encode(text, add_special_tokens=False)[:-1]
        cut = Detokenizer(byte_level)
        assert "".join(map(cut.add, tokens)) + cut.rest() == byte_level.decode(tokens)


def test_no_part_of_a_character_is_shown(byte_level):
    tokens = byte_level.encode("👧", add_special_tokens=False)
    assert len(tokens) > 1
    detokenizer = Detokenizer(byte_level)
    assert [detokenizer.add(token) for token in tokens] == [""] * (len(tokens) - 1) + ["👧"]


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_the_bytes_of_tokens_are_those_of_the_text(request, kind):
    tokenizer = request.getfixturevalue(kind)
    for text in TEXTS:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(token_bytes(tokenizer, token) for token in tokens).decode().strip() == text.strip()


def test_a_special_token_is_its_own_text(byte_level):
    end = byte_level.base_facts.ends[0]
    assert token_text(byte_level, end) == byte_level.convert_ids_to_tokens(end)


def answer(tokenizer, text, stops, finish="length"):
    """The pieces of an answer."""
    tokens = tokenizer.encode(text, add_special_tokens=False)
    shown = AnswerText(tokenizer, stops)
    pieces = []
    for number, token in enumerate(tokens):
        last = number == len(tokens) - 1
        pieces.append(shown.add(NewToken(1, token, TokenScore(token, -1.0), finish if last else None)))
        if pieces[-1].finish:
            break
    return pieces


@pytest.mark.parametrize("stop", ["0.", "4 and", "\n\n", "warmth", "d", "a fine\n\nd"])
def test_an_answer_ends_before_the_first_stop_text(byte_level, stop):
    text = "warmth 0.4 and a fine\n\nday"
    pieces = answer(byte_level, text, ["not there", stop])
    shown = "".join(piece.text for piece in pieces)
    assert shown == text[: text.index(stop)]
    assert pieces[-1].finish == "stop"
    assert "".join(token.text for piece in pieces for token in piece.tokens) == shown


def test_what_may_begin_a_stop_text_is_held_until_it_does_not(byte_level):
    pieces = answer(byte_level, "one\n\ntwo\n", ["\n\n\n", "\n\n!"])
    assert "".join(piece.text for piece in pieces) == "one\n\ntwo\n"
    assert pieces[-1].finish == "length"
    so_far = ""
    for piece in pieces[:-1]:
        so_far += piece.text
        assert not so_far.endswith("\n")


def test_the_parts_of_a_prompt_add_up_to_it(byte_level):
    for text in TEXTS:
        tokens = encode_raw(byte_level, text)
        pieces = text_pieces(byte_level, text, tokens)
        assert "".join(pieces) == text
        assert len(pieces) == len(tokens)
        assert text_pieces(byte_level, text, [1, *tokens])[0] == ""
