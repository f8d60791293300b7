"""A fuzzer of the whole command: ``python -m tests.fuzz --seconds 60 --seed 1``."""
