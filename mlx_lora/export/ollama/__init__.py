"""Ollama export: Modelfile, Go template and a verified model on the server."""
