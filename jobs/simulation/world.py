"""The simulated world's settings, constants and random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.settings import Settings

Array = NDArray[np.floating]
Indexes = NDArray[np.integer]
Columns = dict[str, np.ndarray]
"""Rows as columns of equal length."""

DAY_MS = 86_400_000
HISTORY_DAYS = 7
"""Whole days of organic events before an impression's day that can sway it."""
ARRIVAL_DAYS = 14
"""A conversion that would arrive more days than this after its impression's day never does."""

DOMAINS = ("blue", "violet")
SURFACES = ("blue_feed", "blue_reels", "blue_stories", "violet_feed", "violet_explore")
SURFACE_DOMAIN = np.array([0, 0, 0, 1, 1])
SURFACES_UP_TO = np.array([[0.5, 0.8, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.6, 1.0]])
"""Share of a domain's traffic that falls to each surface and the ones before it."""
SURFACE_SIGNS = np.array(
    [
        [1, 1, 1, -1, -1, -1],
        [1, -1, -1, 1, 1, -1],
        [-1, 1, -1, 1, -1, 1],
        [-1, -1, 1, -1, 1, 1],
        [1, -1, 1, -1, -1, 1],
    ]
)
EVENT_TYPES = ("view", "like", "search")
EVENT_TYPE_UP_TO = np.array([0.8, 0.92, 1.0])
EVENT_WEIGHT = np.array([1.0, 2.0, 3.0])
OUTCOME_TYPES = ("click", "conversion")
COUNTRIES = ("AR", "BR", "DE", "ID", "IN", "JP", "NG", "US")
AGE_GROUPS = ("13-17", "18-24", "25-34", "35-44", "45-54", "55+")
DEVICES = ("android", "ios", "web")

WIDTH = 6
MIN_USERS = 100
"""Enough for the covariance of the users' vectors."""
NUM_CATEGORIES = 12
COMMON_RATIO = 0.7
"""Variance of users' and ads' vectors that their group or campaign accounts for."""
ITEMS_PER_CATEGORY = 40
EVENTS_PER_IMPRESSION = 2
FOCUS_RATIO = 0.6
"""Share of a user's actions of a day that are about the day's one category."""
HALF_LIFE_MS = DAY_MS
PRIOR_WEIGHT = 2.0
"""Actions, spread over all categories, that a user without history is taken to have made."""
HISTORY_SCALE = 0.13
"""Standard deviation of the share of recent actions, measured over random pairs."""
SHORT_LIVED_RATIO, SHORT_LIFE_DAYS, LONG_LIFE_DAYS = 0.3, 2, 14
"""0.3 / 2 + 0.7 / 14: a fifth of the ads is new every day."""
AD_SIGMA, DRIFT_SIGMA = 0.3, 0.12
POSITION_BIAS = np.array([0.0, -0.2, -0.4, -0.6, -0.8])
POSITION_UP_TO = np.array([0.35, 0.6, 0.78, 0.91, 1.0])
NUM_CANDIDATES = 8
EXPLORATION = 0.1
"""epsilon: share of auctions that show a candidate at random."""
PREDICTION_SIGMA = 0.5
"""Error of the auction's predicted logit."""
FAST_RATIO, FAST_DAYS, SLOW_DAYS = 0.728, 0.912 / 0.728, 4.0
"""Conversion delays: mean 0.912 + 0.272 * 4 = 2 days, 5 % over 7 days."""


class World(Settings):
    """What decides every row of the log."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    world_start: date
    """Day 0: no impression and no organic event came before it."""
    num_users: int = Field(default=2_000, ge=MIN_USERS, lt=2**31)
    num_ads: int = Field(default=500, ge=NUM_CANDIDATES, lt=2**31)
    """Ads that can be shown on any one day."""
    num_impressions: int = Field(default=20_000, ge=1, lt=10_000_000)
    """Ads shown per day."""

    def day_ms(self, number: int) -> int:
        """Unix milliseconds at which a day starts."""
        start = datetime(*self.world_start.timetuple()[:3], tzinfo=UTC)
        return round(start.timestamp() * 1000) + number * DAY_MS

    def day(self, number: int) -> date:
        """The date of a day number."""
        return self.world_start + timedelta(days=number)

    def row_numbers(self, number: int, rows: int) -> Indexes:
        """Numbers that no other day's rows have."""
        return int(f"{self.day(number):%Y%m%d}") * 100_000_000 + np.arange(rows)


@dataclass(frozen=True)
class Task:
    """How one task's logit is made; a pair of coefficients holds blue's and violet's."""

    bias: tuple[float, float]
    order_1: tuple[float, float]
    order_2: tuple[float, float]
    order_3: tuple[float, float]
    history: tuple[float, float]
    content: tuple[float, float]
    ad: float
    position: float
    signs: tuple[int, ...]
    """t."""


CLICK = Task(
    bias=(-2.87, -4.17),
    order_1=(0.5, 0.4),
    order_2=(0.5, 0.4),
    order_3=(0.4, 0.6),
    history=(0.5, 0.6),
    content=(0.4, 0.4),
    ad=1.0,
    position=1.0,
    signs=(1, 1, 1, 1, 1, 1),
)
CONVERSION = Task(
    bias=(-2.65, -2.4),
    order_1=(0.5, 0.5),
    order_2=(0.4, 0.3),
    order_3=(0.2, 0.4),
    history=(0.4, 0.3),
    content=(0.5, 0.5),
    ad=0.5,
    position=0.0,
    signs=(1, 1, 1, -1, 1, -1),
)


class Stream(IntEnum):
    """Purposes that have random numbers of their own."""

    USERS = 1
    CAMPAIGNS = 2
    TASKS = 3
    AD_PHASES = 4
    ADS = 5
    DRIFT = 6
    ORGANIC = 7
    REQUESTS = 8
    AUCTIONS = 9
    OUTCOMES = 10


def random(world: World, stream: Stream, number: int = 0) -> np.random.Generator:
    """The generator of one purpose on one day; days before day 0 have one too."""
    key = np.array([world.seed, (int(stream) << 32) + (1 << 31) + number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def picked(up_to: Array, uniform: Array) -> Indexes:
    """Indexes drawn from cumulated shares."""
    return np.minimum(np.searchsorted(up_to, uniform, side="right"), len(up_to) - 1)


def categories(up_to: Array, uniform: Array) -> Indexes:
    """One index per row, drawn from the row's cumulated shares."""
    return np.minimum((up_to <= uniform[:, None]).sum(axis=1), up_to.shape[1] - 1)


def surfaces(blue_ratio: Array, rng: np.random.Generator) -> Indexes:
    domain = (rng.random(len(blue_ratio)) >= blue_ratio).astype(np.int64)
    return categories(SURFACES_UP_TO[domain], rng.random(len(blue_ratio)))


def times_of_day(rng: np.random.Generator, rows: int) -> Indexes:
    """Sorted milliseconds since midnight: busiest at 20:00, quietest at 8:00."""
    hours = np.cumsum(1 + 0.6 * np.cos(2 * np.pi * (np.arange(24) - 20) / 24))
    hour = picked(hours / hours[-1], rng.random(rows))
    return np.sort(hour * 3_600_000 + rng.integers(3_600_000, size=rows))
