"""The ``mlx-lora`` command: its sub-commands by name, and its exit statuses."""

from __future__ import annotations

import io
import signal
import sys
import threading
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import UserError
from .lazy_group import LazyGroup
from .output import say
from .streams import tolerate_closed_pipes

# name -> (module, attribute, line of help)
COMMANDS = {
    "quickstart": ("mlx_lora.cli.quickstart", "quickstart", "See it work: data, training, gate, in a few minutes."),
    "data": ("mlx_lora.cli.data", "data", "Make a dataset from a source."),
    "experience": ("mlx_lora.cli.experience", "experience", "Collect what an agent should remember."),
    "train": ("mlx_lora.cli.train", "train", "Train a LoRA adapter on a dataset."),
    "eval": ("mlx_lora.cli.evaluate", "evaluate", "Measure a model, an adapter, a GGUF file or a server on suites."),
    "gate": ("mlx_lora.cli.gate", "gate", "Judge the results of eval: exit status 0 passed, 1 failed."),
    "baseline": ("mlx_lora.cli.gate", "baseline", "What the same cases score without a model."),
    "bench": ("mlx_lora.cli.bench", "bench", "Time our trainer against mlx-lm's own, or TRL's."),
    "fuse": ("mlx_lora.cli.fuse", "fuse", "Merge an adapter into its base: a model of its own."),
    "export": ("mlx_lora.cli.export", "export", "An adapter for other programs: llama.cpp and more."),
    "import": ("mlx_lora.cli.import_", "imports", "Make a run of another program's adapter."),
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


# Signals that ended the command; click does not report which interrupt it was.
_received: list[int] = []


def _terminate(number: int, frame: Any) -> NoReturn:
    """Raise KeyboardInterrupt as Ctrl-C does, so that no half-written file is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _received.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; a :class:`UserError` is one sentence and status 2, Ctrl-C status 130, SIGTERM status 143."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    tolerate_closed_pipes()
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip("\n"), err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        how, number = ("terminated", _received[0]) if _received else ("interrupted", signal.SIGINT)
        _complain(f"{how}; what was complete is kept, nothing is half-written")
        sys.exit(128 + number)
    except OSError as error:
        # Errors of the file system where a path is only inspected: permissions, names that are too long.
        place = error.filename or "the file system"
        _complain(f"{place}: {error.strerror or error}; check the path and its permissions")
        sys.exit(2)
    except MemoryError:
        _complain("there is not enough memory for this; close other programs, or use less data or a smaller model")
        sys.exit(2)


def _complain(sentence: str) -> None:
    """Print one line on standard error, with any names and data in it made printable."""
    say("mlx-lora: " + sentence.replace("\n", "\\n"), err=True)
