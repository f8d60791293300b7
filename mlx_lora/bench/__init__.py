"""Benchmarks: our trainer against a baseline on the same backend, models, data and hyper-parameters, alternating."""
