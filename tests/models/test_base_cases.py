"""Bases whose files contradict each other, from loading to training, generation and fusing."""

from __future__ import annotations

import datetime
import json

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from mlx_lora.cli.main import cli
from mlx_lora.config import TrainingConfig
from mlx_lora.data.chat_template import TEMPLATE_DATE, encode_prompt, render
from mlx_lora.data.encode import encode_example
from mlx_lora.data.example import Example
from mlx_lora.errors import UserError
from mlx_lora.evaluation.targets import answer, load_target
from mlx_lora.export.fuse import fuse
from mlx_lora.models.tokenizer import load_tokenizer
from mlx_lora.training.directory import read_run
from mlx_lora.training.run import train

EOT, END_OF_TEXT, PAD = 1022, 1019, 1023
SETTINGS = {
    "max_steps": 2,
    "lora_rank": 4,
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
    "backend": "mlx",
}
PROMPT = "TRAJECTORY:\nshape: convergence\nwindow: 4 states over 7s"
ANSWER = "~curiosity~ ~threshold~ ~emergence~ ~warmth~"
PLAIN = "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + "
PLAIN += "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>"
PLAIN += "\n\n' }}{% endif %}"
RAISES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
DROPS = PLAIN.replace("for m in messages", "for m in messages if m['role'] != 'system'")
DATED = "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + strftime_now('%Y-%m-%d') + '<|eot_id|>' }}"
DATED += PLAIN


def question(text: str, reply: str, system: str | None = None) -> list[dict]:
    chat = [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]
    return ([{"role": "system", "content": system}] if system else []) + chat


def write_rows(folder, chats) -> str:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return str(folder)


@pytest.fixture
def data(tmp_path):
    texts = [
        question(f"shape: convergence number {n}", f"EISV_TOKENS: ~stillness~ and answer {n} goes on") for n in range(4)
    ]
    return write_rows(tmp_path / "data", texts)


def config(base, data, out, **settings) -> TrainingConfig:
    paths = {"model_name": str(base), "data": str(data), "output_dir": str(out)}
    return TrainingConfig(**{**SETTINGS, **paths, **settings})


def ask(target, text: str, tokens: int = 4) -> str:
    return answer(load_target(str(target), "mlx"), [[{"role": "user", "content": text}]], max_tokens=tokens)[0]


def bits(run) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(run / "adapters.safetensors").items()}


def test_a_base_by_a_relative_path_is_found_from_elsewhere(make_base, data, tmp_path, monkeypatch):
    base = make_base()
    monkeypatch.chdir(tmp_path)
    train(config("base", data, "run"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert read_run(tmp_path / "run")["model"] == str(base)
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["model"] == str(base)
    assert ask("../run", "hello") == ask(tmp_path / "run", "hello")
    fuse("../run", "fused")
    assert (elsewhere / "fused" / "model.safetensors").exists()


def test_a_local_base_that_is_gone_is_never_asked_of_the_hub(make_base, data, tmp_path, monkeypatch):
    import huggingface_hub

    base = make_base()
    monkeypatch.chdir(tmp_path)
    train(config("base", data, "run"))
    base.rename(tmp_path / "moved")
    # Runs of earlier versions recorded the path as it was typed, here one that looks like a name on the hub.
    record = read_run(tmp_path / "run")
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.append(name))
    for name in (record["model"], "models/base"):
        (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "model": name}))
        with pytest.raises(UserError) as error:
            load_target("run", "mlx")
        assert name in str(error.value)
    assert asked == []


def test_generation_stops_at_the_learned_end(make_base, data, tmp_path):
    base = make_base(
        tokenizer_config={"eos_token": "<|end_of_text|>"},
        config={"eos_token_id": END_OF_TEXT},
        generation_config={"eos_token_id": END_OF_TEXT, "bos_token_id": 1018},
    )
    facts = load_tokenizer(str(base)).base_facts
    assert facts.ends == [END_OF_TEXT, EOT]
    assert any("'<|eot_id|>' (1022)" in note for note in facts.notes)
    assert ask(base, PROMPT, 60) == ask("builtin/tiny-lumen", PROMPT, 60) == ANSWER
    train(config(base, data, tmp_path / "run", learning_rate=1e-6))
    assert ask(tmp_path / "run", PROMPT, 60) == ANSWER
    assert read_run(tmp_path / "run")["eos_token_ids"] == [END_OF_TEXT, EOT]

    report = fuse(str(tmp_path / "run"), tmp_path / "fused")
    assert all(check.passed for check in report.checks)
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "fused" / file).read_text())["eos_token_id"] == [END_OF_TEXT, EOT]
    assert json.loads((tmp_path / "fused" / "generation_config.json").read_text())["bos_token_id"] == 1018
    assert ask(tmp_path / "fused", PROMPT, 60) == ANSWER


