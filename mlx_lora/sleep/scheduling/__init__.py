"""Scheduling of the night: its times, its installation with launchd or systemd, and the machine's speed there."""
