"""Keys of ``--json`` that other people's scripts read: a key may be added, never taken away or renamed.

    PYTHONPATH=.:tests python tests/compat/test_json_keys.py

adds to json_keys.json those of commands and keys that are new.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest
from fuzz.commands import leaves, words_of
from fuzz.inputs import make_gguf, make_inputs
from json_keys import key_paths

from mlx_lora.cli.main import cli

FILE = Path(__file__).with_name("json_keys.json")
PINNED = json.loads(FILE.read_text()) if FILE.exists() else {}
# name -> (command, what it is run with); the inputs are the fuzzer's.
COMMANDS = {
    "data eisv": "--anima-db {anima} --out {out} --min-per-shape 8",
    "data instructions": "{rows} {alpaca} --out {out} --plan {plan}",
    "data claims": "--claims {claims} --corpus {corpus} --out {out}",
    "data check": "{rows} {sharegpt} --base {base}",
    "data show": "{data} 1 --base {base}",
    "data salience": "--buffer {buffer} --out {out}",
    "data traces": "--store {store} --out {out} --results {results_of_runs} --sources {origins}",
    "index add": "{pdca} {gguf} --index {out}",
    "index list": "--index {index}",
    "index remove": "{notes} --index {notes_index}",
    "index search": "lake --index {index} -k 1 --mode text --collection pdca_historical",
    "experience add": "--buffer {buffer} - < {exchanges}",
    "experience stats": "--buffer {buffer}",
    "experience merge": "{buffer} --into {out}",
    "train": "--config {config} --out {out}",
    "eval": "--suite eisv_gate1 --target {run} --cases {cases} --max-tokens 2 --out {out}",
    "eval check": "{prompt} --suite {suite}",
    "gate": "{results}",
    "compare": "{base} {run} --suites eisv_gate1 --cases {cases} --data {data} --max-tokens 2 --anchor {base}",
    "baseline": "--cases {cases}",
    "bench": "--data eisv-like --shape small-8k --layers 1 --hidden 32 --batch-size 1 --rounds 1 --steps 2",
    "fuse": "--run {run} --out {out}",
    "export peft": "--run {run} --out {out}",
    "export gguf": "--run {run} --out {out}.gguf --type f32",
    "export gguf-lora": "--run {run} --out {out}.gguf",
    "export ollama": "--run {run} --name probe --gguf {gguf} --out {out} --modelfile-only",
    "import peft": "{peft} --out {out}",
    "generate": "--target {run} --prompt hello --max-tokens 2",
    "ask": "Lake? --target {base} --index {index} -k 1 --max-tokens 2",
    "smoke": "{base} --index {index} --max-tokens 2",
    "sleep run": "--config {night}",
    "sleep install": "--config {night} --print",
    "sleep status": "{agent}",
    "sleep history": "{agent}",
    "sleep report": "{agent}",
    "sleep rollback": "{agent} --to 1",
    "sleep promote": "{agent} 1",
    "sleep pin": "{agent} 1",
    "doctor": "",
}
# Variants whose output has other keys.
VARIANTS = {
    "train (dry run)": ("train", "--config {config} --out {out} --dry-run"),
    "eval (several suites)": ("eval", "--suites {suite},canaries --target answers:{answers} --out {out}"),
    "eval (list)": ("eval", "--list"),
    "ask (suites)": ("ask", "--suites {suite} --cases {asked} --target {base} --index {index} -k 1"),
    "sleep run (dry run)": ("sleep run", "--config {night} --dry-run"),
}
CASES = {**{name: (name, line) for name, line in COMMANDS.items()}, **VARIANTS}
# Minutes; tests/test_quickstart.py compares its keys.
ELSEWHERE = {"quickstart", "sleep demo", "sleep uninstall"}


def keys_printed(name: str, line: str, inputs: dict[str, Path], out: Path) -> set[str]:
    """Run a command with ``--json`` and return the paths of its keys."""
    words, source = words_of(name, line, inputs, out)
    printed, kept = io.StringIO(), sys.stdin
    try:
        sys.stdin = io.TextIOWrapper(io.BytesIO(source.read_bytes() if source else b""))
        with redirect_stdout(printed):
            cli.main([*words, "--json"], standalone_mode=False)
    except SystemExit:  # gate and doctor say with it what they found
        pass
    finally:
        sys.stdin = kept
    return key_paths(json.loads(printed.getvalue()))


def new_inputs(folder: Path) -> dict[str, Path]:
    inputs = make_inputs(folder)
    return inputs | make_gguf(folder, inputs)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    pytest.importorskip("gguf", reason="needs the extra gguf")
    return new_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_key_stays(case, inputs, tmp_path):
    assert set(PINNED[case]) - keys_printed(*CASES[case], inputs, tmp_path / "out") == set()


def test_every_command_with_json_is_pinned():
    have = {name for name in leaves() if any("--json" in option.opts for option in _command(name).params)}
    assert have == set(COMMANDS) | ELSEWHERE
    assert set(PINNED) == set(CASES) | ELSEWHERE


def _command(name: str) -> click.Command:
    found: click.Command = cli
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    return found


def test_a_key_that_is_gone_is_seen():
    assert key_paths({"a": [{"b": 1}, {"c": {"d": 2}}], "e": None}) == {"a", "a[].b", "a[].c", "a[].c.d", "e"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        made = new_inputs(place / "inputs")
        for number, (case, (name, line)) in enumerate(CASES.items()):
            PINNED[case] = sorted({*PINNED.get(case, ()), *keys_printed(name, line, made, place / f"out{number}")})
    FILE.write_text(json.dumps(PINNED, indent=1) + "\n")
