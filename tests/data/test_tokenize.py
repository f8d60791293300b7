import numpy as np
import pytest

from mlx_lora.data.chat_template import encode_prompt, render
from mlx_lora.data.collate import collate, in_order
from mlx_lora.data.dataset import Example, Span
from mlx_lora.data.tokenize import EncodedExample, encode_example, encode_examples
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN

TINY = BUILT_IN["builtin/tiny-lumen"]

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "shape: convergence"},
    {"role": "assistant", "content": "EISV_TOKENS: ~stillness~"},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "no"},
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


def supervised_text(tokenizer, encoded):
    return tokenizer.decode(encoded.ids[encoded.supervised])


def test_every_answer_is_supervised_with_its_end_of_turn(tokenizer):
    encoded = encode_example(tokenizer, Example(MESSAGES, 0.5), 512)
    assert supervised_text(tokenizer, encoded) == "EISV_TOKENS: ~stillness~<|eot_id|>no<|eot_id|>"
    assert encoded.weight == 0.5
    assert encoded.truncated == 0
    prompt = encode_prompt(tokenizer, MESSAGES[:2])
    assert list(encoded.ids[: len(prompt)]) == prompt
    assert not encoded.supervised[: len(prompt)].any()
    assert encoded.supervised[len(prompt)]


def test_a_long_prompt_loses_its_middle_and_the_answer_nothing(tokenizer):
    messages = [{"role": "user", "content": "word " * 200}, MESSAGES[2]]
    whole = encode_example(tokenizer, Example(messages), 1000)
    cut = encode_example(tokenizer, Example(messages), 64)
    assert len(cut) == 64
    assert cut.truncated == len(whole) - 64
    assert supervised_text(tokenizer, cut) == supervised_text(tokenizer, whole)
    assert list(cut.ids[:5]) == list(whole.ids[:5])
    answer = int(whole.supervised.sum())
    assert list(cut.ids[-answer - 4 :]) == list(whole.ids[-answer - 4 :])


def test_an_answer_that_does_not_fit_is_refused(tokenizer):
    example = Example([MESSAGES[1], {"role": "assistant", "content": "quiet " * 100}])
    with pytest.raises(UserError, match=r"d.jsonl, example 2: the answer takes \d+ tokens and max_seq_length is 64"):
        encode_examples(tokenizer, [Example(MESSAGES), example], 64, "d.jsonl")


def test_a_model_without_a_chat_template_is_refused(tokenizer):
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(TINY)
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        render(bare, MESSAGES)


@pytest.mark.parametrize(
    ("tokens", "template", "ending", "thought"),
    [
        ("llama3", "meta-llama-Llama-3.2-3B-Instruct", "<|eot_id|>", False),
        ("qwen2.5", "Qwen-Qwen2.5-7B-Instruct", "<|im_end|>", False),
        ("qwen2.5", "Qwen-Qwen3-0.6B", "<|im_end|>", True),
    ],
)
def test_real_templates_supervise_answers_and_their_ends(realdata, tokens, template, ending, thought):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(realdata / "tokenizers" / tokens)
    tokenizer.chat_template = (realdata / "chat_templates" / f"{template}.jinja").read_text()
    encoded = encode_example(tokenizer, Example(MESSAGES), 2048)
    text = supervised_text(tokenizer, encoded)
    empty_thought = "<think>\n\n</think>\n\n" if thought else ""
    # Qwen3 shows its empty thought in the last turn only.
    assert text == f"EISV_TOKENS: ~stillness~{ending}{empty_thought}no{ending}"


def test_llamas_template_does_not_depend_on_the_day(realdata):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(realdata / "tokenizers" / "qwen2.5")
    tokenizer.chat_template = (realdata / "chat_templates" / "meta-llama-Llama-3.2-3B-Instruct.jinja").read_text()
    assert "Today Date: 26 Jul 2024" in render(tokenizer, MESSAGES)


def example(length, supervised=2, weight=1.0):
    mask = np.zeros(length, dtype=bool)
    mask[-supervised:] = True
    return EncodedExample(np.arange(1, length + 1, dtype=np.int32), mask, weight)


