"""PEFT and back: bit for bit, and what PEFT itself computes with the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from quantized_fixtures import quantized
from run_fixtures import SEVEN, make_run, mlx_logits, sharpen

from mlx_lora.errors import UserError
from mlx_lora.export.adapter import alpha_of, read_adapter
from mlx_lora.export.peft import comparison
from mlx_lora.export.peft import export as writing
from mlx_lora.export.peft.adapter_import import import_peft
from mlx_lora.export.peft.export import export_peft

TOKENS = [5, 17, 300, 42, 7, 811, 64, 12, 99, 250]
TOLERANCE = 2e-4
KINDS = {
    "lora": {},
    "seven": {"lora_target_modules": SEVEN, "lora_rank": 3},
    "rslora": {"use_rslora": True},
    "last": {"num_layers": 1},
    "dora": {"fine_tune_type": "dora", "lora_target_modules": SEVEN},
}


@pytest.fixture(autouse=True)
def without_peft(monkeypatch):
    """Exports here do not run PEFT, which takes seconds: the tests that need it ask it themselves, all at once."""
    monkeypatch.setattr(comparison, "has_peft", lambda: False)


@pytest.fixture(scope="module")
def llama(make_model):
    return sharpen(make_model("llama", num_hidden_layers=4))


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_nothing_changes(llama, tmp_path, kind):
    run = make_run(llama, tmp_path / "run", **KINDS[kind])
    report = export_peft(run, tmp_path / "peft")
    assert report.verdict == "verified"
    assert "parameters" in [check.name for check in report.checks]
    assert sorted(p.name for p in (tmp_path / "peft").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert import_peft(tmp_path / "peft", tmp_path / "again").verdict == "verified"
    first, second = (mx.load(str(tmp_path / name / "adapters.safetensors")) for name in ("run", "again"))
    assert first.keys() == second.keys()
    assert all(bool(mx.array_equal(first[name], second[name])) for name in first)
    ours, theirs = (json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("run", "again"))
    assert ours == {**theirs, "model": ours["model"]}
    np.testing.assert_array_equal(mlx_logits(run, TOKENS), mlx_logits(tmp_path / "again", TOKENS))


def left_out(job: dict, run: Path, what: str) -> dict:
    """The same job with an adapter in which one thing was forgotten."""
    folder = job["out"].parent / what
    export_peft(run, folder)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if what == "alpha":
        content = json.loads(config.read_text())
        config.write_text(json.dumps({**content, "lora_alpha": content["r"]}))
    else:
        turned = {name: value.reshape(value.shape[1], -1).T for name, value in mx.load(str(weights)).items()}
        mx.save_safetensors(str(weights), {name: mx.contiguous(value) for name, value in turned.items()})
    return {**job, "adapter": folder, "out": folder / "logits.npy"}


@pytest.mark.slow
def test_peft_computes_what_mlx_computes(make_model, llama, peft, tmp_path):
    bases = {"llama": llama, **{kind: sharpen(make_model(kind)) for kind in ("qwen2", "qwen3")}}
    cases = [("llama", kind) for kind in KINDS] + [("qwen2", "seven"), ("qwen3", "seven")]
    jobs, runs = [], []
    for base, kind in cases:
        folder = tmp_path / f"{base}-{kind}"
        runs.append(make_run(bases[base], folder / "run", **KINDS[kind]))
        export_peft(runs[-1], folder / "peft")
        job = {"base": bases[base], "adapter": folder / "peft", "tokens": TOKENS, "out": folder / "logits.npy"}
        jobs.append({"action": "logits", **job})
    wrong = [left_out(jobs[0], runs[0], what) for what in ("alpha", "the transposition")]
    peft(jobs + wrong)
    for job in wrong:
        assert np.abs(np.load(job["out"]) - mlx_logits(runs[0], TOKENS)).max() > 0.1
    for (base, kind), run, job in zip(cases, runs, jobs, strict=True):
        difference = np.abs(np.load(job["out"]) - mlx_logits(run, TOKENS)).max()
        print(f"{base} {kind}: {difference:.1e}")
        assert difference < TOLERANCE, (base, kind)


# Which modules PEFT is told to adapt, in each of its ways.
THEIRS = {
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    "some layers": {"r": 2, "lora_alpha": 3, "target_modules": ["k_proj", "up_proj"], "layers_to_transform": [0, 2]},
    "a pattern": {"r": 3, "lora_alpha": 5, "target_modules": r".*layers\.(1|3)\.(mlp\.down_proj|self_attn\.o_proj)"},
    "paths": {"r": 2, "lora_alpha": 4, "target_modules": ["layers.2.self_attn.q_proj", "layers.3.mlp.gate_proj"]},
    "all": {"r": 2, "lora_alpha": 7, "target_modules": "all-linear"},
    "dora": {"r": 2, "lora_alpha": 2, "use_dora": True, "target_modules": ["q_proj", "down_proj"]},
}


@pytest.mark.slow
def test_adapters_that_peft_made(llama, peft, tmp_path):
    made, jobs = {}, []
    for name, config in THEIRS.items():
        made[name] = tmp_path / name / "peft"
        out = tmp_path / name / "logits.npy"
        jobs.append({"action": "make", "base": llama, "config": config, "out": made[name]})
        jobs.append({"action": "logits", "base": llama, "adapter": made[name], "tokens": TOKENS, "out": out})
    peft(jobs)
    back = []
    for name, directory in made.items():
        run = tmp_path / name / "run"
        report = import_peft(directory, run)
        assert report.verdict == "verified"
        filled = any("PEFT left as they were are zeros here" in note for note in report.notes)
        assert filled == (name in ("some layers", "a pattern", "paths"))
        expected = np.load(tmp_path / name / "logits.npy")
        assert np.abs(mlx_logits(run, TOKENS) - expected).max() < TOLERANCE, name
        # And back: the modules that PEFT did not adapt are not adapted there again.
        assert export_peft(run, tmp_path / name / "back").verdict == "verified"
        out = tmp_path / name / "back.npy"
        job = {"base": llama, "adapter": tmp_path / name / "back", "tokens": TOKENS, "out": out}
        back.append({"action": "logits", **job})
        theirs, ours = (mx.load(str(d / "adapter_model.safetensors")) for d in (directory, tmp_path / name / "back"))
        assert theirs.keys() == ours.keys()
        assert all(bool(mx.array_equal(theirs[key], ours[key])) for key in theirs)
    peft(back)
    for name in made:
        np.testing.assert_array_equal(np.load(tmp_path / name / "back.npy"), np.load(tmp_path / name / "logits.npy"))


def test_an_export_that_went_wrong_is_put_aside(llama, tmp_path, monkeypatch):
    run = make_run(llama, tmp_path / "run")
    right = writing.peft_tensors
    monkeypatch.setattr(writing, "peft_tensors", lambda adapter: {k: v * 1.001 for k, v in right(adapter).items()})
    report = export_peft(run, tmp_path / "peft")
    assert report.verdict == "rejected"
    assert [check.name for check in report.checks if not check.passed] == ["values that differ"]
    assert report.file.endswith("peft.rejected")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["peft.rejected", "run"]


@pytest.mark.parametrize("scale", [2.0, 1 / 3, 20.0, 32 / 8**0.5, 0.1])
@pytest.mark.parametrize("rank", [1, 3, 8, 12, 64, 100])
def test_alpha_gives_the_scale_back(scale, rank):
    assert alpha_of(scale, rank) / rank == pytest.approx(scale, rel=2e-16, abs=0)


@pytest.mark.slow
def test_the_commands(command, refused, llama, tmp_path):
    run = make_run(llama, tmp_path / "run", system_prompt="Be brief.")
    done = command("export", "peft", "--run", run, "--out", tmp_path / "peft", "--json")
    assert json.loads(done.stdout)["verdict"] == "verified", done.stderr
    done = command("import", "peft", tmp_path / "peft", "--out", tmp_path / "again")
    assert "again: verified" in done.stdout.replace("\n", "")
    # A run like another for everything but going on with its training.
    asked = ("--prompt", "Hello", "--max-tokens", 5, "--json")
    answers = [
        json.loads(command("generate", "--target", path, "--system", "", *asked).stdout)["answer"]
        for path in (run, tmp_path / "again")
    ]
    assert answers[0] == answers[1]
    assert "this exists already" in refused("export", "peft", "--run", run, "--out", tmp_path / "peft")
    assert "this exists already" in refused("import", "peft", tmp_path / "peft", "--out", run)


@pytest.mark.slow
def test_training_does_not_go_on_from_an_imported_adapter(command, refused, eisv_data, llama, tmp_path):
    export_peft(make_run(llama, tmp_path / "run"), tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "again")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "again").iterdir())
    settings = ("--set", f"model_name={llama}", "--set", "max_steps=1")
    said = refused("train", "--data", eisv_data, "--out", tmp_path / "again", "--extend", *settings)
    assert "a run is there already, and it is another" in said
    assert [entry for entry in before if entry[0] != ".lock"] == sorted(
        (p.name, p.stat().st_mtime_ns) for p in (tmp_path / "again").iterdir() if p.name != ".lock"
    )


def test_runs_that_peft_cannot_hold(llama, make_model, tmp_path):
    full = make_run(llama, tmp_path / "full", fine_tune_type="full", num_layers=1)
    with pytest.raises(UserError, match="trained whole layers, which PEFT cannot hold"):
        export_peft(full, tmp_path / "out")
    experts = make_model("qwen3_moe")
    moe = make_run(experts, tmp_path / "moe", lora_target_modules=["down_proj"])
    with pytest.raises(UserError, match="is a layer of experts"):
        export_peft(moe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_are_broken(llama, make_model, tmp_path):
    good = make_run(llama, tmp_path / "good")

    def said(change) -> str:
        run = tmp_path / "bad"
        shutil.copytree(good, run)
        change(run)
        with pytest.raises(UserError) as caught:
            export_peft(run, tmp_path / "out")
        shutil.rmtree(run)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    def weights(run: Path, change) -> None:
        file = run / "adapters.safetensors"
        mx.save_safetensors(str(file), change(dict(mx.load(str(file)))))

    def cut(run: Path) -> None:
        file = run / "adapters.safetensors"
        file.write_bytes(file.read_bytes()[:-100])

    def other_base(run: Path) -> None:
        wide = make_model("llama", hidden_size=128, num_hidden_layers=4)
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**record, "model": str(wide)}))

    def unknown_base(run: Path) -> None:
        other_base(run)
        for name in ("run.json", "adapter_config.json"):
            content = json.loads((run / name).read_text())
            (run / name).write_text(json.dumps({k: v for k, v in content.items() if k != "base_fingerprint"}))

    first = "model.layers.0.self_attn.q_proj"
    assert "truncated or broken" in said(cut)
    assert "was trained on other weights" in said(other_base)
    assert "or not one of" in said(unknown_base)
    assert "has no adapters.safetensors" in said(lambda run: (run / "adapters.safetensors").unlink())
    assert "a number that is not finite" in said(
        lambda run: weights(run, lambda w: {**w, f"{first}.lora_a": w[f"{first}.lora_a"] * float("nan")})
    )
    assert "only one of its two matrices" in said(
        lambda run: weights(run, lambda w: {k: v for k, v in w.items() if k != f"{first}.lora_b"})
    )
    assert "has no lm_head" in said(
        lambda run: weights(
            run, lambda w: {**w, "lm_head.lora_a": mx.zeros((64, 4)), "lm_head.lora_b": mx.zeros((4, 9))}
        )
    )
    with pytest.raises(UserError, match="no such run directory"):
        export_peft(tmp_path / "absent", tmp_path / "out")


FOREIGN = {
    "only LORA can be imported": {"peft_type": "LOHA"},
    "rank_pattern is": {"rank_pattern": {"q_proj": 8}},
    "modules_to_save is": {"modules_to_save": ["lm_head"]},
    "holds no biases": {"bias": "all"},
    "missing or not a number": {"r": "many"},
    "use_dora does not agree": {"use_dora": True},
    "--base MODEL names another": {"base_model_name_or_path": "/nowhere/at/all"},
    "it names no base model": {"base_model_name_or_path": None},
    "it is in mlx-lm's format already": {"peft_type": ..., "lora_parameters": {}},
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_foreign_adapters(llama, tmp_path, sentence):
    export_peft(make_run(llama, tmp_path / "run"), tmp_path / "peft")
    config = tmp_path / "peft" / "adapter_config.json"
    changed = {**json.loads(config.read_text()), **FOREIGN[sentence]}
    config.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))
    with pytest.raises(UserError, match=sentence):
        import_peft(tmp_path / "peft", tmp_path / "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["peft", "run"]


def test_broken_peft_directories(llama, make_model, tmp_path):
    export_peft(make_run(llama, tmp_path / "run"), tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    content, weights = file.read_bytes(), dict(mx.load(str(file)))

    def said(base: Path | None = None) -> str:
        with pytest.raises(UserError) as caught:
            import_peft(tmp_path / "peft", tmp_path / "again", base and str(base))
        assert not (tmp_path / "again").exists()
        return str(caught.value)

    assert "this adapter is broken, or not one of" in said(make_model("llama", hidden_size=128, num_hidden_layers=4))
    assert "belongs to another base" in said(make_model("llama", num_hidden_layers=1))
    mx.save_safetensors(
        str(file), {**weights, "base_model.model.model.embed_tokens.lora_embedding_A": mx.zeros((4, 9))}
    )
    assert "is not a matrix of a LoRA on a linear layer" in said()
    mx.save_safetensors(
        str(file), {k: v for k, v in weights.items() if not k.endswith("0.self_attn.q_proj.lora_A.weight")}
    )
    assert "only one of its two matrices" in said()
    file.write_bytes(content[: len(content) // 2])
    assert "truncated or broken" in said()
    file.rename(file.with_suffix(".bin"))
    assert "pickled" in said()
    (tmp_path / "peft" / "adapter_config.json").write_text("{")
    assert "not readable JSON" in said()
    shutil.rmtree(tmp_path / "peft")
    assert "there is no PEFT adapter here" in said()


def test_a_quantized_base_and_low_precision(llama, tmp_path):
    run = make_run(quantized(llama, tmp_path / "small"), tmp_path / "run")
    file = run / "adapters.safetensors"
    mx.save_safetensors(str(file), {name: value.astype(mx.bfloat16) for name, value in mx.load(str(file)).items()})
    report = export_peft(run, tmp_path / "peft")
    assert report.verdict == "verified"
    assert "quantized for MLX" in report.notes[0]
    stored = mx.load(str(tmp_path / "peft" / "adapter_model.safetensors"))
    assert {value.dtype for value in stored.values()} == {mx.bfloat16}
    assert read_adapter(run, "x").pairs["model.layers.0.self_attn.q_proj"].a.shape == (64, 4)
