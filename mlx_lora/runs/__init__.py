"""Run directories: layout and lock, adapter generations, state of incremental training."""
