"""Teach a small language model from your own data: LoRA training on MLX, judged before it is used."""

__version__ = "0.2.0"
