"""The night: a cycle that gathers, curates, replays, trains, judges, promotes and reports, unattended.

Reading order: ``config``, ``cycle`` (the steps), then the step at hand:

- gather and curate: ``gathering``, ``stores``
- replay and train: ``learning``, ``replay``, ``checks``, ``nights`` (what earlier ones learned)
- judge: ``judging`` (which candidate), ``judgement`` (its measurements and verdicts)
- promote, try, export: ``promotion``, ``trial``, ``publish``, ``undo`` (by hand)
- report: ``night_record``, ``reports``
- when: ``due``, ``scheduling``
- whether: ``guards``, ``clock``
"""
