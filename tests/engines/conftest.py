"""The built-in base as a GGUF file, and llama.cpp's own server with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlx_lora.processes import python_environment

TINY = "builtin/tiny-lumen"


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory):
    """The built-in base, exported in float32."""
    pytest.importorskip("gguf", reason="the package gguf is not installed: pip install '.[gguf]'")
    from mlx_lora.engines.llamacpp.run import bindings
    from mlx_lora.export.gguf.export import export_gguf

    if not bindings():
        pytest.skip("no llama.cpp is installed: pip install '.[gguf]'")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    assert export_gguf(TINY, file, "f32").verdict == "verified"
    return file


@pytest.fixture(scope="session")
def llama_server(gguf_file):
    """llama.cpp's server in a process of its own; its address."""
    pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed: pip install '.[test]'")
    command = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(gguf_file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=python_environment(), cwd=gguf_file.parent, **pipes) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.terminate()
