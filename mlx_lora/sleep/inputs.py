"""Check of what a config of the night names, before the night begins: hours later it would be in vain."""

from __future__ import annotations

from ..engines.ollama import check_name
from ..errors import UserError
from ..evaluation.runner import prepare_suites
from ..evaluation.suite import find_suites
from ..export.gguf.quantize import check_type
from ..export.mixing import REFUSED
from .checks import row_checks
from .config import SleepConfig
from .indexing import check_index


def check_inputs(config: SleepConfig) -> None:
    """Check the suites, the checks, the index and the exports that a config names.

    Raises:
        UserError: one of them does not exist or is not installed, or milder adapters cannot be made.
    """
    kind = config.training().fine_tune_type
    if config.merge and kind in REFUSED:
        raise UserError(f"fine_tune_type {kind}: milder adapters cannot be made of {REFUSED[kind]}; set merge: []")
    row_checks(config.stores)
    for suites in (config.suites, config.trial):
        if suites is not None:
            prepare_suites(find_suites(suites), None, {})
    if config.index is not None:
        check_index(config.index)
    if config.export.gguf is not None:
        check_type(config.export.gguf)
    if config.export.ollama is not None:
        check_name(config.export.ollama)
