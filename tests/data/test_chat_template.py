"""Rendering: system prompts that a template has no place for, ChatML for bases without a template, which template."""

from __future__ import annotations

import json

import pytest

from mlx_lora.config import TrainingConfig
from mlx_lora.data.chat_template import encode_prompt, merge_note, merge_system, render, system_support
from mlx_lora.data.dataset import Example
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Who are you?"}
SAY = {"role": "assistant", "content": "Lumen."}
MERGED = {"role": "user", "content": "Be brief.\n\nWho are you?"}
# Prints user and assistant messages, and passes over every other role.
DROPS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] in ['user', 'assistant'] %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
)
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + DROPS
)
WITHOUT = ("chat_template",)


def ids(tokenizer, messages):
    return encode_example(tokenizer, Example(messages), 512).ids.tolist()


@pytest.mark.parametrize(("template", "support"), [(DROPS, "dropped"), (REFUSES, "refused")])
def test_the_system_prompt_is_put_before_the_first_question(changed_base, template, support):
    tokenizer = load_tokenizer(str(changed_base(tokenizer_config={"chat_template": template})))
    assert system_support(tokenizer) == support
    assert ids(tokenizer, [SYSTEM, ASK, SAY]) == ids(tokenizer, [MERGED, SAY])
    # The same where it is served, and nothing of it is learned.
    assert encode_prompt(tokenizer, [SYSTEM, ASK]) == encode_prompt(tokenizer, [MERGED])
    example = encode_example(tokenizer, Example([SYSTEM, ASK, SAY]), 512)
    assert tokenizer.decode(example.ids[example.supervised]) == "Lumen.<|eot_id|>"
    assert "put before the first user message" in merge_note(tokenizer)


@pytest.mark.parametrize("template", [DROPS, REFUSES])
def test_refuse_is_one_sentence(changed_base, template):
    base = str(changed_base(tokenizer_config={"chat_template": template}))
    tokenizer = load_tokenizer(base, system_role="refuse")
    with pytest.raises(UserError, match="take the system prompt out, or set system_role: merge"):
        ids(tokenizer, [SYSTEM, ASK, SAY])
    assert ids(tokenizer, [ASK, SAY]) == ids(load_tokenizer(base), [ASK, SAY])


def test_a_template_with_a_system_role_gets_it_as_it_is():
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    assert system_support(tokenizer) == "kept"
    assert merge_note(tokenizer) is None
    assert "system<|end_header_id|>\n\nBe brief.<|eot_id|>" in render(tokenizer, [SYSTEM, ASK])


def test_published_templates(realdata):
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    found = {}
    for file in sorted((realdata / "chat_templates").glob("*.jinja")):
        tokenizer.chat_template = file.read_text()
        found[file.stem] = system_support(tokenizer)
    without = {name: support for name, support in found.items() if support != "kept"}
    assert without == {"google-gemma-2-2b-it": "refused"}


# As gpt-oss writes thoughts: under a key of its own, in the last answer alone.
THINKS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' and m.KEY and loop.last %}"
    "<|start_header_id|>analysis<|end_header_id|>{{ m.KEY }}<|eot_id|>{% endif %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}"
)


@pytest.mark.parametrize("key", ["thinking", "reasoning", "reasoning_content"])
def test_thoughts_under_the_key_that_the_template_reads(changed_base, key):
    tokenizer = load_tokenizer(str(changed_base(tokenizer_config={"chat_template": THINKS.replace("KEY", key)})))
    thought = {**SAY, "reasoning_content": "My name."}
    example = encode_example(tokenizer, Example([ASK, thought]), 512)
    learned = tokenizer.decode(example.ids[example.supervised])
    assert "My name.<|eot_id|>" in learned
    assert learned.endswith("Lumen.<|eot_id|>")


def test_a_switch_for_thoughts_is_not_their_key(changed_base):
    thought = {**SAY, "reasoning_content": "My name."}
    switch = DROPS + "{% if enable_thinking and 'on' == 'off' %}{% endif %}"
    tokenizer = load_tokenizer(str(changed_base(tokenizer_config={"chat_template": switch})))
    assert ids(tokenizer, [ASK, thought]) == ids(tokenizer, [ASK, SAY])


def test_merging():
    again = {"role": "system", "content": "Now in rhyme."}
    assert merge_system([SYSTEM, again, ASK]) == [{**ASK, "content": "Be brief.\n\nNow in rhyme.\n\nWho are you?"}]
    assert merge_system([ASK, SAY, again, ASK]) == [ASK, SAY, {**ASK, "content": "Now in rhyme.\n\nWho are you?"}]
    assert merge_system([SYSTEM, SAY]) == [{"role": "user", "content": "Be brief."}, SAY]
    assert merge_system([ASK, SYSTEM]) == [ASK, {"role": "user", "content": "Be brief."}]
    parts = {"role": "user", "content": [{"type": "text", "text": "Who?"}]}
    assert merge_system([SYSTEM, parts])[0]["content"] == [{"type": "text", "text": "Be brief.\n\n"}, *parts["content"]]
    assert merge_system([{**SYSTEM, "content": ""}, ASK]) == [ASK]