def test_a_batch_is_padded_and_weighted():
    batch = collate([example(5), example(17, 3, 0.5)], pad_id=9)
    assert batch.ids.shape == (2, 16)
    assert list(batch.ids[0, :6]) == [1, 2, 3, 4, 9, 9]
    assert batch.tokens == 5
    assert list(batch.positions[:5]) == [2, 3, 16 + 13, 16 + 14, 16 + 15]
    assert list(batch.targets[:5]) == [4, 5, 15, 16, 17]
    assert list(batch.weights[:5]) == [1, 1, 0.5, 0.5, 0.5]
    assert len(batch.weights) == 32
    assert batch.weights[5:].sum() == 0


def test_the_common_prefix_ends_before_the_first_prediction():
    examples = [example(40, 20), example(40, 10), example(33, 5)]
    batch = collate(examples)
    # 40 - 20 = 20 tokens of prompt; the state of token 19 predicts, and 16 is the multiple of 8 below it.
    assert list(batch.prefix) == list(range(1, 17))
    assert batch.ids.shape == (3, 24)
    assert batch.positions[0] == 19 - 16
    examples[1].ids[9] = 999
    assert len(collate(examples).prefix) == 8
    assert len(collate(examples, share_prefix=False).prefix) == 0


def test_evaluation_sees_each_token_once():
    examples = [example(3 + i % 7) for i in range(23)]
    assert sum(b.tokens for b in in_order(examples, 4)) == 46


def test_a_span_weighs_its_tokens_and_the_mean_stays_one(tokenizer):
    answer = "LUMEN_TOKENS: quiet here, quiet"
    start = answer.rindex("quiet")
    example = Example([MESSAGES[1], {"role": "assistant", "content": answer}], 0.5, spans=[Span(1, start, 31, 5.0)])
    encoded = encode_example(tokenizer, example, 512)
    weights = encoded.token_weights[encoded.supervised]
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    heavy = encoded.ids[encoded.supervised][weights > weights.min()]
    assert tokenizer.decode(heavy).strip() == "quiet"
    assert weights.max() / weights.min() == pytest.approx(5)
    batch = collate([encoded])
    assert batch.weights[: batch.tokens] == pytest.approx(0.5 * weights)


def test_a_span_survives_a_prompt_that_is_cut(tokenizer):
    messages = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "quiet here"}]
    example = Example(messages, spans=[Span(1, 0, 5, 5.0)])
    whole, cut = (encode_example(tokenizer, example, size) for size in (1000, 64))
    assert cut.token_weights[cut.supervised].tolist() == whole.token_weights[whole.supervised].tolist()


def test_prompts_are_learned_too_where_asked(tokenizer):
    encoded = encode_example(tokenizer, Example(MESSAGES), 512, train_on_prompt=True)
    assert encoded.supervised.all()
    assert collate([encoded, encoded]).prefix.size == 0


def test_the_end_of_an_open_answer_is_not_learned(tokenizer):
    """The row is the same text, and the same is learned but for the end-of-turn tokens of the open answer."""
    opened = [*MESSAGES[:2], {**MESSAGES[2], "open_end": True}, *MESSAGES[3:]]
    encoded, closed = (encode_example(tokenizer, Example(messages), 512) for messages in (opened, MESSAGES))
    assert encoded.ids.tolist() == closed.ids.tolist()
    assert supervised_text(tokenizer, encoded) == "EISV_TOKENS: ~stillness~no<|eot_id|>"
    everything = encode_example(tokenizer, Example(opened), 512, train_on_prompt=True)
    (left_out,) = np.flatnonzero(~everything.supervised)
    assert tokenizer.decode(everything.ids[left_out]) == "<|eot_id|>"
    assert not encoded.supervised[left_out]
    # Nothing of an answer is cut, its end token included.
    long = [{"role": "user", "content": "word " * 200}, {**MESSAGES[2], "open_end": True}]
    cut = encode_example(tokenizer, Example(long), 64)
    assert supervised_text(tokenizer, cut) == "EISV_TOKENS: ~stillness~"
    assert tokenizer.decode(cut.ids).endswith("~stillness~<|eot_id|>")
    shut = [*MESSAGES[:4], {**MESSAGES[4], "open_end": False}]
    assert encode_example(tokenizer, Example(shut), 512).supervised.tolist() == closed.supervised.tolist()


@pytest.mark.parametrize("message", [{**MESSAGES[1], "open_end": True}, {**MESSAGES[2], "open_end": "yes"}])
def test_an_open_end_is_an_answers(tokenizer, message):
    with pytest.raises(UserError, match=r"open_end in message 1 must be true or false, in an assistant message"):
        encode_example(tokenizer, Example([message, MESSAGES[4]]), 512)
