"""Nobody's code runs: not a module that lies in the working directory, and none that a base brings along."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.commands import COMMANDS, leaves, words_of
from fuzz.inputs import TINY, make_gguf, make_inputs

REPO = Path(__file__).parent.parent.parent
TRAP = "import os\nopen({!r}, 'a').write(__name__ + ' ' + os.path.basename(__file__) + '\\n')\n"
HEAVY = ("numpy", "torch", "safetensors", "transformers", "peft", "mlx", "mlx_lm", "gguf", "trl", "datasets", "pyarrow")
# What a console script is: the search path begins with its own directory.
SCRIPT = "import sys\nfrom mlx_lora.cli.main import main\nsys.exit(main())\n"
LONGEST = {"quickstart": 40, "sleep demo": 40}
CODE = "class Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"


@pytest.fixture(scope="module")
def sprung(tmp_path_factory) -> Path:
    """The file that a trap which ran wrote its name to."""
    return tmp_path_factory.mktemp("sprung") / "ran"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, sprung):
    """Every input; the base's config and tokenizer name Python files beside them, which are traps."""
    folder = tmp_path_factory.mktemp("inputs")
    base = folder / "base"
    base.mkdir()
    for file in TINY.iterdir():
        if file.is_file():
            (base / file.name).write_bytes(file.read_bytes())
    code = {"AutoConfig": "trap_code.Config", "AutoModelForCausalLM": "trap_code.Model"}
    _change(base / "config.json", auto_map=code)
    _change(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["trap_code.Tokenizer", "trap_code.Tokenizer"]})
    (base / "trap_code.py").write_text(TRAP.format(str(sprung)) + CODE)
    made = make_inputs(folder, base)
    return {**made, **make_gguf(folder, made)}


def _change(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture(scope="module")
def trapped(tmp_path_factory, sprung):
    """A directory with a trap for every package that is installed, and others with the standard library's names too."""
    installed = {name for name in importlib.metadata.packages_distributions() if name.isidentifier()}
    plain, whole = tmp_path_factory.mktemp("traps"), tmp_path_factory.mktemp("more_traps")
    for name in {*installed, *HEAVY} - {"mlx_lora"}:
        for directory in (plain, whole):
            (directory / f"{name}.py").write_text(TRAP.format(str(sprung)))
    for name in sys.stdlib_module_names:
        (whole / f"{name}.py").write_text(TRAP.format(str(sprung)))
    return plain, whole


def test_every_command_has_a_line():
    assert set(COMMANDS) == set(leaves())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(leaves()))
def test_no_trap_runs(inputs, trapped, sprung, tmp_path, name):
    script = tmp_path / "bin" / "mlx-lora"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    for number, (line, (plain, whole)) in enumerate((line, trapped) for line in COMMANDS[name]):
        for started, directory in (([str(script)], whole), (["-m", "mlx_lora"], plain)):
            out = tmp_path / f"{len(started)}-{number}"
            words, _ = words_of(name, line, inputs, out)
            try:
                done = subprocess.run(
                    [sys.executable, *started, *words],
                    cwd=directory,
                    env=environment,
                    input="y\n" * 20,
                    capture_output=True,
                    text=True,
                    timeout=LONGEST.get(name, 300),
                )
            except subprocess.TimeoutExpired:
                # It has imported everything by then.
                assert name in LONGEST
                assert not sprung.exists(), sprung.read_text()
                continue
            assert not sprung.exists(), (words, sprung.read_text(), done.stderr[-2000:])
            assert done.returncode in (0, 1, 2), (words, done.stderr[-2000:])
            assert "Traceback" not in done.stderr, (words, done.stderr[-2000:])


def test_a_trap_that_runs_is_seen(trapped, sprung):
    subprocess.run([sys.executable, "-c", "import gguf"], cwd=trapped[0], check=True)
    assert "gguf.py" in sprung.read_text()
    sprung.unlink()
