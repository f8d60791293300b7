"""Scorers: functions that judge one answer and say why it failed."""
