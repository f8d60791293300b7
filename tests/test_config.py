import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_lora.config import DefaultModules, TrainingConfig, load_config
from mlx_lora.errors import UserError

PRESETS = sorted(p.stem for p in (Path(__file__).parent.parent / "configs").glob("*.yaml"))


def test_defaults():
    config = load_config()
    assert config == TrainingConfig()
    assert config.model_name == "meta-llama/Llama-3.2-1B-Instruct"
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)
    assert config.lora_target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (config.learning_rate, config.num_epochs, config.batch_size) == (2e-4, 5, 4)
    assert (config.gradient_accumulation_steps, config.warmup_steps, config.max_seq_length) == (4, 100, 512)
    assert (config.weight_decay, config.seed) == (0.01, 42)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    assert load_config(preset).lora_rank > 0


def test_published_presets():
    sleep, traces, coder, claims = map(load_config, ("sleep-published", "traces", "coder", "claims"))
    assert (sleep.lora_rank, sleep.lora_alpha, sleep.learning_rate, sleep.num_epochs) == (4, 8, 1e-5, 3)
    assert (traces.warmup_steps, traces.max_steps, traces.max_seq_length) == (5, 500, 4096)
    assert (coder.lr_schedule, coder.gradient_accumulation_steps, coder.grad_clip) == ("cosine", 12, 1.0)
    assert (claims.batch_size, claims.num_epochs) == (8, 3)
    assert load_config("eisv") == load_config()


def test_yaml_json_and_overrides(tmp_path):
    yaml, js = tmp_path / "c.yaml", tmp_path / "c.json"
    yaml.write_text("lora_rank: 8\nlearning_rate: 1e-4\n")
    js.write_text(json.dumps({"lora_rank": 8, "learning_rate": 1e-4}))
    assert load_config(yaml) == load_config(js)
    config = load_config(yaml, ["lora_rank=4", "num_layers=null", "lora_target_modules=[q_proj]", "learning_rate=1"])
    assert (config.lora_rank, config.num_layers, config.lora_target_modules) == (4, None, ["q_proj"])
    assert config.learning_rate == 1.0
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == TrainingConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora_rnk: 8", "no config key 'lora_rnk'; the nearest is 'lora_rank'"),
        ("lora_rank: eight", "lora_rank must be a whole number, not 'eight'"),
        ("lora_rank: 8.5", "lora_rank must be a whole number"),
        ("lora_rank: true", "lora_rank must be a whole number"),
        ("lora_rank: 0", "lora_rank must be at least 1"),
        ("learning_rate: 0", "learning_rate must be above 0"),
        ("learning_rate: .nan", "learning_rate must be above 0"),
        ("lora_dropout: 1", "lora_dropout must be at least 0 and at most 0.999"),
        ("lr_schedule: cosin", "lr_schedule must be one of constant, linear, cosine"),
        ("lora_target_modules: q_proj", "lora_target_modules must be a list of names"),
        ("lora_target_modules: []", "lora_target_modules is empty"),
        ("lora_target_modules: [1]", "lora_target_modules must be a list of names or one of auto, not [1]"),
        ("num_layers: all", "num_layers must be a whole number or null, not 'all'"),
        ("max_minutes: -1", "max_minutes must be above 0 and at most 1e+06, not -1"),
        ("data: [{path: a}, {path: b, wait: 2}]", "{path: DIR, weight: a number above 0}, not {'path': 'b', "),
        ("data: [{path: a}, {path: a}]", "data names 'a' twice"),
        ("until: 25:00", "until must be a time of day such as 06:00, not '25:00'"),
        ("- a", "a config is a mapping"),
        ("a: [", "line 2"),
    ],
)
def test_bad_configs_are_one_sentence(tmp_path, text, said):
    file = tmp_path / "bad.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UserError) as error:
        load_config(file)
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("moment", ["23:00", "6:30", "00:05", "06:00"])
def test_a_time_of_day_is_no_number(tmp_path, moment):
    """YAML 1.1 reads 23:00 as 1380, in base 60."""
    file = tmp_path / "c.yaml"
    file.write_text(f"until: {moment}\n")
    hour, minute = map(int, moment.split(":"))
    assert [int(part) for part in load_config(file).until.split(":")] == [hour, minute]


def test_the_default_modules_stay_recognisable():
    """A base without q, k, v and o gets others only where the config named none."""
    assert isinstance(load_config(None, ["seed=1"]).lora_target_modules, DefaultModules)
    named = load_config(None, ["lora_target_modules=[q_proj, k_proj, v_proj, o_proj]"]).lora_target_modules
    assert not isinstance(named, DefaultModules)


def test_the_config_is_imported_without_pydantic():
    code = "import sys, mlx_lora, mlx_lora.config; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_bad_places_and_overrides(tmp_path):
    with pytest.raises(UserError, match=r"preset: .*quickstart"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="key=value"):
        load_config(None, ["lora_rank"])
    with pytest.raises(UserError, match="nearest is 'batch_size'"):
        load_config(None, ["batchsize=3"])
    (tmp_path / "bad.json").write_text('{"lora_rank": 8,\n}')
    with pytest.raises(UserError, match=r"bad.json, line [12]"):
        load_config(tmp_path / "bad.json")
