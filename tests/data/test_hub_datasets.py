"""Datasets of the datasets library: ``hf:`` names, directories in its layouts, and what it says when it cannot load."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mlx_lora.data.dataset import dataset_hashes, read_split, read_trainable, split_files
from mlx_lora.data.formats import read_rows, stem_of
from mlx_lora.data.hub import HubSpec, parse_hub
from mlx_lora.data.mixture import record_of
from mlx_lora.errors import UserError

ROWS = [{"prompt": f"Name light {i}.", "completion": f"It is number {i}, as before.", "note": None} for i in range(6)]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("hf:squad", HubSpec("squad")),
        ("hf:tatsu-lab/alpaca", HubSpec("tatsu-lab/alpaca")),
        ("hf:allenai/c4/en", HubSpec("allenai/c4", "en")),
        ("hf:allenai/c4/en:train[:10]", HubSpec("allenai/c4", "en", "train[:10]")),
        ("hf:a/b:test", HubSpec("a/b", None, "test")),
        ("hf:./here/there:valid", HubSpec("./here/there", None, "valid")),
    ],
)
def test_the_grammar_of_names(text, spec):
    assert parse_hub(Path(text)) == parse_hub(text) == spec
    assert (stem_of("hf:allenai/c4/en:train"), stem_of("hf:/d/tool_neg")) == ("c4", "tool_neg")


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/c/d", "hf:a b", "hf::train", "hf:https://huggingface.co/a/b"])
def test_other_names_are_refused(text):
    with pytest.raises(UserError, match="write hf:OWNER/NAME"):
        split_files(text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories saved by the datasets library: both splits, one, and data files as the Hub has them."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("saved")
    splits = {"train": datasets.Dataset.from_list(ROWS[:4]), "validation": datasets.Dataset.from_list(ROWS[4:])}
    datasets.DatasetDict(splits).save_to_disk(str(root / "both"))
    splits["train"].save_to_disk(str(root / "one"))
    (root / "files").mkdir()
    splits["train"].to_parquet(root / "files" / "train-00000-of-00001.parquet")
    splits["validation"].to_parquet(root / "files" / "validation-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize("name", ["both", "files"])
def test_a_directory_with_splits(saved, name):
    spec = f"hf:{saved}/{name}"
    assert [split for split, _ in split_files(spec)] == ["train", "valid"]
    train, valid = read_trainable(spec), read_split(spec, "valid")
    assert [e.messages[0]["content"] for e in train] == [row["prompt"] for row in ROWS[:4]]
    assert [e.messages[1]["content"] for e in valid] == [row["completion"] for row in ROWS[4:]]
    assert train[0].meta == {}
    assert [row.where for row in read_rows(f"{spec}:validation")] == [f"{spec}:validation, row {i}" for i in (1, 2)]
    with pytest.raises(UserError, match=r"the splits train, validation; name one"):
        list(read_rows(spec))
    hashes = dataset_hashes(spec)
    assert set(hashes) == {"train", "valid"}
    assert hashes == dataset_hashes(f"hf:{saved}/both")  # of the rows, wherever they lie
    assert record_of([Path(spec)], None) == spec


def test_one_split_is_the_training_data(saved):
    assert len(read_trainable(f"hf:{saved}/one")) == 4
    assert len(read_split(f"hf:{saved}/files:train[:3]", "train")) == 3
    with pytest.raises(UserError, match="held out by its name"):
        read_trainable(f"hf:{saved}/files:validation")


@pytest.mark.slow
def test_the_commands_take_it(command, refused, saved, tmp_path):
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    spec = f"hf:{saved}/both"
    done = command("data", "check", spec, "--json", "--fix", tmp_path / "clean", env=offline)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 6
    shown = json.loads(command("data", "show", spec, 2, "--json", env=offline).stdout)
    assert (shown["file"], shown["line"], shown["split"]) == (f"{spec}:train", 2, "train")
    arguments = ["train", "--config", "quickstart", "--data", spec, "--out", tmp_path / "run", "--dry-run"]
    done = command(*arguments, env=offline)
    assert done.returncode == 0, done.stderr
    said = refused("data", "check", "hf:nobody/nothing", env=offline)
    assert said.startswith("mlx-lora: hf:nobody/nothing: this dataset cannot be loaded (")


@pytest.mark.parametrize("name", ["none", "both:nothing", "files:nothing", "broken"])
def test_what_cannot_be_loaded_is_one_sentence(saved, name):
    (saved / "broken").mkdir(exist_ok=True)
    (saved / "broken" / "dataset_dict.json").write_text("{")
    with pytest.raises(UserError) as error:
        list(read_rows(f"hf:{saved}/{name}"))
    assert str(error.value).startswith(f"hf:{saved}/{name.removesuffix(':nothing')}")
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"needs the datasets library; install it with pip install 'mlx-lora\[hub-data\]'"
    ):
        read_trainable("hf:a/b")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        UserError, match=r"reading Parquet needs pyarrow; install it with pip install 'mlx-lora\[hub-data\]'"
    ):
        read_trainable(tmp_path)
