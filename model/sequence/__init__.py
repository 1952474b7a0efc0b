"""Baselines that read a history: events of all rows one after the other, without padding."""
