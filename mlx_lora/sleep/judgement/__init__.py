"""Judgement of a night's candidate: what is measured of each model, and the verdicts on it.

Reading order: ``heldout_rows`` → ``measurement`` → ``loss_verdicts``, ``answer_verdicts`` → ``assessment`` → ``judge``.
"""
