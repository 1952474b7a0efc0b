"""The ranking models as mathematics: torch in, torch out, and nothing of the platform."""
