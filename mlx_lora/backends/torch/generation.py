"""Generation of answers on torch: left-padded batches, whose common prefix goes through the model once where it may.

A model may share the prefix if its layers have plain KV caches and a probe at first use gives the logits of whole rows:
the padding lies between the prefix and a row's own tokens, so that positions must follow the attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...data.batch_encoding import LEAST_PREFIX, common_prefix
from ..loss_plan import agrees
from .loss import cache_name, decoded

# Tokens of a probe: the common prefix, and the two prompts' own.
PROBE_PREFIX, PROBE_OWN = 8, (3, 7)


def shared_tokens(prompts: Sequence[list[int]]) -> int:
    """Return the length of the prefix to compute once: each prompt goes on after it; 0 if it is not worth it."""
    length = len(common_prefix([prompt[:-1] for prompt in prompts]))
    return length if len(prompts) > 1 and length >= LEAST_PREFIX else 0


def generated(model: Any, prompts: Sequence[list[int]], prefix: int, **options: Any) -> Any:
    """Return what the model's ``generate`` gives for prompts whose first ``prefix`` tokens are computed once.

    Returns:
        the result, and the length of a padded prompt.
    """
    length = max(map(len, prompts))
    padding = [length - len(prompt) for prompt in prompts]
    rows = [[*p[:prefix], *[0] * pad, *p[prefix:]] for p, pad in zip(prompts, padding, strict=True)]
    seen = [[1] * prefix + [0] * pad + [1] * (length - prefix - pad) for pad in padding]
    if prefix:
        options[cache_name(model)] = _cache_after(model, prompts[0][:prefix], len(prompts))
    ids, mask = (torch.tensor(values, device=model.device) for values in (rows, seen))
    return model.generate(input_ids=ids, attention_mask=mask, **options), length


def _cache_after(model: Any, tokens: list[int], rows: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    decoded(model, torch.tensor([tokens], device=model.device), cache)
    cache.batch_repeat_interleave(rows)
    return cache


def can_share(model: Any) -> bool:
    """Return True if rows after a common prefix have the logits of whole rows, with padding between the two."""
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return False
    whole = list(range(3, 3 + PROBE_PREFIX + max(PROBE_OWN)))
    prompts = [whole[: PROBE_PREFIX + own] for own in PROBE_OWN]

    def logits(prefix: int) -> Any:
        # Not one token ends an answer, so that the second is there.
        options = {"do_sample": False, "eos_token_id": -1, "output_logits": True, "return_dict_in_generate": True}
        found, _ = generated(model, prompts, prefix, max_new_tokens=2, **options)
        return torch.stack(found.logits).float().cpu().numpy()

    return agrees(lambda: logits(PROBE_PREFIX), logits(0), model.dtype == torch.float32)
