"""The mathematics of a simulated ads log whose true probabilities are known.

A user, an ad and a surface meet in an impression. For each task (click; conversion, given a click)

    z  = b_domain + b_ad(day) + sum_{r=1..3} c_r I_r + c_g g(history, ad) + c_h h(content, user)
         + b_position,      p* = sigmoid(z)
    I1 = (w_u . u + w_a . a) / sqrt 2,   I2 = sum_j t_j u_j a_j / sqrt 6,
    I3 = sum_j t_j s_j u_j a_j / sqrt 6

u and a are the user's and the ad's 6-vectors, with mean 0 and covariance I; s is the surface's and
t the task's vector of signs; w are unit vectors. Every s has as many plus as minus signs, so over
random pairs of user and ad I1, I2 and I3 have mean 0 and variance 1, and a click's are uncorrelated
on every surface: c_r^2 is the variance of z that needs interactions of order r. Most of u is common
to an age group and a country, and most of a to a campaign. h = q_u . v_campaign / sqrt 6 with
|v| = sqrt 6, of variance 1 over users. g is what share of the user's recent organic actions, on
either platform, was about the ad's category, exponentially decayed, centred and scaled.

b_ad(day) walks at random from the ad's first day; a fifth of the ads is new every day, of campaigns
that older ads share. Which ad is shown is decided by an auction.

Paper: Chapelle, Modeling Delayed Feedback in Display Advertising, KDD 2014, for conversions that
follow a click after an exponential delay.
Differs: the delay is a mixture of two exponentials, with mean 2 days and 5 % over 7 days, where one
exponential would have 3 %; actual conversions are independent of their delay.

Every draw comes from a counter-based generator keyed by seed, purpose and day, so any day can be
drawn alone. A day needs the organic events of `HISTORY_DAYS` days before it and the conversions of
`ARRIVAL_DAYS` days before it, and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
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
_SURFACES_UP_TO = np.array([[0.5, 0.8, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.6, 1.0]])
"""Share of a domain's traffic that falls to each surface and the ones before it."""
_SURFACE_SIGNS = np.array(
    [
        [1, 1, 1, -1, -1, -1],
        [1, -1, -1, 1, 1, -1],
        [-1, 1, -1, 1, -1, 1],
        [-1, -1, 1, -1, 1, 1],
        [1, -1, 1, -1, -1, 1],
    ]
)
EVENT_TYPES = ("view", "like", "search")
_EVENT_TYPE_UP_TO = np.array([0.8, 0.92, 1.0])
_EVENT_WEIGHT = np.array([1.0, 2.0, 3.0])
OUTCOME_TYPES = ("click", "conversion")
COUNTRIES = ("AR", "BR", "DE", "ID", "IN", "JP", "NG", "US")
AGE_GROUPS = ("13-17", "18-24", "25-34", "35-44", "45-54", "55+")
DEVICES = ("android", "ios", "web")

_WIDTH = 6
_MIN_USERS = 100
"""Enough for the covariance of the users' vectors."""
_NUM_CATEGORIES = 12
_COMMON_RATIO = 0.7
"""Variance of users' and ads' vectors that their group or campaign accounts for."""
_ITEMS_PER_CATEGORY = 40
_EVENTS_PER_IMPRESSION = 2
_FOCUS_RATIO = 0.6
"""Share of a user's actions of a day that are about the day's one category."""
_HALF_LIFE_MS = DAY_MS
_PRIOR_WEIGHT = 2.0
"""Actions, spread over all categories, that a user without history is taken to have made."""
_HISTORY_SCALE = 0.13
"""Standard deviation of the share of recent actions, measured over random pairs."""
_SHORT_LIVED_RATIO, _SHORT_LIFE_DAYS, _LONG_LIFE_DAYS = 0.3, 2, 14
"""0.3 / 2 + 0.7 / 14: a fifth of the ads is new every day."""
_AD_SIGMA, _DRIFT_SIGMA = 0.3, 0.12
_POSITION_BIAS = np.array([0.0, -0.2, -0.4, -0.6, -0.8])
_POSITION_UP_TO = np.array([0.35, 0.6, 0.78, 0.91, 1.0])
NUM_CANDIDATES = 8
EXPLORATION = 0.1
"""epsilon: share of auctions that show a candidate at random."""
_PREDICTION_SIGMA = 0.5
"""Error of the auction's predicted logit."""
_FAST_RATIO, _FAST_DAYS, _SLOW_DAYS = 0.728, 0.912 / 0.728, 4.0
"""Conversion delays: mean 0.912 + 0.272 * 4 = 2 days, 5 % over 7 days."""


