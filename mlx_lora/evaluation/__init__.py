"""Evaluation: targets, suites, scorers, reports, gates and paired comparison of a model's answers."""
