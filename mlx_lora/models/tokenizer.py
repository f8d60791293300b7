"""A base model's tokenizer and chat template alone, without its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from .resolve import BUILT_IN, resolve_model


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a model by name or directory; a local directory needs no weights in it.

    Raises:
        UserError: there is no such model, or its tokenizer cannot be loaded.
    """
    # Transformers would tell, at import, that a tokenizer is all it can do without torch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    local = Path(name).expanduser()
    path = local if name not in BUILT_IN and local.is_dir() else resolve_model(name, revision).path
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: its tokenizer cannot be loaded ({first_line(error)}); check the model's files"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(f"{name}: its tokenizer has no fast form (tokenizer.json), which is needed to mark the answers")
    return tokenizer
