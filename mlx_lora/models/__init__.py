"""Base models: resolving, inspection, tokenizers and chat templates, and the built-in tiny model."""
