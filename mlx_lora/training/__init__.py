"""Training: setup, the training loop, checkpoints, diagnostics and reports."""
