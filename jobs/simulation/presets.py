"""Worlds that are frozen: what was measured on one can be measured again.

A preset's digest was taken before any model ran on it. Changing a preset, or the equations behind
it, changes the digest, and withdraws every figure measured on it: then give it a new name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from jobs.simulation.world import World

_START = date(2026, 1, 1)


@dataclass(frozen=True)
class Preset:
    """A frozen world and how many days of it make the log."""

    world: World
    num_days: int
    digest: str
    """`digests.digest(world)`."""


PRESETS = {
    # For tests: seconds.
    "world-1": Preset(
        World(
            seed=1,
            world_start=_START,
            num_users=200,
            num_ads=80,
            num_impressions=1_000,
            change_day=2,
        ),
        num_days=4,
        digest="30b546c850ed983f6880351b7d81a8f25cfcd60dc4fb5e83302576eca7092b28",
    ),
    # For research on a CPU: a million impressions on two platforms.
    "world-2": Preset(
        World(
            seed=2,
            world_start=_START,
            num_users=3_000,
            num_ads=1_000,
            num_impressions=50_000,
            events_per_impression=4,
            change_day=16,
        ),
        num_days=20,
        digest="c0dac709de9df6664519d8fb5b45fd07d4640699c30a63ab404ee2af8b5b869f",
    ),
    # The same size on three platforms: domain shift.
    "world-3": Preset(
        World(
            seed=3,
            world_start=_START,
            num_users=3_000,
            num_ads=1_000,
            num_impressions=50_000,
            events_per_impression=4,
            num_domains=3,
            change_day=16,
        ),
        num_days=20,
        digest="691603be0a1d68a69e0a5f0b77eda3a0a5b444bf3b85070c9a7f22936207e1a0",
    ),
    # world-3 without the long range: longer histories than 64 actions must gain nothing.
    "world-4": Preset(
        World(
            seed=3,
            world_start=_START,
            num_users=3_000,
            num_ads=1_000,
            num_impressions=50_000,
            events_per_impression=4,
            num_domains=3,
            change_day=16,
            history_reach=64,
        ),
        num_days=20,
        digest="a809bd2a953e68522992a29c1dc7e9aa57e2361a256360d260376b7dfc28e48d",
    ),
}
