"""Export to other programs' formats (fused, GGUF, PEFT, Ollama), verified against the adapter in MLX."""