class TestChatML:
    def test_a_base_without_a_template_names_the_key(self, changed_base):
        tokenizer = load_tokenizer(str(changed_base(remove=WITHOUT, tokenizer_config={})))
        with pytest.raises(UserError, match="set the config key chat_template"):
            render(tokenizer, [ASK])

    def test_the_eos_ends_answers_where_the_tokenizer_has_no_im_end(self, changed_base):
        base = str(changed_base(remove=WITHOUT, tokenizer_config={}))
        tokenizer = load_tokenizer(base, chat_template="chatml")
        assert render(tokenizer, [SYSTEM, ASK, SAY]) == (
            "<|im_start|>system\nBe brief.<|eot_id|>\n<|im_start|>user\nWho are you?<|eot_id|>\n"
            "<|im_start|>assistant\nLumen.<|eot_id|>\n"
        )
        assert tokenizer.base_facts.ends == [1022]
        example = encode_example(tokenizer, Example([ASK, SAY]), 512)
        assert tokenizer.decode(example.ids[example.supervised]) == "Lumen.<|eot_id|>"

    def test_a_bos_where_the_tokenizer_writes_one(self, realdata):
        tokenizer = load_tokenizer(str(realdata / "tokenizers" / "llama3"), chat_template="chatml")
        text = render(tokenizer, [ASK, SAY])
        assert text.startswith(tokenizer.bos_token + "<|im_start|>user\n")
        assert text.endswith(f"Lumen.{tokenizer.eos_token}\n")

    def test_im_end_where_it_is_one_token(self, changed_base):
        base = changed_base(remove=WITHOUT, tokenizer_config={})
        content = (base / "tokenizer.json").read_text()
        (base / "tokenizer.json").write_text(content.replace("<|end_of_text|>", "<|im_end|>"))
        tokenizer = load_tokenizer(str(base), chat_template="chatml")
        assert render(tokenizer, [ASK, SAY]).endswith("<|im_start|>assistant\nLumen.<|im_end|>\n")
        assert tokenizer.base_facts.ends == [1022, 1019]

    def test_without_any_end_it_is_refused(self, changed_base):
        base = changed_base(remove=(*WITHOUT, "eos_token"), tokenizer_config={})
        with pytest.raises(UserError, match="has neither <\\|im_end\\|> nor an EOS token"):
            load_tokenizer(str(base), chat_template="chatml")

    def test_tools_are_refused_and_not_left_out(self, changed_base):
        tokenizer = load_tokenizer(str(changed_base()), chat_template="chatml")
        tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
        with pytest.raises(UserError, match="ChatML says nothing of tools"):
            render(tokenizer, [ASK], tools=[tool])

    def test_a_file(self, changed_base, tmp_path):
        base = str(changed_base())
        (tmp_path / "t.jinja").write_text(DROPS)
        tokenizer = load_tokenizer(base, chat_template=str(tmp_path / "t.jinja"))
        assert tokenizer.chat_template == DROPS
        assert any("in place of its own" in note for note in tokenizer.base_facts.notes)
        (tmp_path / "t.jinja").write_text("{% for %}")
        with pytest.raises(UserError, match="is not a Jinja template"):
            load_tokenizer(base, chat_template=str(tmp_path / "t.jinja"))
        with pytest.raises(UserError, match="chat_template chat-ml: this file cannot be read"):
            load_tokenizer(base, chat_template="chat-ml")

    @pytest.mark.parametrize("drawn", ["{{ [1, 2] | random }}", "{{ lipsum() }}"])
    def test_a_template_that_draws_at_random(self, changed_base, drawn):
        with pytest.raises(UserError, match="draws at random"):
            load_tokenizer(str(changed_base(tokenizer_config={"chat_template": drawn})))