class World(Settings):
    """What decides every row of the log."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    world_start: date
    """Day 0: no impression and no organic event came before it."""
    num_users: int = Field(default=2_000, ge=_MIN_USERS, lt=2**31)
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


class _Stream(IntEnum):
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


def _random(world: World, stream: _Stream, number: int = 0) -> np.random.Generator:
    """The generator of one purpose on one day; days before day 0 have one too."""
    key = np.array([world.seed, (int(stream) << 32) + (1 << 31) + number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class People:
    """What never changes: users, campaigns and the tasks' directions."""

    latents: Array
    """u, one row per user."""
    tastes: Array
    """q, one row per user, made like u."""
    active_up_to: Array
    """Share of the traffic that falls to each user and the ones before."""
    blue_ratio: Array
    interests_up_to: Array
    """Cumulated long-term shares of the categories, one row per user."""
    users: Columns
    campaign_category: Indexes
    campaign_content: Array
    """v, one row per campaign."""
    campaign_latents: Array
    """What the vectors a of a campaign's ads have in common."""
    campaign_bid: Array
    directions: Array
    """w by task, then user or ad."""


def draw_people(world: World) -> People:
    """Draw users, campaigns and directions."""
    rng = _random(world, _Stream.USERS)
    num = world.num_users
    activity = np.cumsum(rng.lognormal(0.0, 1.0, num))
    interests = np.cumsum(rng.dirichlet(np.full(_NUM_CATEGORIES, 0.4), num), axis=1)
    blue_ratio = rng.beta(2.4, 2.0, num)
    users = {
        "number": np.arange(num),
        "country": rng.integers(len(COUNTRIES), size=num),
        "age_group": rng.integers(len(AGE_GROUPS), size=num),
        "device": rng.integers(len(DEVICES), size=num),
        "created_ms": world.day_ms(0) - rng.integers(DAY_MS, 400 * DAY_MS, size=num),
    }
    latents, tastes = (_grouped(rng, users["age_group"], users["country"]) for _ in range(2))
    rng = _random(world, _Stream.CAMPAIGNS)
    num_campaigns = max(_NUM_CATEGORIES, world.num_ads // 8)
    category = np.arange(num_campaigns) % _NUM_CATEGORIES
    centres = rng.standard_normal((_NUM_CATEGORIES, _WIDTH))
    own = rng.standard_normal((num_campaigns, _WIDTH))
    content = _mixed(centres[category], own)
    common = _whitened(rng.standard_normal((num_campaigns, _WIDTH)))
    directions = _random(world, _Stream.TASKS).standard_normal((2, 2, _WIDTH))
    return People(
        latents=latents,
        tastes=tastes,
        active_up_to=activity / activity[-1],
        blue_ratio=blue_ratio,
        interests_up_to=interests / interests[:, -1:],
        users=users,
        campaign_category=category,
        campaign_content=_scaled(content, np.sqrt(_WIDTH)),
        campaign_latents=common,
        campaign_bid=rng.lognormal(0.0, 0.4, num_campaigns),
        directions=_scaled(directions, 1.0),
    )


@dataclass(frozen=True)
class Ads:
    """The ads that can be shown on one day, one per slot."""

    number: Indexes
    campaign: Indexes
    created_ms: Indexes
    latents: Array
    """a."""
    bias: Array
    """b_ad(day)."""


def draw_ads(world: World, people: People, number: int) -> Ads:
    """Draw a day's ads. A slot's ad lives for 2 or 14 days, then another takes its place."""
    num = world.num_ads
    rng = _random(world, _Stream.AD_PHASES)
    life = np.where(rng.random(num) < _SHORT_LIVED_RATIO, _SHORT_LIFE_DAYS, _LONG_LIFE_DAYS)
    phase = (rng.random(num) * life).astype(np.int64)
    generation = (number + phase) // life
    born = generation * life - phase
    campaign, created_ms = np.zeros((2, num), np.int64)
    latents, bias = np.zeros((num, _WIDTH)), np.zeros(num)
    for day in range(number - _LONG_LIFE_DAYS + 1, number + 1):
        drift = _random(world, _Stream.DRIFT, day).standard_normal(num)
        bias += np.where(day > born, _DRIFT_SIGMA * drift, 0.0)
        rng = _random(world, _Stream.ADS, day)
        new = born == day
        campaign = np.where(new, rng.integers(len(people.campaign_bid), size=num), campaign)
        # Booked on the evening before its first day.
        evening = world.day_ms(day) - rng.integers(1, DAY_MS // 4, size=num)
        created_ms = np.where(new, evening, created_ms)
        own = rng.standard_normal((num, _WIDTH))
        latents = np.where(new[:, None], _mixed(people.campaign_latents[campaign], own), latents)
        bias = np.where(new, _AD_SIGMA * rng.standard_normal(num), bias)
    return Ads(generation * num + np.arange(num), campaign, created_ms, latents, bias)


def draw_organic(world: World, people: People, number: int) -> Columns:
    """Draw what users do of their own accord on a day, in order of time.

    A user has one category in mind for the day, on both platforms, beside long-term interests.
    """
    rng = _random(world, _Stream.ORGANIC, number)
    rows = _EVENTS_PER_IMPRESSION * world.num_impressions
    focus = _categories(people.interests_up_to, rng.random(world.num_users))
    event_ms = world.day_ms(number) + _times_of_day(rng, rows)
    user = _picked(people.active_up_to, rng.random(rows))
    usual = _categories(people.interests_up_to[user], rng.random(rows))
    category = np.where(rng.random(rows) < _FOCUS_RATIO, focus[user], usual)
    popular = (_ITEMS_PER_CATEGORY * rng.random(rows) ** 2).astype(np.int64)
    return {
        "number": world.row_numbers(number, rows),
        "user": user,
        "item": popular * _NUM_CATEGORIES + category,
        "category": category,
        "surface": _surfaces(people.blue_ratio[user], rng),
        "event_type": _picked(_EVENT_TYPE_UP_TO, rng.random(rows)),
        "event_ms": event_ms,
    }


def history_shares(history: Columns, user: Indexes, category: Indexes, at_ms: Indexes) -> Array:
    """Share of each user's recent actions that were about a category, strictly before a moment.

    share = (sum_{e: category} w_e 2^(-age_e / half-life) + prior / K) / (sum_e ... + prior)

    Args:
        history: Organic events.
        user: Users, (B,).
        category: Categories, (B, C).
        at_ms: Moments, (B,).
    """
    start_ms = history["event_ms"].min(initial=at_ms.min(initial=np.iinfo(np.int64).max))
    event_ms, at_ms = history["event_ms"] - start_ms, at_ms - start_ms
    weight = _EVENT_WEIGHT[history["event_type"]] * np.exp2(event_ms / _HALF_LIFE_MS)
    now = np.exp2(-at_ms / _HALF_LIFE_MS)[:, None]
    pair = history["user"] * _NUM_CATEGORIES + history["category"]
    wanted = user[:, None] * _NUM_CATEGORIES + category
    about = now * _sums_before(pair, event_ms, weight, wanted, at_ms[:, None])
    total = now * _sums_before(history["user"], event_ms, weight, user[:, None], at_ms[:, None])
    return (about + _PRIOR_WEIGHT / _NUM_CATEGORIES) / (total + _PRIOR_WEIGHT)


def _sums_before(
    key: Indexes, event_ms: Indexes, weight: Array, wanted: Indexes, at_ms: Indexes
) -> Array:
    """Sum of the weights of a key's events strictly before a moment."""
    span = max(int(event_ms.max(initial=0)), int(at_ms.max(initial=0))) + 1
    place = key * span + event_ms
    order = np.argsort(place, kind="stable")
    place, sums = place[order], np.concatenate([[0.0], np.cumsum(weight[order])])
    first = np.searchsorted(place, wanted * span)
    return np.maximum(sums[np.searchsorted(place, wanted * span + at_ms)] - sums[first], 0.0)


def logit_parts(
    task: Task, people: People, ads: Ads, request: Columns, *, slot: Indexes, share: Array
) -> Columns:
    """The summands of z for candidates of requests.

    Args:
        task: `CLICK` or `CONVERSION`.
        people: Users and campaigns.
        ads: The day's ads.
        request: `user`, `surface` and `position`, (B,).
        slot: Candidates, (B, C).
        share: `history_shares` of the candidates' categories.

    Returns:
        Natural log-odds by component, (B, C); they add up to z.
    """
    user, surface = request["user"], request["surface"]
    domain = SURFACE_DOMAIN[surface]
    towards_user, towards_ad = people.directions[int(task is CONVERSION)]
    taken = people.latents[user][:, None, :] * np.array(task.signs) * ads.latents[slot]
    alone = (people.latents @ towards_user)[user][:, None] + (ads.latents @ towards_ad)[slot]
    content = people.campaign_content[ads.campaign[slot]]
    with_surface = np.einsum("bcd,bd->bc", taken, _SURFACE_SIGNS[surface])
    liking = np.einsum("bcd,bd->bc", content, people.tastes[user])
    root = np.sqrt(_WIDTH)

    def by_domain(pair: tuple[float, float]) -> Array:
        return np.array(pair)[domain][:, None]

    return {
        "domain": np.broadcast_to(by_domain(task.bias), slot.shape),
        "ad": task.ad * ads.bias[slot],
        "order_1": by_domain(task.order_1) * alone / np.sqrt(2),
        "order_2": by_domain(task.order_2) * taken.sum(axis=2) / root,
        "order_3": by_domain(task.order_3) * with_surface / root,
        "history": by_domain(task.history) * (share - 1 / _NUM_CATEGORIES) / _HISTORY_SCALE,
        "content": by_domain(task.content) * liking / root,
        "position": np.broadcast_to(
            task.position * _POSITION_BIAS[request["position"]][:, None], slot.shape
        ),
    }


def draw_requests(world: World, people: People, number: int) -> Columns:
    """Draw who is to see an ad on a day, when and where, in order of time."""
    rng = _random(world, _Stream.REQUESTS, number)
    rows = world.num_impressions
    event_ms = world.day_ms(number) + _times_of_day(rng, rows)
    user = _picked(people.active_up_to, rng.random(rows))
    own = people.users["device"][user]
    other = rng.integers(len(DEVICES), size=rows)
    return {
        "number": world.row_numbers(number, rows),
        "user": user,
        "surface": _surfaces(people.blue_ratio[user], rng),
        "position": _picked(_POSITION_UP_TO, rng.random(rows)),
        "device": np.where(rng.random(rows) < 0.8, own, other),
        "event_ms": event_ms,
    }


def auction(score: Array, rng: np.random.Generator) -> tuple[Indexes, Array]:
    """Show the candidate of the highest score, or any one in epsilon of the cases.

    propensity = (1 - epsilon) [best] + epsilon / C, given the candidates.

    Args:
        score: (B, C).
        rng: Random numbers.

    Returns:
        Index of the candidate shown, (B,), and its propensity, (B,).
    """
    rows, candidates = score.shape
    best = score.argmax(axis=1)
    at_random = rng.integers(candidates, size=rows)
    shown = np.where(rng.random(rows) < EXPLORATION, at_random, best)
    return shown, (1 - EXPLORATION) * (shown == best) + EXPLORATION / candidates


def draw_impressions(
    world: World, people: People, ads: Ads, history: Columns, number: int
) -> tuple[Columns, Columns]:
    """Draw a day's impressions by auction.

    Candidates are different ads, one from each of C equal stretches of the day's list.

    Returns:
        Impressions, in order of time, and the truth about each.
    """
    request = draw_requests(world, people, number)
    rng = _random(world, _Stream.AUCTIONS, number)
    shape = (world.num_impressions, NUM_CANDIDATES)
    stretch = world.num_ads // NUM_CANDIDATES
    turn = rng.integers(world.num_ads, size=(shape[0], 1))
    within = rng.integers(stretch, size=shape)
    slot = (turn + np.arange(NUM_CANDIDATES) * stretch + within) % world.num_ads
    category = people.campaign_category[ads.campaign[slot]]
    share = history_shares(history, request["user"], category, request["event_ms"])
    parts = logit_parts(CLICK, people, ads, request, slot=slot, share=share)
    predicted = _sigmoid(_total(parts) + _PREDICTION_SIGMA * rng.standard_normal(shape))
    bid = people.campaign_bid[ads.campaign[slot]] * rng.lognormal(0.0, 0.2, shape)
    shown, propensity = auction(bid * predicted, rng)

    def of_shown(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, shown[:, None], axis=1)

    slot, share, bid = of_shown(slot), of_shown(share), of_shown(bid)
    click = {name: of_shown(part)[:, 0] for name, part in parts.items()}
    parts = logit_parts(CONVERSION, people, ads, request, slot=slot, share=share)
    conversion = {name: part[:, 0] for name, part in parts.items()}
    impressions = {**request, "slot": slot[:, 0], "bid": bid[:, 0], "propensity": propensity}
    truth = {
        "number": request["number"],
        "p_click": _sigmoid(_total(click)),
        "p_conversion_given_click": _sigmoid(_total(conversion)),
        **{f"click_{name}": part for name, part in click.items()},
        **{f"conversion_{name}": part for name, part in conversion.items()},
    }
    return impressions, truth


def draw_outcomes(world: World, impressions: Columns, truth: Columns, number: int) -> Columns:
    """Draw a day's clicks, within ten minutes, and the conversions that follow them."""
    rng = _random(world, _Stream.OUTCOMES, number)
    rows = world.num_impressions
    clicked = rng.random(rows) < truth["p_click"]
    wait_ms = 1000 + np.minimum(rng.exponential(20_000, rows), 599_000)
    click_ms = impressions["event_ms"] + wait_ms.astype(np.int64)
    converted = clicked & (rng.random(rows) < truth["p_conversion_given_click"])
    mean_days = np.where(rng.random(rows) < _FAST_RATIO, _FAST_DAYS, _SLOW_DAYS)
    delay_ms = 1 + (mean_days * rng.standard_exponential(rows) * DAY_MS).astype(np.int64)
    price = np.round(rng.lognormal(3.0, 0.7, rows), 2)
    kinds = [
        {"event_ms": click_ms[clicked], "value": np.full(clicked.sum(), np.nan)},
        {"event_ms": (click_ms + delay_ms)[converted], "value": price[converted]},
    ]
    for kind, (columns, happened) in enumerate(zip(kinds, (clicked, converted), strict=True)):
        columns["number"] = impressions["number"][happened]
        columns["outcome_type"] = np.full(happened.sum(), kind)
        columns["shown_day"] = np.full(happened.sum(), number)
    return concatenated(kinds)


def converted_within(days: float) -> float:
    """Share of conversions that follow their click within some days."""
    slow = 1 - _FAST_RATIO
    return float(1 - _FAST_RATIO * np.exp(-days / _FAST_DAYS) - slow * np.exp(-days / _SLOW_DAYS))


@dataclass(frozen=True)
class Day:
    """Everything that arrives on one day, and the truth about its impressions."""

    number: int
    people: People
    ads: Ads
    impressions: Columns
    truth: Columns
    organic: Columns
    outcomes: Columns
    """Clicks and conversions that arrive on this day, of whatever impressions."""
    num_dropped: int
    """Conversions of this day's impressions that would arrive too late."""


def days(world: World, first: int, num_days: int) -> Iterator[Day]:
    """Simulate days one after another; what a day needs of earlier ones is drawn anew.

    Args:
        world: The world.
        first: Number of the first day wanted.
        num_days: How many days.

    Yields:
        The days, equal whatever `first` is. At most one day's rows, the organic events that sway
        it and the outcomes still to arrive are held.
    """
    people = draw_people(world)
    recent: deque[Columns] = deque(maxlen=HISTORY_DAYS + 1)
    pending: list[Columns] = []
    for number in range(max(0, first - ARRIVAL_DAYS - HISTORY_DAYS), first + num_days):
        recent.append(draw_organic(world, people, number))
        if number < first - ARRIVAL_DAYS:
            continue
        ads = draw_ads(world, people, number)
        shown, truth = draw_impressions(world, people, ads, concatenated(recent), number)
        drawn = draw_outcomes(world, shown, truth, number)
        in_time = (drawn["event_ms"] - world.day_ms(number)) // DAY_MS <= ARRIVAL_DAYS
        pending.append(_rows(drawn, in_time))
        waiting = concatenated(pending)
        arrived = waiting["event_ms"] < world.day_ms(number + 1)
        pending = [_rows(waiting, ~arrived)]
        if number >= first:
            outcomes = _in_time_order(_rows(waiting, arrived))
            dropped = int((~in_time).sum())
            yield Day(number, people, ads, shown, truth, recent[-1], outcomes, dropped)


def concatenated(parts: Sequence[Columns] | deque[Columns]) -> Columns:
    """Rows of several parts, one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(columns: Columns, chosen: np.ndarray) -> Columns:
    return {name: values[chosen] for name, values in columns.items()}


def _in_time_order(outcomes: Columns) -> Columns:
    keys = (outcomes["outcome_type"], outcomes["number"], outcomes["event_ms"])
    return _rows(outcomes, np.lexsort(keys))


def _total(parts: Columns) -> Array:
    return np.sum(list(parts.values()), axis=0)


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _grouped(rng: np.random.Generator, one: Indexes, other: Indexes) -> Array:
    """Vectors of users, most of them common to a group of each of two kinds."""
    first, second = (rng.standard_normal((g.max() + 1, _WIDTH))[g] for g in (one, other))
    own = rng.standard_normal((len(one), _WIDTH))
    return _whitened(_mixed((first + second) / np.sqrt(2), own))


def _mixed(common: Array, own: Array) -> Array:
    return np.sqrt(_COMMON_RATIO) * common + np.sqrt(1 - _COMMON_RATIO) * own


def _whitened(vectors: Array) -> Array:
    """The vectors, mapped linearly so that their mean is 0 and their covariance I."""
    centred = vectors - vectors.mean(axis=0)
    root = np.linalg.cholesky(centred.T @ centred / len(vectors))
    return np.linalg.solve(root, centred.T).T


def _scaled(vectors: Array, length: float) -> Array:
    return vectors * (length / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _picked(up_to: Array, uniform: Array) -> Indexes:
    """Indexes drawn from cumulated shares."""
    return np.minimum(np.searchsorted(up_to, uniform, side="right"), len(up_to) - 1)


def _categories(up_to: Array, uniform: Array) -> Indexes:
    """One index per row, drawn from the row's cumulated shares."""
    return np.minimum((up_to <= uniform[:, None]).sum(axis=1), up_to.shape[1] - 1)


def _surfaces(blue_ratio: Array, rng: np.random.Generator) -> Indexes:
    domain = (rng.random(len(blue_ratio)) >= blue_ratio).astype(np.int64)
    return _categories(_SURFACES_UP_TO[domain], rng.random(len(blue_ratio)))


def _times_of_day(rng: np.random.Generator, rows: int) -> Indexes:
    """Sorted milliseconds since midnight: busiest at 20:00, quietest at 8:00."""
    hours = np.cumsum(1 + 0.6 * np.cos(2 * np.pi * (np.arange(24) - 20) / 24))
    hour = _picked(hours / hours[-1], rng.random(rows))
    return np.sort(hour * 3_600_000 + rng.integers(3_600_000, size=rows))
