"""Legacy text format (Alpaca): ``### Instruction:`` headings and an EOS token, for models trained on it."""

from __future__ import annotations

# EOS and end-of-turn tokens of such texts in real files: those of Qwen, Llama 2 and 3, and Gemma.
END_TOKENS = ("<|endoftext|>", "<|im_end|>", "</s>", "<|eot_id|>", "<|end_of_text|>", "<eos>")


def format_legacy(instruction: str, context: str, output: str, eos_token: str) -> str:
    """Format a row as one text.

    Args:
        context: the row's ``input``; its heading is left out where it is empty.
        eos_token: the base model's own; without one a model never learns to stop.

    Raises:
        ValueError: the token is empty.
    """
    if not eos_token:
        raise ValueError("the legacy format needs the base model's end-of-sequence token")
    middle = f"\n\n### Input:\n{context}" if context.strip() else ""
    return f"### Instruction:\n{instruction}{middle}\n\n### Response:\n{output}{eos_token}"


def without_end_token(text: str) -> str:
    """Remove a known EOS token from the end of a text: in a chat message it would be trained on as words."""
    stripped = text.rstrip()
    return next((stripped.removesuffix(token) for token in END_TOKENS if stripped.endswith(token)), text)
