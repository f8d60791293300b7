"""Tokenizer loading: a base model's tokenizer and chat template, for both backends and the checks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import UserError, guarded
from .inspection import BaseFacts, inspect_base, read_object
from .resolve import BUILT_IN, ResolvedModel, check_files, resolve_model
from .templates import check_template, chosen_template, stored_templates

UNLIMITED = 10**30


def load_tokenizer(
    name: str, revision: str | None = None, chat_template: str | None = None, system_role: str = "merge"
) -> Any:
    """Return the tokenizer of a model by name or directory; a local directory needs no weights.

    Args:
        chat_template, system_role: as in the config.

    Raises:
        UserError: the model does not exist, or its tokenizer cannot be loaded.
    """
    local = Path(name).expanduser()
    if name not in BUILT_IN and local.is_dir():
        check_files(local)
        return open_tokenizer(ResolvedModel(name, local.absolute(), None, {}, chat_template, system_role))
    return open_tokenizer(resolve_model(name, revision, chat_template=chat_template, system_role=system_role))


def open_tokenizer(model: ResolvedModel) -> Any:
    """Return the tokenizer of a resolved base, with the result of the inspection as attribute ``base_facts``.

    Raises:
        UserError: it cannot be loaded, has no fast version, or requires remote code.
    """
    # Transformers warns at import that without torch only tokenizers work.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer, logging

    # The inspection reports contradictions in a base's files, not a logger.
    logging.set_verbosity_error()
    own_code = "auto_map" in read_object(model.path / "tokenizer_config.json")
    advice = "; it brings its own code, which is never run here" if own_code else "; check the model's files"
    facts = BaseFacts(system_role=model.system_role)
    with guarded(f"{model.name}: its tokenizer cannot be loaded", advice):
        tokenizer = AutoTokenizer.from_pretrained(model.path, local_files_only=True, trust_remote_code=False)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(
            f"{model.name}: its tokenizer has no fast form (tokenizer.json), which is needed to mark the answers"
        )
    with guarded(f"{model.name}: its tokenizer cannot be used", advice):
        tokenizer.base_facts = facts
        facts.notes += _reset(tokenizer, model.name)
        _set_template(tokenizer, model, facts)
        inspect_base(model.path, tokenizer, model.name, facts)
    return tokenizer


def _reset(tokenizer: Any, name: str) -> list[str]:
    """Reset the state that a tokenizer.json may hold from an earlier use (truncation, padding, BPE-dropout)."""
    backend, found = tokenizer.backend_tokenizer, []
    if backend.truncation is not None:
        found.append(f"truncation to {backend.truncation['max_length']} tokens")
    if backend.padding is not None:
        found.append("padding")
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):
        # BPE-dropout omits merges at random: the same text would have other tokens each time.
        found.append(f"dropout of {backend.model.dropout:g}")
        backend.model.dropout = None
    if getattr(tokenizer, "split_special_tokens", False):
        found.append("split_special_tokens")
        tokenizer.split_special_tokens = False
    backend.encode_special_tokens = False
    # Only used for a warning about long texts; max_seq_length sets the limit.
    tokenizer.model_max_length = UNLIMITED
    return [f"{name}: its tokenizer was saved with {' and '.join(found)}, which is not used"] if found else []


def _set_template(tokenizer: Any, model: ResolvedModel, facts: BaseFacts) -> None:
    if model.chat_template is not None:
        facts.given_template = chosen_template(tokenizer, model.chat_template, model.name)
        tokenizer.chat_template = facts.given_template
    elif tokenizer.chat_template is None:
        # Written for processors by older releases; no tokenizer class reads it.
        tokenizer.chat_template = stored_templates(model.path).get("chat_template.json")
    template = tokenizer.chat_template
    for text in template.values() if isinstance(template, dict) else [template]:
        if text is not None:
            if not isinstance(text, str):
                raise UserError(f"{model.name}: its chat template is {json.dumps(text)[:40]}; check the model's files")
            check_template(text, f"{model.name}: its chat template")
