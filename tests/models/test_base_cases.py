"""Bases whose files contradict each other, or hold more than a base: the right value for each."""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path

import pytest
import transformers.utils.chat_template_utils as template_utils

from mlx_lora.config import TrainingConfig
from mlx_lora.data.dataset import Example
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.models.tokenizer import load_tokenizer
from mlx_lora.training.train import train

SMALL = {"max_steps": 2, "lora_rank": 4, "batch_size": 2, "gradient_accumulation_steps": 1, "warmup_steps": 0}
CLOCK_TEMPLATE = (
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + strftime_now('%Y-%m-%d') + "
    "'<|eot_id|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def write_rows(directory: Path, number: int = 4, text: str = "shape: convergence number {}", split="train") -> Path:
    directory.mkdir(exist_ok=True)
    rows = [
        {
            "messages": [
                {"role": "user", "content": text.format(i)},
                {"role": "assistant", "content": f"EISV_TOKENS: ~stillness~ and answer {i} goes on"},
            ]
        }
        for i in range(number)
    ]
    (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def run(base, data: Path, out: Path, **settings) -> Path:
    config = TrainingConfig(model_name=str(base), data=str(data), output_dir=str(out), **{**SMALL, **settings})
    return train(config, quiet=True)[0]


class TestLearnedEndIsNoStop:
    """The config, generation_config and tokenizer name one end, the chat template ends answers with another.

    The case learned-end-is-no-stop.
    """

    PROMPT = "TRAJECTORY:\nshape: convergence\nwindow: 4 states over 7s"

    @pytest.fixture
    def base(self, changed_base):
        return changed_base(
            tokenizer_config={"eos_token": "<|end_of_text|>"},
            config={"eos_token_id": 1019},
            generation_config={"eos_token_id": 1019, "bos_token_id": 1018},
        )

    @pytest.mark.parametrize("backend", ["mlx", "torch"])
    def test_generation_stops_at_the_learned_end(self, base, tmp_path, backend):
        if backend == "torch":
            pytest.importorskip("torch")

        def ask(target):
            chat = [{"role": "user", "content": self.PROMPT}]
            return load_target(str(target), backend).answer([chat], [""], Generation(60))[0].text

        expected = ask("builtin/tiny-lumen")
        assert len(expected.split()) < 20
        assert ask(base) == expected
        trained = run(base, write_rows(tmp_path / "data"), tmp_path / "run", learning_rate=1e-6, backend=backend)
        assert ask(trained) == expected
        record = json.loads((trained / "run.json").read_text())
        assert record["eos_token_ids"] == [1019, 1022]

    def test_fuse_writes_it_among_the_ends(self, base, tmp_path):
        from mlx_lora.export.fuse import fuse

        report = fuse(run(base, write_rows(tmp_path / "data"), tmp_path / "run"), tmp_path / "fused")
        assert report.verdict == "verified"
        for file in ("config.json", "generation_config.json"):
            assert json.loads((tmp_path / "fused" / file).read_text())["eos_token_id"] == [1019, 1022]

    def test_the_note_says_it(self, base):
        facts = load_tokenizer(str(base)).base_facts
        assert facts.ends == [1019, 1022]
        assert any("ends answers with '<|eot_id|>' (1022), which neither its config" in note for note in facts.notes)
        assert load_tokenizer("builtin/tiny-lumen").base_facts.notes == []


class TestTokenBeyondTheEmbedding:
    """An added token without a row in the embedding.

    The case token-beyond-the-embedding.
    """

    SENTENCE = "the tokenizer has the token '<|tool|>' (1024) and the model's embedding 1024 rows"

    @pytest.fixture
    def base(self, changed_base):
        base = changed_base()
        file = base / "tokenizer.json"
        content = json.loads(file.read_text())
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": 1024, "content": "<|tool|>", "special": True, **plain})
        file.write_text(json.dumps(content))
        return base

    @pytest.mark.slow
    def test_check_train_and_generate_name_it(self, base, tmp_path, command, refused):
        data = write_rows(tmp_path / "data", 8, "shape: convergence {} <|tool|> here")
        checked = command("data", "check", data, "--base", base)
        assert checked.returncode == 1
        assert self.SENTENCE in checked.stdout
        sets = [f"--set={key}={value}" for key, value in {**SMALL, "model_name": base}.items()]
        said = refused("train", "--data", data, "--out", tmp_path / "run", *sets)
        assert self.SENTENCE in said
        assert "example 1" in said
        assert not (tmp_path / "run").exists()
        assert self.SENTENCE in refused("generate", "--target", base, "--prompt", "say <|tool|> now")

    def test_a_note_where_no_row_uses_it(self, base, tmp_path):
        assert run(base, write_rows(tmp_path / "data"), tmp_path / "run").is_dir()
        events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert any(self.SENTENCE in event.get("message", "") for event in events)

    def test_a_base_that_overflows_is_not_blamed_on_the_learning_rate(self, changed_base, tmp_path):
        import mlx.core as mx

        base = changed_base(config={"dtype": "float16"})
        file = str(base / "model.safetensors")
        weights = {name: value.astype(mx.float16) for name, value in mx.load(file).items()}
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * 60000
        mx.save_safetensors(file, weights, metadata={"format": "pt"})
        with pytest.raises(
            UserError,
            match=r"step 1: the loss is (nan|inf).* before anything was learned, so that the "
            r"base itself gives it; its weights are float16, whose range ends at 65504",
        ):
            run(base, write_rows(tmp_path / "data"), tmp_path / "run")


MESSAGES = [
    {"role": "user", "content": "shape: convergence, short"},
    {"role": "assistant", "content": "EISV_TOKENS: ~stillness~ 0"},
    {"role": "user", "content": "and what follows from the window of states after that, say it"},
    {"role": "assistant", "content": "EISV_TOKENS: ~curiosity~ 0 goes on"},
]
STATES = {
    "truncation": {"direction": "Right", "max_length": 60, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 128},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 1023,
        "pad_type_id": 0,
        "pad_token": "<|pad|>",
    },
}


class TestTokenizerThatCutsOrPads:
    """A tokenizer.json saved with truncation, padding or BPE-dropout switched on.

    The case tokenizer-that-cuts-or-pads.
    """

    @pytest.mark.parametrize("state", STATES)
    def test_the_tokens_are_those_of_the_base(self, changed_base, state):
        base = changed_base(tokenizer={state: STATES[state]})
        tokenizer = load_tokenizer(str(base))
        found = encode_example(tokenizer, Example(MESSAGES), 512)
        right = encode_example(load_tokenizer("builtin/tiny-lumen"), Example(MESSAGES), 512)
        assert found.ids.tolist() == right.ids.tolist()
        assert (len(found), int(found.supervised.sum())) == (104, 24)
        assert state in tokenizer.base_facts.notes[0]

    def test_dropout_of_merges_is_undone(self, changed_base):
        base = changed_base()
        content = json.loads((base / "tokenizer.json").read_text())
        content["model"]["dropout"] = 0.9
        (base / "tokenizer.json").write_text(json.dumps(content))
        text = "and what follows from the window of states"
        right = load_tokenizer("builtin/tiny-lumen").backend_tokenizer.encode(text).ids
        backend = load_tokenizer(str(base)).backend_tokenizer
        assert [backend.encode(text).ids for _ in range(5)] == [right] * 5

    def test_special_tokens_are_not_split(self, changed_base):
        base = changed_base(tokenizer_config={"split_special_tokens": True})
        assert load_tokenizer(str(base)).encode("<|eot_id|>", add_special_tokens=False) == [1022]


class TestTemplateThatAsksTheClock:
    """A template that prints the date with ``strftime_now``.

    The case template-that-asks-the-clock.
    """

    @staticmethod
    def move(monkeypatch, days):
        real = datetime.datetime

        class Moved(real):
            @classmethod
            def now(cls, tz=None):
                return real.now(tz) + datetime.timedelta(days=days)

        monkeypatch.setattr(template_utils, "datetime", Moved)

    @pytest.mark.slow
    def test_the_same_adapter_on_any_day(self, changed_base, tmp_path, monkeypatch):
        base = changed_base(tokenizer_config={"chat_template": CLOCK_TEMPLATE})
        data = write_rows(tmp_path / "data", 8)
        write_rows(data, 3, "shape: other {}", "valid")
        settings = {"max_steps": 8, "save_steps": 2, "num_epochs": 20}
        adapters = []
        for days in (0, 1):
            self.move(monkeypatch, days)
            adapters.append(run(base, data, tmp_path / f"day{days}", **settings) / "adapters.safetensors")
        # Interrupted after two steps on one day, resumed on the next.
        self.move(monkeypatch, 0)
        interrupted = run(base, data, tmp_path / "both", **settings, max_minutes=1e-6)
        assert json.loads((interrupted / "run.json").read_text())["result"] is None
        self.move(monkeypatch, 1)
        adapters.append(run(base, data, tmp_path / "both", **settings) / "adapters.safetensors")
        assert len({file.read_bytes() for file in adapters}) == 1
        record = json.loads((tmp_path / "both" / "run.json").read_text())
        assert record["template_date"] == "26 Jul 2024"

    def test_the_date_and_the_clock_afterwards(self, changed_base):
        from mlx_lora.data.chat_template import render

        tokenizer = load_tokenizer(str(changed_base(tokenizer_config={"chat_template": CLOCK_TEMPLATE})))
        assert "Today: 2024-07-26<|eot_id|>" in render(tokenizer, [{"role": "user", "content": "x"}])
        assert template_utils.datetime is datetime.datetime

    def test_exports_say_it(self, changed_base, tmp_path):
        from mlx_lora.export.fuse import fuse

        base = changed_base(tokenizer_config={"chat_template": CLOCK_TEMPLATE})
        report = fuse(run(base, write_rows(tmp_path / "data"), tmp_path / "run"), tmp_path / "fused")
        assert any("in training it was 26 Jul 2024" in note for note in report.notes)


class TestBaseByARelativePath:
    """A base in a directory that was named relatively, and the run used from elsewhere.

    The case base-by-a-relative-path.
    """

    def test_the_run_works_from_every_directory(self, changed_base, tmp_path, monkeypatch):
        changed_base("models")
        data = write_rows(tmp_path / "data")
        monkeypatch.chdir(tmp_path)
        trained = run("models", data, Path("run"))
        absolute = str(tmp_path / "models")
        assert json.loads((trained / "run.json").read_text())["model"] == absolute
        assert json.loads((trained / "adapter_config.json").read_text())["model"] == absolute
        assert f"model_name: {absolute}\n" in (trained / "config.yaml").read_text()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert load_target(str(tmp_path / "run")).backend.name == "mlx"

    def test_a_run_with_a_relative_name_resumes_where_it_was_trained(self, changed_base, tmp_path, monkeypatch):
        changed_base("models")
        data = write_rows(tmp_path / "data")
        monkeypatch.chdir(tmp_path)
        trained = run("models", data, Path("run"), max_minutes=1e-6)
        file = trained / "run.json"
        record = json.loads(file.read_text())
        record["model"] = record["learned_from"]["model_name"] = "models"
        for key in ("chat_template", "system_role"):
            del record["learned_from"][key]
        file.write_text(json.dumps(record))
        assert json.loads((run("models", data, Path("run")) / "run.json").read_text())["result"]["steps"] == 2

    def test_the_hub_is_never_asked_for_a_directory_that_is_gone(self, changed_base, tmp_path, monkeypatch):
        import huggingface_hub

        def asked(*arguments, **options):
            raise AssertionError("the hub was asked")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
        trained = run(changed_base("models"), write_rows(tmp_path / "data"), tmp_path / "run")
        record = json.loads((trained / "run.json").read_text())
        (trained / "run.json").write_text(json.dumps({**record, "model": "models/base"}))
        with pytest.raises(UserError, match="models/base: this adapter was trained on a base in a local directory"):
            load_target(str(trained))


def test_importing_nothing_heavy():
    """The plain side stays plain: chat_template and inspection import no transformers by themselves."""
    import subprocess

    script = (
        "import sys, mlx_lora.data.chat_template, mlx_lora.models.inspection, mlx_lora.models.templates; "
        "sys.exit(any(name in sys.modules for name in ('transformers', 'torch', 'mlx', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False).returncode == 0
