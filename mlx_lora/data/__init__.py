"""Datasets: file formats, chat template rendering, tokenization, sampling and collation."""
