"""Inference engines outside MLX: llama.cpp in a subprocess, clients of Ollama and of OpenAI-compatible servers."""
