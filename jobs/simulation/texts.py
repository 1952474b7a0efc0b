"""What ads say: words from whose frequencies an encoder can recover the ads' content.

A word w has a vector r_w and a frequency f_w; content v uses it with probability proportional to
f_w exp(k r_w . v / sqrt(WIDTH)). A title speaks of its creative, a description of its campaign.
"""

from __future__ import annotations

import numpy as np

from jobs.simulation.ads import Ads, Campaigns, draw_creatives
from jobs.simulation.draws import Stream, random
from jobs.simulation.world import (
    DESCRIPTION_WORDS,
    NUM_WORDS,
    TITLE_WORDS,
    WIDTH,
    WORD_SHARPNESS,
    Array,
    Indexes,
    World,
)

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
WORDS = tuple(
    _SYLLABLES[i * 37 % len(_SYLLABLES)] + _SYLLABLES[i // len(_SYLLABLES) * 11 + i % 7]
    for i in range(NUM_WORDS)
)


def draw_titles(world: World, campaigns: Campaigns, ads: Ads) -> Indexes:
    """Words of each ad's title, (ads, TITLE_WORDS): equal for ads of one creative."""
    titles = np.zeros((len(ads.number), TITLE_WORDS), np.int64)
    for week in np.unique(ads.week):
        content = draw_creatives(world, campaigns, int(week))
        rng = random(world, Stream.TITLES, int(week))
        flat = _draw_words(world, content.reshape(-1, WIDTH), TITLE_WORDS, rng)
        words = flat.reshape(*content.shape[:2], TITLE_WORDS)
        of_week = ads.week == week
        titles[of_week] = words[ads.campaign[of_week], ads.variant[of_week]]
    return titles


def draw_descriptions(world: World, campaigns: Campaigns) -> Indexes:
    """Words of each campaign's description, (campaigns, DESCRIPTION_WORDS)."""
    rng = random(world, Stream.WORDS, 1)
    return _draw_words(world, campaigns.content, DESCRIPTION_WORDS, rng)


def written(words: Indexes) -> list[str]:
    """The words of each row, parted by spaces."""
    return [" ".join(WORDS[word] for word in row) for row in words]


def _draw_words(world: World, content: Array, length: int, rng: np.random.Generator) -> Indexes:
    vectors = random(world, Stream.WORDS).standard_normal((NUM_WORDS, WIDTH))
    frequency = 1 / (10 + np.arange(NUM_WORDS))
    weight = frequency * np.exp(WORD_SHARPNESS * content @ vectors.T / np.sqrt(WIDTH))
    up_to = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
    # Row i's shares lie between i and i + 1, so that one search finds the words of all rows.
    row = np.arange(len(content))[:, None]
    place = np.searchsorted((up_to + row).ravel(), (rng.random((len(content), length)) + row))
    return np.clip(place - row * NUM_WORDS, 0, NUM_WORDS - 1)