def with_added_token(base, number: int = 1024) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": number, "content": "<|tool|>", "special": True, **flags})
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_a_token_beyond_the_embedding_is_refused_everywhere(make_base, data, tmp_path):
    base = make_base()
    with_added_token(base)
    said = "the tokenizer has the token '<|tool|>' (1024) and the model's embedding 1024 rows"
    reply = "EISV_TOKENS: ~stillness~ and more"
    rows = write_rows(tmp_path / "tool", [question(f"shape: convergence {n} <|tool|> here", reply) for n in range(8)])

    checked = CliRunner().invoke(cli, ["data", "check", rows, "--base", str(base)], standalone_mode=False)
    assert checked.return_value == 1, checked.output
    assert said in checked.output
    asked = CliRunner().invoke(cli, ["generate", "--target", str(base), "--prompt", "say <|tool|> now"])
    assert isinstance(asked.exception, UserError)
    assert said in str(asked.exception)
    with pytest.raises(UserError, match=r"train\.jsonl") as error:
        train(config(base, rows, tmp_path / "run"))
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()

    # Text without the token is trained as ever: many bases have such tokens and never use them.
    train(config(base, data, tmp_path / "run"))
    train(config("builtin/tiny-lumen", data, tmp_path / "plain"))
    assert bits(tmp_path / "run") == bits(tmp_path / "plain")


CUTS = {"truncation": {"direction": "Right", "max_length": 60, "strategy": "LongestFirst", "stride": 0}}
PADS = {
    "padding": {
        "strategy": {"Fixed": 128},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": PAD,
        "pad_type_id": 0,
        "pad_token": "<|pad|>",
    }
}


@pytest.mark.parametrize(("stored", "named"), [(CUTS, "truncation to 60 tokens"), (PADS, "padding")])
def test_a_tokenizer_that_cuts_or_pads_changes_nothing(make_base, stored, named):
    follow = "and what follows from the window of states after that, say it"
    chat = [
        *question("shape: convergence, short", "EISV_TOKENS: ~stillness~ 0"),
        *question(follow, "EISV_TOKENS: ~curiosity~ 0 goes on"),
    ]
    tokenizer = load_tokenizer(str(make_base(tokenizer=stored)))
    encoded = encode_example(tokenizer, Example(chat), 512)
    plain_tokenizer = load_tokenizer("builtin/tiny-lumen")
    plain = encode_example(plain_tokenizer, Example(chat), 512)
    assert (len(encoded), int(encoded.supervised.sum())) == (104, 24)
    assert encoded.ids.tolist() == plain.ids.tolist()
    assert encoded.supervised.tolist() == plain.supervised.tolist()
    assert PAD not in encoded.ids
    assert encode_prompt(tokenizer, chat[:3]) == encode_prompt(plain_tokenizer, chat[:3])
    assert [note for note in tokenizer.base_facts.notes if named in note and "not used" in note]


def test_a_template_that_asks_the_clock_gives_the_same_adapter_on_any_day(make_base, data, tmp_path, monkeypatch):
    import transformers.utils.chat_template_utils as utils

    base = make_base(tokenizer_config={"chat_template": DATED})
    days = {}
    for day in (3, 4):

        class Moved(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return cls(2031, 5, day, tzinfo=tz)

        monkeypatch.setattr(utils, "datetime", Moved)
        tokenizer = load_tokenizer(str(base))
        # The clock that transformers gives to templates has moved, so that the comparison means something.
        plain = tokenizer.apply_chat_template(question("a", "b"), tokenize=False)
        assert f"Today: 2031-05-0{day}" in plain
        text = render(tokenizer, question("a", "b"))
        assert "Today: 2024-07-26" in text
        train(config(base, data, tmp_path / f"day{day}"))
        assert utils.datetime is Moved
        days[day] = bits(tmp_path / f"day{day}")
        assert read_run(tmp_path / f"day{day}")["template_date"] == TEMPLATE_DATE == "26 Jul 2024"
    assert days[3] == days[4]


def test_a_run_of_another_template_date_is_not_resumed(make_base, data, tmp_path):
    base = make_base(tokenizer_config={"chat_template": DATED})
    train(config(base, data, tmp_path / "run"))
    record = read_run(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "template_date": "01 Jan 2020"}))
    with pytest.raises(UserError, match="01 Jan 2020"):
        train(config(base, data, tmp_path / "run"))
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    train(config(base, data, tmp_path / "run"))


