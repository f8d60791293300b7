"""Template frame cache: rows of one shape share frames and header lengths, so that most need one rendering."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import UserError
from .chat_template import render
from .template_frame import Alignment, Cover, align, divide, marked_source, marks_generation

MOST_TEMPLATES, MOST_REMEMBERED = 64, 4096


@dataclass
class FrameCache:
    """The cache of one template: frames and lengths that rows of one shape share.

    Attributes:
        frames: divided, by the covered conversation; None where the template refuses it.
        lengths: of headers and endings, by the template's text.
    """

    frames: dict[str, list[str] | None] = field(default_factory=dict)
    lengths: dict[Any, int] = field(default_factory=dict)


_CACHES: WeakKeyDictionary[Any, dict[Any, FrameCache]] = WeakKeyDictionary()


def frame_cache(tokenizer: Any, source: str, options: dict[str, Any]) -> FrameCache:
    """Return the cache of a template with its tools and variables; it lives as long as the tokenizer."""
    caches = _CACHES.setdefault(tokenizer, {})
    key = (source, json.dumps(options, sort_keys=True, default=str) if options else "")
    cache = caches.get(key)
    if cache is None:
        if len(caches) >= MOST_TEMPLATES:  # tools that differ from row to row
            caches.clear()
        cache = caches[key] = FrameCache()
    for remembered in (cache.frames, cache.lengths):
        if len(remembered) >= MOST_REMEMBERED:
            remembered.clear()
    return cache


def align_cached(
    tokenizer: Any, covered: Cover, text: str, source: str, options: dict[str, Any], cache: FrameCache
) -> Alignment | None:
    """Render the covered messages and lay them over the text, with the template's own marks where it has them."""
    shape = json.dumps(covered.messages)
    for marked in (True, False) if marks_generation(source) else (False,):
        key = f"{marked}{shape}"
        if key not in cache.frames:
            template = {"chat_template": marked_source(source, covered.mark)} if marked else {}
            try:
                frame = render(tokenizer, covered.messages, **{**options, **template})
                cache.frames[key] = divide(frame, covered.mark)
            except UserError:  # a template may accept a text and refuse its sentinel
                cache.frames[key] = None
        parts = cache.frames[key]
        aligned = None if parts is None else align(parts, text, covered)
        if aligned is not None:
            return aligned
    return None
