"""Scaling laws: how a model's excess NE falls with its compute, on a simulated world."""
