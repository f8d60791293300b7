"""Config of the night: what is wrong is one sentence with the nearest key."""

from __future__ import annotations

import pytest
import yaml

from mlx_lora.config import load_config
from mlx_lora.errors import UserError
from mlx_lora.sleep.config import load_sleep_config, sleep_config

GOOD = {"name": "adapters/agent", "stores": [{"salience": "a.json", "min_salience": 0.7}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_nwe": 1}, "there is no key 'min_nwe'; the nearest is 'min_new'"),
        ({"min_new": 0}, "min_new: input should be greater than or equal to 1, not 0"),
        ({"replay": {"shar": 1}}, "replay: there is no key 'shar'; the nearest is 'share'"),
        ({"replay": {"share": 1}}, "replay.share: input should be less than 1, not 1"),
        ({"replay": {"from": "own"}}, "replay.source: input should be 'own_checked' or 'gold', not 'own'"),
        ({"train": {"lora_rank": 0}}, "train: lora_rank must be at least 1 and at most 4096, not 0"),
        ({"train": {"data": "x"}}, "train: data is decided by the cycle; leave it out here"),
        ({"until": "25:00"}, "until must be a time of day such as 06:00, not '25:00'"),
        ({"stores": []}, "stores is a list of at least one store"),
        ({"stores": [{"name": "x"}]}, "store 1 must name one of salience, traces, eisv, claims, instructions, data"),
        ({"stores": [{"salience": 3}]}, "store 1: salience must be a path or a list of paths"),
        ({"stores": [{"salience": "a", "name": "x"}, {"data": "b", "name": "x"}]}, "store 2: the name 'x' must be"),
        ({"name": ""}, "name: "),
        ({"index": {"path": "i", "fact": "likely"}}, "index: there is no key 'fact'; the nearest is 'facts'"),
        ({"index": {"path": "i", "facts": "all"}}, "index.facts: input should be 'marked' or 'likely', not 'all'"),
        ({"index": {"path": ""}}, "index.path: "),
        ({"index": {}}, "index.path: "),
        ({"index": {"path": "i", "collection": "diary"}}, "index: 'diary' is not a collection; nearest is "),
        ({"merge": [2]}, "merge.0: input should be less than 1, not 2"),
        ({"name": "\ud800"}, "it holds an unpaired surrogate, which is not text"),
    ],
)
def test_what_is_wrong_is_a_sentence(changes, said):
    with pytest.raises(UserError) as error:
        sleep_config({**GOOD, **changes}, "night.yaml")
    assert str(error.value).startswith(f"night.yaml: {said}")


def test_a_night_without_a_name():
    with pytest.raises(UserError, match=r"this is not a config of the night: it has no name; see configs/sleep\.yaml"):
        sleep_config({"stores": [{"data": "x"}]}, "night.yaml")


def test_stores_are_named_by_their_kind():
    stores = [{"salience": "a"}, {"salience": ["b", "c"]}, {"data": "d", "check": "eisv_gate1", "name": "days"}]
    config = sleep_config({**GOOD, "stores": stores}, "x")
    assert [store.name for store in config.stores] == ["salience", "salience-2", "days"]
    assert [store.paths for store in config.stores] == [["a"], ["b", "c"], ["d"]]
    assert config.stores[2].check == "eisv_gate1"


def test_a_time_in_base_60(tmp_path):
    file = tmp_path / "night.yaml"
    file.write_text(yaml.safe_dump(GOOD) + "until: 23:00\n")
    assert load_sleep_config(file).training().until == "23:00"


def test_the_nights_training_keys_are_a_preset_of_train():
    assert load_config("sleep").lora_target_modules == "auto"
    assert load_config("sleep").learning_rate == 2e-4
    published = load_config("sleep-published")
    assert (published.lora_rank, published.learning_rate) == (4, 1e-5)
