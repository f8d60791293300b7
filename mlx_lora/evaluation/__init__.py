"""Evaluation: targets, suites, scorers, reports, gates and paired comparison of a model's answers.

Reading order: ``suite`` and ``cases`` (what is asked) → ``targets`` (who answers) → ``answers`` (kept as they arrive) →
``scorers``, ``scoring`` → ``runner`` → ``suite_report`` → ``session`` (several suites), ``gates`` → ``measurement``,
``compare_targets`` with ``statistics`` → ``views`` (for people).
"""