def test_chatml_for_a_base_without_a_template(make_base, data, tmp_path, monkeypatch):
    base = make_base(tokenizer_config={"chat_template": None})
    with pytest.raises(UserError, match="no chat template; set the config key chat_template"):
        train(config(base, data, tmp_path / "none"))
    train(config(base, data, tmp_path / "run", chat_template="chatml"))
    tokenizer = load_tokenizer(str(base), chat_template="chatml")
    # No token of its own for <|im_end|>, so that its EOS ends the answers; its tokenizer adds no BOS, nor does ChatML.
    written = "<|im_start|>user\na<|eot_id|>\n<|im_start|>assistant\nb<|eot_id|>\n"
    assert render(tokenizer, question("a", "b")) == written
    example = encode_example(tokenizer, Example(question("a", "b")), 512)
    assert EOT in example.ids[example.supervised]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    ask("../run", "hello")
    fuse("../run", "fused")
    template = (tmp_path / "run" / "chat_template.jinja").read_text()
    assert (elsewhere / "fused" / "chat_template.jinja").read_text() == template
    assert render(load_tokenizer(str(elsewhere / "fused")), question("a", "b")) == written


def test_a_template_file_is_kept_with_the_run(make_base, data, tmp_path, monkeypatch):
    base = make_base()
    file = tmp_path / "mine.jinja"
    file.write_text(PLAIN.replace("m['content']", "'> ' + m['content']"))
    monkeypatch.chdir(tmp_path)
    train(config(base, data, "run", chat_template="mine.jinja"))
    text = file.read_text()
    file.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    target = load_target("../run", "mlx")
    assert "\n\n> hello<|eot_id|>" in render(target.backend.tokenizer, [{"role": "user", "content": "hello"}])
    answer(target, [[{"role": "user", "content": "hello"}]], max_tokens=2)
    fuse("../run", "fused")
    assert (elsewhere / "fused" / "chat_template.jinja").read_text() == text
    # One template and no other is left for whoever loads the fused model.
    assert "chat_template" not in json.loads((elsewhere / "fused" / "tokenizer_config.json").read_text())

    file.write_text(text.replace("'> '", "'>> '"))
    with pytest.raises(UserError, match="chat template has changed"):
        train(config(base, data, tmp_path / "run", chat_template=str(file)))


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "cannot be read"), ("{% for", "not a Jinja template"), ("{{ [1, 2] | random }}", "draws at random")],
)
def test_a_template_file_that_is_useless_is_refused(make_base, data, tmp_path, text, said):
    file = tmp_path / "mine.jinja"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said):
        train(config(make_base(), data, tmp_path / "run", chat_template=str(file)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("template", "does"), [(RAISES, "refuses a system role"), (DROPS, "leaves the system prompt out")]
)
def test_a_template_without_a_system_role(make_base, tmp_path, template, does):
    base = make_base(tokenizer_config={"chat_template": template})
    chats = [question(f"shape {n}", f"EISV_TOKENS: ~stillness~ {n}", system="Be brief.") for n in range(4)]
    rows = write_rows(tmp_path / "data", chats)

    merged = render(load_tokenizer(str(base)), chats[0])
    assert merged.startswith("<|start_header_id|>user<|end_header_id|>\n\nBe brief.\n\nshape 0<|eot_id|>")
    train(config(base, rows, tmp_path / "run"))
    # The adapter is served with what it was trained with.
    target = load_target(str(tmp_path / "run"), "mlx")
    assert target.system_prompt == "Be brief."
    assert render(target.backend.tokenizer, chats[0]) == merged

    with pytest.raises(UserError, match=does) as error:
        train(config(base, rows, tmp_path / "refused", system_role="refuse"))
    assert "train.jsonl" in str(error.value)
    assert not (tmp_path / "refused").exists()


def test_a_template_with_a_system_role_is_left_alone():
    refusing = load_tokenizer("builtin/tiny-lumen", system_role="refuse")
    merging = load_tokenizer("builtin/tiny-lumen")
    chat = question("a", "b", system="Be brief.")
    assert render(refusing, chat) == render(merging, chat)
    assert "system<|end_header_id|>\n\nBe brief.<|eot_id|>" in render(merging, chat)
