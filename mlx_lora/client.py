"""Client of ``mlx-lora serve``: start training, follow it, and wait for it, with httpx alone."""

from __future__ import annotations
