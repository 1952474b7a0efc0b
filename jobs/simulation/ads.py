"""What is advertised in the simulated world: campaigns, their creatives, and each day's ads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.simulation.draws import Stream, mixed, random, scaled, whitened
from jobs.simulation.world import (
    AD_SIGMA,
    CAMPAIGN_RATIO,
    CHANGE_SIGMA,
    CLUSTER_RATIO,
    COMMON_RATIO,
    CREATIVE_DAYS,
    CREATIVES_PER_CAMPAIGN,
    DAY_MS,
    DRIFT_SIGMA,
    LONG_LIFE_DAYS,
    NUM_CATEGORIES,
    NUM_CLUSTERS,
    SHORT_LIFE_DAYS,
    SHORT_LIVED_RATIO,
    WIDTH,
    Array,
    Indexes,
    World,
)

FIRST_WEEK = -(LONG_LIFE_DAYS // CREATIVE_DAYS)
"""Creatives of the oldest ads of day 0 were booked in this week."""


@dataclass(frozen=True)
class Campaigns:
    """What never changes about campaigns."""

    category: Indexes
    content: Array
    """What the vectors v of a campaign's creatives have in common; of length sqrt(WIDTH)."""
    latents: Array
    """What the vectors a of a campaign's ads have in common."""
    bid: Array
    change: Array
    """Log-odds that the abrupt change adds to the ads of each category."""


def draw_campaigns(world: World) -> Campaigns:
    """Draw campaigns. Their content gathers in clusters, which cut across categories."""
    rng = random(world, Stream.CAMPAIGNS)
    num = max(NUM_CATEGORIES, world.num_ads // 8)
    centres = rng.standard_normal((NUM_CLUSTERS, WIDTH))
    cluster = rng.integers(NUM_CLUSTERS, size=num)
    content = mixed(centres[cluster], rng.standard_normal((num, WIDTH)), CLUSTER_RATIO)
    change = random(world, Stream.CHANGE).standard_normal(NUM_CATEGORIES)
    return Campaigns(
        category=np.arange(num) % NUM_CATEGORIES,
        content=scaled(content, np.sqrt(WIDTH)),
        latents=whitened(rng.standard_normal((num, WIDTH))),
        bid=rng.lognormal(0.0, 0.4, num),
        change=CHANGE_SIGMA * (change - change.mean()) / change.std(),
    )


def draw_creatives(world: World, campaigns: Campaigns, week: int) -> Array:
    """The vectors v of the creatives that campaigns book in a week, (campaigns, creatives, D)."""
    common = campaigns.content[:, None, :]
    shape = (len(common), CREATIVES_PER_CAMPAIGN, WIDTH)
    own = random(world, Stream.CREATIVES, week).standard_normal(shape)
    return scaled(mixed(common, own, CAMPAIGN_RATIO), np.sqrt(WIDTH))


@dataclass(frozen=True)
class Ads:
    """The ads that can be shown on one day, one per slot."""

    number: Indexes
    campaign: Indexes
    week: Indexes
    """Week in which the ad's creative was booked."""
    variant: Indexes
    """Which of its campaign's creatives of that week it shows."""
    category: Indexes
    created_ms: Indexes
    latents: Array
    """a."""
    content: Array
    """v of the ad's creative."""
    bid: Array
    """The campaign's usual bid."""
    bias: Array
    """b_ad on the ad's first day."""
    drift: Array
    """b_ad(day) - b_ad(first day), with the abrupt change."""


def draw_ads(world: World, campaigns: Campaigns, number: int) -> Ads:
    """Draw a day's ads. A slot's ad lives for 2 or 14 days, then another takes its place."""
    num = world.num_ads
    rng = random(world, Stream.AD_PHASES)
    life = np.where(rng.random(num) < SHORT_LIVED_RATIO, SHORT_LIFE_DAYS, LONG_LIFE_DAYS)
    phase = (rng.random(num) * life).astype(np.int64)
    generation = (number + phase) // life
    born = generation * life - phase
    campaign, variant, created_ms = np.zeros((3, num), np.int64)
    latents, bias, drift = np.zeros((num, WIDTH)), np.zeros(num), np.zeros(num)
    for day in range(number - LONG_LIFE_DAYS + 1, number + 1):
        step = random(world, Stream.DRIFT, day).standard_normal(num)
        drift += np.where(day > born, DRIFT_SIGMA * step, 0.0)
        rng = random(world, Stream.ADS, day)
        new = born == day
        campaign = np.where(new, rng.integers(len(campaigns.bid), size=num), campaign)
        # Booked on the evening before its first day.
        evening = world.day_ms(day) - rng.integers(1, DAY_MS // 4, size=num)
        created_ms = np.where(new, evening, created_ms)
        own = mixed(campaigns.latents[campaign], rng.standard_normal((num, WIDTH)), COMMON_RATIO)
        latents = np.where(new[:, None], own, latents)
        bias = np.where(new, AD_SIGMA * rng.standard_normal(num), bias)
        variant = np.where(new, rng.integers(CREATIVES_PER_CAMPAIGN, size=num), variant)
    week = born // CREATIVE_DAYS
    content = np.zeros((num, WIDTH))
    for booked in np.unique(week):
        of_week = week == booked
        creatives = draw_creatives(world, campaigns, int(booked))
        content[of_week] = creatives[campaign[of_week], variant[of_week]]
    category = campaigns.category[campaign]
    if world.change_day is not None and number >= world.change_day:
        drift = drift + campaigns.change[category]
    return Ads(
        number=generation * num + np.arange(num),
        campaign=campaign,
        week=week,
        variant=variant,
        category=category,
        created_ms=created_ms,
        latents=latents,
        content=content,
        bid=campaigns.bid[campaign],
        bias=bias,
        drift=drift,
    )