class TestWhichTemplate:
    def test_two_that_differ_are_told(self, changed_base):
        base = changed_base()
        (base / "chat_template.jinja").write_text(DROPS)
        tokenizer = load_tokenizer(str(base))
        assert tokenizer.chat_template == DROPS
        said = (
            "chat_template.jinja and tokenizer_config.json hold different chat templates; that of chat_template.jinja"
        )
        assert any(said in note for note in tokenizer.base_facts.notes)

    def test_the_processor_s_file_alone(self, changed_base):
        base = changed_base(remove=WITHOUT, tokenizer_config={})
        (base / "chat_template.json").write_text(json.dumps({"chat_template": DROPS}))
        assert load_tokenizer(str(base)).chat_template == DROPS

    def test_several_by_name(self, changed_base):
        named = [{"name": "default", "template": DROPS}, {"name": "tool_use", "template": "TOOLS"}]
        tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
        listed = load_tokenizer(str(changed_base(tokenizer_config={"chat_template": named})))
        base = changed_base("folder", remove=WITHOUT, tokenizer_config={})
        (base / "chat_template.jinja").write_text(DROPS)
        (base / "additional_chat_templates").mkdir()
        (base / "additional_chat_templates" / "tool_use.jinja").write_text("TOOLS")
        for tokenizer in (listed, load_tokenizer(str(base))):
            assert render(tokenizer, [ASK]).startswith("<|begin_of_text|><|start_header_id|>user")
            assert render(tokenizer, [ASK], tools=[tool]) == "TOOLS"
            assert tokenizer.base_facts.ends == [1022]

    def test_own_code_is_refused(self, changed_base):
        own = {"AutoTokenizer": ["code.Own", None]}
        base = changed_base(tokenizer_config={"auto_map": own, "tokenizer_class": "Own"})
        (base / "code.py").write_text("raise SystemExit('it ran')")
        with pytest.raises(UserError, match="brings its own code, which is never run here"):
            load_tokenizer(str(base))


def write(directory, *rows):
    directory.mkdir()
    (directory / "train.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return directory


def train(base, data, out, **settings):
    from mlx_lora.training.train import train as begin

    small = {"max_steps": 2, "lora_rank": 4, "batch_size": 2, "gradient_accumulation_steps": 1, "warmup_steps": 0}
    config = TrainingConfig(model_name=str(base), data=str(data), output_dir=str(out), **{**small, **settings})
    return begin(config, quiet=True)[0]


class TestOfARun:
    """The chat template of the config goes with the run."""

    @pytest.fixture
    def base(self, changed_base):
        return changed_base(remove=WITHOUT, tokenizer_config={})

    @pytest.fixture
    def data(self, tmp_path):
        rows = [[SYSTEM, {**ASK, "content": f"Who are you, {i}?"}, {**SAY, "content": f"Lumen {i}."}] for i in range(4)]
        return write(tmp_path / "data", *rows)

    def test_recorded_used_and_exported(self, base, data, tmp_path):
        from mlx_lora.evaluation.targets.opening import load_target
        from mlx_lora.export.fuse import fuse

        template = tmp_path / "t.jinja"
        template.write_text(DROPS)
        run = train(base, data, tmp_path / "run", chat_template=str(template))
        template.unlink()
        assert (run / "chat_template.jinja").read_text() == DROPS
        assert load_target(str(run)).backend.tokenizer.chat_template == DROPS
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert sum("put before the first user message" in e.get("message", "") for e in events) == 1
        report = fuse(run, tmp_path / "fused")
        assert report.verdict == "verified"
        assert any("which other programs must do themselves" in note for note in report.notes)
        assert load_tokenizer(str(tmp_path / "fused")).chat_template == DROPS

    def test_chatml(self, base, data, tmp_path):
        run = train(base, data, tmp_path / "run", chat_template="chatml")
        assert "<|im_start|>" in (run / "chat_template.jinja").read_text()
        assert json.loads((run / "run.json").read_text())["learned_from"]["chat_template"] == "chatml"

    def test_another_template_is_another_run(self, base, data, tmp_path):
        template = tmp_path / "t.jinja"
        template.write_text(DROPS)
        settings = {"chat_template": str(template), "max_minutes": 1e-6}
        train(base, data, tmp_path / "run", **settings)
        template.write_text(DROPS + " ")
        with pytest.raises(
            UserError, match=r"the chat template has changed since it was recorded in chat_template\.jinja"
        ):
            train(base, data, tmp_path / "run", **settings)

    def test_system_role_refuse(self, base, data, tmp_path):
        template = tmp_path / "t.jinja"
        template.write_text(REFUSES)
        with pytest.raises(UserError, match=r"train\.jsonl, example 1: .* set system_role: merge"):
            train(base, data, tmp_path / "run", chat_template=str(template), system_role="refuse")

    def test_check_and_show_take_it(self, base, data, command, refused):
        shown = command("data", "show", data, "--base", base, "--chat-template", "chatml")
        assert "<|im_start|>assistant" in shown.stdout
        checked = command("data", "check", data, "--base", base, "--chat-template", "chatml", "--json")
        checks = [finding["check"] for finding in json.loads(checked.stdout)["findings"]]
        assert "template_refuses" not in checks
        assert "name the base with --base" in refused("data", "check", data, "--chat-template", "chatml")
