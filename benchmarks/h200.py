"""Our trainer beside TRL's at real sizes on one CUDA device, in one call of at most eight minutes.

    python benchmarks/h200.py [--minutes 8] [--out benchmarks/h200] [--batch-size 16] [--rounds 3] [--tiny]

Random bfloat16 weights of Llama-3.2-1B's and Qwen2.5-7B's shapes, TRL without and with packing. Each side is one
process that does all comparisons in turns, since starting one takes as long as timing many steps. Results are written
after each comparison; when all are there once, further rounds follow while there is time. What the extra ``bench``
brings is needed; MLX is not, nor that the package is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from mlx_lora.bench.cases import Case, Spec  # noqa: E402
from mlx_lora.bench.compare import Rounds, table, title, write_results  # noqa: E402
from mlx_lora.bench.report import Report  # noqa: E402
from mlx_lora.bench.worker import RIVALS, Worker  # noqa: E402
from mlx_lora.errors import UserError  # noqa: E402

SHAPES = ("llama-3.2-1b", "qwen2.5-7b")
# What matters most comes first.
DATA = (("eisv", (False, True)), ("salience", (False, True)), ("worst", (False,)))
STEPS, WARM_UP = 12, 4
# Seconds that no comparison should exceed: none is begun with less time left.
LONGEST = 75


def cases(batch_size: int, tiny: bool) -> list[Case]:
    """All comparisons; a packed one follows the one whose figures of ours it shares."""
    # Nearly nothing in bfloat16 takes minutes on a CPU.
    layers, hidden, dtype = (2, 64, None) if tiny else (None, None, "bfloat16")
    return [
        Case(data, shape, batch_size, layers, hidden, backend="torch", packing=packing, dtype=dtype)
        for data, packings in DATA
        for shape in SHAPES
        for packing in packings
    ]


class Workers:
    """A process for each side, started when it is first asked, and again if it has died."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.workers: dict[str, Worker] = {}

    def ask(self, backend: str, spec: Spec) -> Report:
        worker = self.workers.get(spec.side)
        if worker is None or worker.process.poll() is not None:
            worker = self.workers[spec.side] = self.stack.enter_context(Worker(backend))
        try:
            return worker.ask(spec)
        except UserError:
            print(*worker.log()[-8:], sep="\n", flush=True)
            raise


def measure(wanted: list[Case], rounds: Rounds, out: Path, until: float, most: int = 3) -> list[dict]:
    """Results of the cases after as many rounds as there is time for; a case that fails is left out of further ones.

    Args:
        until: a moment of ``time.monotonic()``.
        most: rounds that are enough.
    """
    results: dict[Case, dict] = {}
    for number in range(most):
        for case in list(wanted):
            started = time.monotonic()
            if started > until - LONGEST:
                return list(results.values())
            try:
                rounds.run(case, number)
            except UserError as error:
                print(error, flush=True)
                wanted.remove(case)
                continue
            results[case] = rounds.result(case)
            write_results(out, list(results.values()), " ".join(["python", *sys.argv]))
            packed = ", packed" if case.packing else ""
            seconds = time.monotonic() - started
            print(f"round {number + 1}: {case.data}, {case.shape}{packed} in {seconds:.0f} s", flush=True)
    return list(results.values())


def main() -> int:
    """The exit status: 0 if every comparison has a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "h200")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the same with models of nearly nothing, to try the script")
    options = parser.parse_args()
    RIVALS["torch"].check()
    # The workers import the package from here too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    until = time.monotonic() + 60 * options.minutes
    wanted = cases(options.batch_size, options.tiny)
    count = len(wanted)
    with ExitStack() as stack:
        rounds = Rounds(STEPS, 0, WARM_UP, Workers(stack).ask)
        results = measure(wanted, rounds, options.out, until, options.rounds)
    if results:
        columns, rows = table(results, speeds=True)
        print(title("torch"), " | ".join(columns), *(" | ".join(row) for row in rows), sep="\n")
    return 0 if len(results) == count else 1


if __name__ == "__main__":
    sys.exit(main())
