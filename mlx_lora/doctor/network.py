"""Network findings: the Ollama server, and the Hugging Face Hub's token and cache."""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from .finding import MISSING, NOTE, OK, Finding, kind_and_line
from .machine import disk

GET_OLLAMA = "get it at https://ollama.com/download, then `ollama serve`"
FOR_OLLAMA = "only `export ollama` needs it: "
# A limit on the whole answer, not on each packet: a server that is too slow is useless too.
OLLAMA_SECONDS = 2.0


def ollama() -> Finding:
    """Report whether an Ollama server answers at the expected address, and its version."""
    from ..engines.ollama import Ollama, server_url

    if importlib.util.find_spec("ollama") is None:
        advice = f"{FOR_OLLAMA}`pip install 'mlx-lora[ollama]'`; Ollama itself is at https://ollama.com/download"
        return Finding("Ollama", MISSING, "the package ollama, which speaks with it, is not installed", advice)
    program = shutil.which("ollama")
    advice = "start it: `ollama serve`" if program else GET_OLLAMA
    advice = FOR_OLLAMA + advice + (", or correct OLLAMA_HOST" if os.environ.get("OLLAMA_HOST") else "")
    try:
        url = server_url()
        version = within(OLLAMA_SECONDS, lambda: Ollama().version())
    except TimeoutError:
        return Finding("Ollama", MISSING, f"{url}: no answer in {OLLAMA_SECONDS:g} seconds", advice)
    except UserError as error:
        # The advice after the semicolon is for the commands that have --host.
        return Finding("Ollama", MISSING, str(error).partition("; ")[0], advice)
    except Exception as error:
        return Finding("Ollama", MISSING, f"asking it failed: {kind_and_line(error)}", advice)
    return Finding("Ollama", OK, f"{version} at {url}")


def within(seconds: float, ask: Callable[[], str]) -> str:
    """Return the result of ``ask``, or raise its error, within a time limit.

    Raises:
        TimeoutError: it takes longer; its thread is abandoned, and does not keep the process alive.
    """
    answers: list[str] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


def hub_token() -> Finding:
    """Report whether there is a token for the hub; the token itself is never printed."""
    from huggingface_hub import constants, get_token

    there = get_token() is not None
    found = "there, not checked with the hub" if there else "none"
    if constants.HF_HUB_OFFLINE:
        advice = "unset HF_HUB_OFFLINE to download models"
        return Finding("hub token", NOTE, f"{found}; HF_HUB_OFFLINE is set, so nothing is downloaded", advice)
    if there:
        return Finding("hub token", OK, found)
    return Finding("hub token", MISSING, found, "only gated and private models need it: `hf auth login`")


def hub_cache() -> Finding:
    """Report the cache of downloaded models, and the free space there."""
    from huggingface_hub import constants

    return disk("hub cache", Path(constants.HF_HUB_CACHE).expanduser(), "set HF_HOME to a directory elsewhere")
