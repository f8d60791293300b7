"""Inference engines outside MLX: llama.cpp in a subprocess, and Ollama's API."""
