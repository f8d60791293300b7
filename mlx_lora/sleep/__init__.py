"""The night: a cycle that gathers, curates, replays, trains, judges, promotes and reports, unattended."""
