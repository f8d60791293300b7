"""The ``mlx-lora`` command: its sub-commands by name."""

from __future__ import annotations

import sys

import click

from .. import __version__
from .exit_status import exit_with_status
from .lazy_group import LazyGroup
from .streams import tolerate_closed_pipes

# name -> (module, attribute, line of help)
COMMANDS = {
    "quickstart": ("mlx_lora.cli.quickstart", "quickstart", "See it work: data, training, gate, in a few minutes."),
    "data": ("mlx_lora.cli.data", "data", "Make a dataset from a source."),
    "experience": ("mlx_lora.cli.experience", "experience", "Collect what an agent should remember."),
    "train": ("mlx_lora.cli.train", "train", "Train a LoRA adapter on a dataset."),
    "eval": ("mlx_lora.cli.evaluate", "evaluate", "Measure a model, an adapter, a GGUF file or a server on suites."),
    "gate": ("mlx_lora.cli.gate", "gate", "Judge the results of eval: exit status 0 passed, 1 failed."),
    "compare": ("mlx_lora.cli.compare", "compare", "Judge a candidate against a reference on the same cases."),
    "baseline": ("mlx_lora.cli.gate", "baseline", "What the same cases score without a model."),
    "index": ("mlx_lora.cli.index", "index", "Keep documents that a model can look up, and search them."),
    "ask": ("mlx_lora.cli.ask", "ask", "Answer a question from an index, with sources."),
    "smoke": ("mlx_lora.cli.smoke", "smoke", "Test a deployed model: knowledge, history, a tool call, speed."),
    "sleep": ("mlx_lora.cli.sleep", "sleep", "Learn every night, judged, and undone if need be."),
    "bench": ("mlx_lora.cli.bench", "bench", "Time our trainer against mlx-lm's own, or TRL's."),
    "fuse": ("mlx_lora.cli.fuse", "fuse", "Merge an adapter into its base: a model of its own."),
    "export": ("mlx_lora.cli.export", "export", "An adapter for other programs: llama.cpp and more."),
    "import": ("mlx_lora.cli.import_", "imports", "Make a run of another program's adapter."),
    "serve": ("mlx_lora.cli.serve", "serve", "Training jobs, chat and a live page over HTTP."),
    "ui": ("mlx_lora.cli.ui", "ui", "Watch runs, jobs and nights on a page; promote, roll back, compare."),
    "generate": ("mlx_lora.cli.generate", "generate", "Ask a model or an adapter by hand."),
    "doctor": ("mlx_lora.cli.doctor", "doctor", "What this machine has, and what to do about what it lacks."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlx-lora")
def cli() -> None:
    """Teach a small language model from your own data, and judge it before you use it.

    \b
    A first run, with nothing to download:
      mlx-lora quickstart
    \b
    The same road in steps:
      mlx-lora data eisv --out data/eisv
      mlx-lora train --config quickstart --data data/eisv --out adapters/lumen
      mlx-lora eval --suite eisv_gate1 --target adapters/lumen --cases data/eisv/test.jsonl --out results.json
      mlx-lora gate results.json

    Exit status: 0 done, 1 a gate failed, 2 something is wrong with the input (said in one sentence).
    """


def main() -> None:
    """Run the command, and end the process with its exit status."""
    tolerate_closed_pipes()
    with exit_with_status():
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
