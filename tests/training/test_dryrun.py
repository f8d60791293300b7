import json


def test_a_dry_run_writes_nothing_and_says_what_would_be(command, make_model, eisv_data, tmp_path):
    arguments = ("train", "--config", "quickstart", "--data", eisv_data, "--out", tmp_path / "run", "--dry-run")
    model = ("--set", f"model_name={make_model('llama')}")
    report = json.loads(command(*arguments, *model, "--json").stdout)
    assert list(tmp_path.iterdir()) == []
    assert report["total_steps"] == report["steps_per_epoch"] * 10
    assert report["supervised_tokens"] < report["tokens"]
    assert report["estimated_seconds"] > 0
    assert 0 < report["estimated_peak_memory_gb"] < report["machine_memory_gb"]
    supervised = report["example"].split("⟦")[1]
    assert supervised.startswith("EISV_TOKENS: ")
    assert supervised.endswith("<|eot_id|>⟧")
    shown = command(*arguments, *model).stdout
    assert "nothing was written" in shown
    assert "⟦EISV_TOKENS:" in shown
