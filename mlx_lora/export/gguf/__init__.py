"""GGUF export for llama.cpp: models, quantized types and LoRA adapters."""
