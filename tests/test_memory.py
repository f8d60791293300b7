"""Peak memory: a process's own, not that of the process that started it."""

from __future__ import annotations

import sys

from mlx_lora.memory import peak_resident
from mlx_lora.processes import run_captured


def test_the_parents_memory_is_not_the_childs():
    held = bytearray(400_000_000)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    code = "from mlx_lora.memory import peak_resident; print(peak_resident())"
    done = run_captured([sys.executable, "-c", code])
    assert 2_000_000 < int(done.stdout) < 200_000_000
    assert peak_resident() > len(held)
