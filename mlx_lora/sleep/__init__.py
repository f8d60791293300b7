"""The night: a cycle that gathers, curates, replays, trains, judges, promotes and reports, unattended.

Reading order: ``config``, ``cycle`` (the steps), then the step at hand:

- gather and curate: ``gathering``, ``stores``, ``store_options``, ``curate``
- replay and train: ``learning``, ``replay``, ``checks``, ``nights`` (what earlier ones learned)
- judge: ``judging`` (which candidate), ``judge``, ``measurement``, ``assessment``, the ``*_verdicts``, ``evidence``
- promote, try, export: ``promotion``, ``trial``, ``publish``, ``undo`` (by hand)
- report: ``report``, ``night_views``, ``r_matrix``, ``night_record``, ``notification``
- when: ``schedule``, ``installation``, ``launchd``, ``systemd``, ``due``
- whether: ``guards``, ``clock``, ``throttle``
"""
