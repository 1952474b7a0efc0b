"""The simulated world's settings and constants."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.settings import Settings

Array = NDArray[np.floating]
Indexes = NDArray[np.integer]
Columns = dict[str, np.ndarray]
"""Rows as columns of equal length."""

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
HISTORY_DAYS = 14
"""Whole days of organic events before an impression's day that can sway it."""
HISTORY_WINDOWS = (4, 16, 64, 256, 1024)
"""N_m: an impression is swayed by shares among the user's last N_m actions, all m alike."""
HISTORY_CUTS = (20, 100, 400)
"""Lengths at which the truth tells what cutting a history costs."""
ARRIVAL_DAYS = 14
"""A conversion that would arrive more days than this after its impression's day never does."""

DOMAINS = ("blue", "violet", "amber")
SURFACES = (
    "blue_feed",
    "blue_reels",
    "blue_stories",
    "violet_feed",
    "violet_explore",
    "amber_feed",
    "amber_search",
)
SURFACE_DOMAIN = np.array([0, 0, 0, 1, 1, 2, 2])
SURFACE_SHARES = np.array([0.5, 0.3, 0.2, 0.6, 0.4, 0.5, 0.5])
"""Share of its domain's traffic that falls to a surface."""
DOMAIN_WEIGHTS = (2.4, 2.0, 1.6)
"""Dirichlet weights of a user's time on each platform."""
HOUR_SHARES = (1 + 0.6 * np.cos(2 * np.pi * (np.arange(24) - 20) / 24)) / 24
"""Share of a day's traffic by hour (UTC)."""
HOURS_PER_PART = 6
"""A part of the day: night, morning, afternoon, evening."""
EVENT_TYPES = ("view", "like", "search")
EVENT_TYPE_SHARES = (0.5, 0.25, 0.25)
EVENT_WEIGHT = np.array([1, 2, 3])
VIEW, LIKE, SEARCH = range(3)
OUTCOME_TYPES = ("click", "conversion")
COUNTRIES = ("AR", "BR", "DE", "ID", "IN", "JP", "NG", "US")
AGE_GROUPS = ("13-17", "18-24", "25-34", "35-44", "45-54", "55+")
DEVICES = ("android", "ios", "web")

WIDTH = 6
MIN_USERS = 100
"""Enough for the covariance of the users' vectors."""
NUM_CATEGORIES = 12
NUM_CLUSTERS = 24
"""Clusters of content; no column tells a campaign's."""
COMMON_RATIO = 0.7
"""Variance of users' and ads' vectors that their group or campaign accounts for."""
CLUSTER_RATIO, CAMPAIGN_RATIO = 0.7, 0.5
"""Variance of campaigns' content that their cluster, of creatives' that their campaign tells."""
CREATIVES_PER_CAMPAIGN = 4
CREATIVE_DAYS = 7
"""Days after which a campaign books new creatives."""
NUM_WORDS, TITLE_WORDS, DESCRIPTION_WORDS = 400, 8, 16
WORD_SHARPNESS = 1.3
"""How much a word tells: log of the odds by which content of one deviation favours it."""
ITEMS_PER_CATEGORY = 40
FOCUS_RATIO = 0.4
"""Share of a user's actions of a day that are about the day's one category."""
HISTORY_SCALE = 0.23
"""Standard deviation of the attention to a category where histories are long, measured."""
JOURNEY_SCALE = 0.25
"""Standard deviation of a journey, +1, 0 or -1: one in 32 action triples goes either way."""
SHORT_LIVED_RATIO, SHORT_LIFE_DAYS, LONG_LIFE_DAYS = 0.3, 2, 14
"""0.3 / 2 + 0.7 / 14: a fifth of the ads is new every day."""
AD_SIGMA, DRIFT_SIGMA, CHANGE_SIGMA = 0.3, 0.12, 0.4
"""Log-odds of ads: of the first day, of each day's step, of a category's abrupt change."""
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
    events_per_impression: int = Field(default=2, ge=1, lt=10)
    """Organic events per ad shown."""
    num_domains: Literal[2, 3] = 2
    """Platforms: the first of `DOMAINS`."""
    change_day: int | None = Field(default=None, ge=0)
    """Day number of the one abrupt change of the ads' appeal; none if left out."""
    confounding: float = Field(default=0.4, ge=0, le=3)
    """kappa: log-odds by which one deviation of the hidden confounder moves both outcomes."""
    history_reach: int = Field(default=1024, ge=4, le=1024)
    """Latest organic actions of a user that can sway an impression: longer windows end here."""

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
