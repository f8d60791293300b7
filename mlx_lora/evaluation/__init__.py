"""Evaluation: suites, scorers, baselines and confidence intervals for the answers of a model."""
