"""The simulated world: its truth is the truth, and every component is worth what it should be."""

import tracemalloc
from datetime import date

import numpy as np
import pytest

from jobs import simulation
from jobs.simulation import CLICK, CONVERSION, DAY_MS, ORDERS, World
from jobs.simulation.tasks import DAY_PART_VECTORS, SURFACE_VECTORS
from jobs.simulation.world import HOUR_SHARES, SURFACE_SHARES

START = date(2026, 1, 1)
TASKS = {"click": "p_click", "conversion": "p_conversion_given_click"}
NOON = 10**12
FORWARDS, BACKWARDS = (0, 2, 1), (1, 2, 0)
"""View, search, like; like, search, view."""


@pytest.fixture(scope="module")
def sample():
    """A day of a world that has run for a week: impressions, truth and what came of them."""
    world = World(seed=1, world_start=START, num_impressions=40_000, num_domains=3, change_day=3)
    day = simulation.whole_day(world, 8)
    clicked, converted = (
        np.isin(
            day.impressions["number"],
            day.outcomes["number"][day.outcomes["outcome_type"] == kind],
        )
        for kind in (0, 1)
    )
    return {**day.impressions, **day.truth, "clicked": clicked, "converted": converted}


def entropy(p):
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


def cross_entropy(y, p):
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


def logit(p):
    return np.log(p / (1 - p))


def labelled(sample, task, chosen=True):
    """p* and labels of a task, and what chooses its rows."""
    rows = np.broadcast_to(chosen, sample["clicked"].shape)
    if task == "conversion":
        rows = rows & sample["clicked"]
    label = "clicked" if task == "click" else "converted"
    return sample[TASKS[task]][rows], sample[label][rows].astype(float), rows


@pytest.mark.parametrize("domain", [0, 1, 2])
@pytest.mark.parametrize("task", TASKS)
def test_truth_reaches_the_bayes_floor_and_is_calibrated(sample, task, domain):
    p, y, _ = labelled(sample, task, sample["domain"] == domain)
    # Given p, a label's log loss has mean H(p) and variance p (1 - p) logit(p)^2.
    background = entropy(p.mean())
    ne, floor = cross_entropy(y, p).mean() / background, entropy(p).mean() / background
    spread = np.sqrt(np.mean(p * (1 - p) * logit(p) ** 2) / len(p)) / background
    assert abs(ne - floor) < 3 * spread
    assert abs(y.mean() - p.mean()) < 3 * np.sqrt(np.mean(p * (1 - p)) / len(p))
    assert floor < 0.9


@pytest.mark.parametrize(("domain", "rate"), [(0, 0.16), (1, 0.07), (2, 0.03)])
def test_base_rates_differ_by_domain(sample, domain, rate):
    mean = sample["p_click"][sample["domain"] == domain].mean()
    assert mean == pytest.approx(rate, rel=0.25)


@pytest.mark.parametrize("component", simulation.COMPONENTS)
@pytest.mark.parametrize("task", TASKS)
def test_forgetting_a_component_costs_what_the_truth_predicts(sample, task, component):
    p, y, rows = labelled(sample, task)
    without = sample[f"{TASKS[task]}_without_{component}"][rows]
    if (task, component) == ("conversion", "position"):
        np.testing.assert_allclose(without, p, rtol=1e-12)
        return
    measured = (cross_entropy(y, without) - cross_entropy(y, p)).mean()
    predicted = (cross_entropy(p, without) - entropy(p)).mean()
    # The two losses differ by y * (difference of logits) + (what is fixed given p).
    spread = np.sqrt(np.mean(p * (1 - p) * (logit(p) - logit(without)) ** 2) / len(p))
    assert abs(measured - predicted) < 3 * spread
    assert predicted / entropy(p.mean()) > (1e-5 if "400" in component else 5e-4)


def test_a_longer_history_is_worth_more(sample):
    p = sample["p_click"]
    cost = {
        component: (cross_entropy(p, sample[f"p_click_without_{component}"]) - entropy(p)).mean()
        for component in simulation.COMPONENTS
    }
    assert 0 < cost["history_beyond_400"] < cost["history_beyond_100"] / 3
    assert cost["history_beyond_100"] < cost["history_beyond_20"] / 2 < cost["history"] / 4
    assert cost["history"] / 10 < cost["other_platform"] < cost["history"]


def test_clicks_are_selected_by_the_confounder(sample):
    p, converted, clicked = labelled(sample, "conversion")
    among_clicks = sample["p_conversion_among_clicks"]
    over_all = sample["p_conversion_given_click_without_confounder"]
    # What clicks alone teach is right for clicks, and too high for impressions.
    spread = np.sqrt(np.mean(p * (1 - p)) / len(p))
    assert abs(converted.mean() - among_clicks[clicked].mean()) < 4 * spread
    assert (among_clicks > over_all).all()
    every = sample["p_conversion_given_click"]
    assert abs(every - over_all).mean() > 0.03
    assert abs((every - over_all).mean()) < 4 * (every - over_all).std() / len(every) ** 0.5
    assert (among_clicks - over_all).mean() > 0.01


def test_without_confounding_clicks_are_not_selected():
    world = World(world_start=START, num_impressions=500, confounding=0)
    truth = simulation.whole_day(world, 0).truth
    given = truth["p_conversion_given_click"]
    np.testing.assert_allclose(truth["p_conversion_among_clicks"], given)
    np.testing.assert_allclose(truth["p_click_without_confounder"], truth["p_click"])


def traffic(domain, rows, rng):
    """Random users, ads and moments of one domain, and a past that sways nobody."""
    surfaces = np.flatnonzero(domain == simulation.SURFACE_DOMAIN)
    hour = rng.choice(24, size=rows, p=HOUR_SHARES)
    request = {
        "user": rng.integers(2_000, size=rows),
        "surface": rng.choice(surfaces, size=rows, p=SURFACE_SHARES[surfaces]),
        "domain": np.full(rows, domain),
        "position": rng.integers(5, size=rows),
        "event_ms": hour * 3_600_000,
        "confounder": rng.standard_normal(rows),
    }
    cuts = [f"history_beyond_{cut}" for cut in (20, 100, 400)]
    names = ("history", "other_platform", "journey", *cuts)
    return request, {name: np.zeros((rows, 12)) for name in names}


@pytest.mark.parametrize("domain", [0, 1, 2])
@pytest.mark.parametrize("task", [CLICK, CONVERSION], ids=list(TASKS))
def test_orders_have_the_shares_of_variance_that_are_declared(task, domain):
    world = World(seed=5, world_start=START, num_ads=2_000, num_domains=3)
    people, campaigns = simulation.draw_people(world), simulation.draw_campaigns(world)
    ads = simulation.draw_ads(world, campaigns, 20)
    rng = np.random.default_rng(domain)
    request, past = traffic(domain, 60_000, rng)
    slot = rng.integers(world.num_ads, size=60_000)
    parts = simulation.logit_parts(task, people, ads, request, past, slot)
    for name in (*ORDERS, "content"):
        wanted = getattr(task, name)[domain] ** 2
        assert parts[name].var() == pytest.approx(wanted, rel=0.2), name
        assert abs(parts[name].mean()) < 0.1 * wanted**0.5, name
    variance = {order: parts[order].var() for order in ORDERS}
    shares = task.order_shares(domain)
    assert sum(shares.values()) == pytest.approx(1)
    for order in ORDERS:
        assert variance[order] / sum(variance.values()) == pytest.approx(shares[order], abs=0.04)
    correlation = np.corrcoef([parts[order] for order in ORDERS])
    assert np.abs(correlation - np.eye(4)).max() < 0.05


def test_third_and_fourth_order_tell_nothing_to_who_ignores_a_factor():
    for domain in (0, 1, 2):
        there = domain == simulation.SURFACE_DOMAIN
        shares, vectors = SURFACE_SHARES[there], SURFACE_VECTORS[there]
        np.testing.assert_allclose(shares @ vectors, 0, atol=1e-12)
        np.testing.assert_allclose(shares @ vectors**2, 1)
    by_part = HOUR_SHARES.reshape(4, 6).sum(axis=1)
    np.testing.assert_allclose(by_part @ DAY_PART_VECTORS, 0, atol=1e-12)
    np.testing.assert_allclose(by_part @ DAY_PART_VECTORS**2, 1)


def test_the_auction_knows_the_truth_but_for_the_confounder():
    world = World(world_start=START, num_domains=3)
    people, campaigns = simulation.draw_people(world), simulation.draw_campaigns(world)
    ads = simulation.draw_ads(world, campaigns, 20)
    rng = np.random.default_rng(0)
    request, past = traffic(2, 50, rng)
    past = {name: rng.standard_normal((50, 12)) for name in past}
    slot = rng.integers(world.num_ads, size=(50, 2))
    known = simulation.candidate_logits(people, ads, request, past, slot)
    for candidate in (0, 1):
        parts = simulation.logit_parts(CLICK, people, ads, request, past, slot[:, candidate])
        z = simulation.total(parts) - parts["confounder"]
        np.testing.assert_allclose(known[:, candidate], z, rtol=1e-9)


def acts(*rows):
    """Organic events from (user, category, surface, event_type, milliseconds)."""
    names = ("user", "category", "surface", "event_type", "event_ms")
    columns = dict(zip(names, np.array(rows, np.int64).reshape(-1, 5).T, strict=True))
    columns["event_ms"] = columns["event_ms"] + NOON
    return simulation.past_of(columns, 100)


def swayed(past, *requests, reach=1024):
    """`attention` of requests (user, domain, milliseconds), unscaled."""
    user, domain, at_ms = np.array(requests, np.int64).T
    request = {"user": user, "domain": domain, "event_ms": at_ms + NOON}
    told = simulation.attention(past, 0, 100, request, reach, 2)
    return {name: values * (0.25 if name == "journey" else 0.23) for name, values in told.items()}


def slow_attention(events, user, at_ms, keep=lambda n, domain: True):
    """A_c - mean A_c from the equations; `events` as for `acts`, in order of time."""
    latest = [e for e in events if e[0] == user and e[4] < at_ms][::-1]
    weight, found = (1, 2, 3), np.zeros(12)
    for n, (_, category, surface, kind, _) in enumerate(latest, start=1):
        if keep(n, simulation.SURFACE_DOMAIN[surface]):
            found[category] += sum(weight[kind] / w for w in (4, 16, 64, 256, 1024) if n <= w) / 5
    return found - found.mean()


def test_attention_equals_a_slow_sum():
    rng = np.random.default_rng(3)
    rows = [
        (user, category, surface, kind, int(moment))
        for moment, (user, category, surface, kind) in zip(
            np.sort(rng.integers(DAY_MS, size=1_500)),
            rng.integers((0, 0, 0, 0), (3, 12, 5, 3), size=(1_500, 4)),
            strict=True,
        )
    ]
    past = [acts(*rows[:900]), acts(*rows[900:])]
    requests = [(0, 0, DAY_MS), (1, 1, DAY_MS // 2), (2, 0, rows[700][4]), (50, 0, DAY_MS)]
    requests.sort()
    told = swayed(past, *requests)
    for i, (user, domain, at_ms) in enumerate(requests):
        keep = {
            "history": lambda n, d: True,
            "history_beyond_20": lambda n, d: n > 20,
            "history_beyond_100": lambda n, d: n > 100,
            "history_beyond_400": lambda n, d: n > 400,
            "other_platform": lambda n, d, own=domain: d != own,
        }
        for name, kept in keep.items():
            expected = slow_attention(rows, user, at_ms, kept)
            np.testing.assert_allclose(told[name][i], expected, atol=1e-12, err_msg=name)


def test_three_tenths_of_the_attention_lie_beyond_a_hundred_actions():
    far, near = (
        [(0, 1, 0, 0, t) for t in range(1_000)],
        [(0, 2, 0, 0, 1_000 + t) for t in range(100)],
    )
    told = swayed([acts(*far, *near)], (0, 0, 2_000))["history"][0]
    nothing = told[0]
    share = (told[1] - nothing) / (told[1] + told[2] - 2 * nothing)
    assert share == pytest.approx(0.302, abs=0.001)


def test_a_world_of_short_reach_has_nothing_beyond_it():
    rows = [(0, t % 5, 0, 0, t) for t in range(1_000)]
    told = swayed([acts(*rows)], (0, 0, 2_000), reach=64)
    assert (told["history_beyond_100"] == 0).all()
    assert np.abs(told["history_beyond_20"]).max() > 0.001
    shorter = swayed([acts(*rows[-64:])], (0, 0, 2_000))
    np.testing.assert_allclose(told["history"], shorter["history"], atol=1e-12)


def test_an_action_at_the_moment_of_the_impression_comes_too_late():
    past = [acts((0, 1, 0, 0, 10), (0, 2, 0, 0, 20))]
    one, both = swayed(past, (0, 0, 20), (0, 0, 21))["history"]
    assert one[1] > 0 > one[2]
    assert both[1] == pytest.approx(both[2])


@pytest.mark.parametrize(
    ("types", "journey"),
    [
        (FORWARDS, 1),
        (BACKWARDS, -1),
        ((0, 1, 2), 0),
        ((0, 2, 1, 0), 0),
        ((1, 1, *FORWARDS), 1),
        ((2, 1), 0),
    ],
)
def test_a_journey_is_told_by_the_order_of_three_actions(types, journey):
    rows = [(0, 4, 0, kind, 10 * i) for i, kind in enumerate(types)]
    told = swayed([acts(*rows)], (0, 0, 1_000))["journey"][0]
    assert told[4] == journey
    assert (np.delete(told, 4) == 0).all()


def test_a_journey_is_of_one_user_and_category_and_spans_days_and_platforms():
    view, search, like = FORWARDS
    # User 0 searched for another category, user 1 liked what user 0 did.
    first = acts((0, 4, 0, view, 0), (0, 5, 0, search, 1), (1, 4, 3, view, 2), (1, 4, 0, search, 3))
    second = acts((1, 3, 0, like, DAY_MS), (1, 4, 4, like, DAY_MS + 1), (0, 4, 0, like, DAY_MS + 2))
    told = swayed([first, second], (0, 0, 2 * DAY_MS), (1, 0, DAY_MS), (1, 0, 2 * DAY_MS))[
        "journey"
    ]
    assert told[:, 4].tolist() == [0, 0, 1]
    assert np.abs(told).sum() == 1


def test_journeys_forwards_and_backwards_are_equally_frequent(sample):
    part = logit(sample["p_click"]) - logit(sample["p_click_without_journey"])
    # Before the auction; after it, forwards journeys are shown more.
    forwards, backwards = (part > 0.1).mean(), (part < -0.1).mean()
    assert 0.005 < backwards < forwards
    world = World(world_start=START, num_impressions=20_000)
    organic = simulation.draw_organic(world, simulation.draw_people(world), 0)
    order = np.lexsort((organic["event_ms"], organic["category"], organic["user"]))
    kind = organic["event_type"][order]
    counts = [
        ((kind[:-2] == a) & (kind[1:-1] == b) & (kind[2:] == c)).sum()
        for a, b, c in (FORWARDS, BACKWARDS)
    ]
    assert counts[0] == pytest.approx(counts[1], abs=4 * sum(counts) ** 0.5)


def test_histories_span_the_platforms():
    world = World(world_start=START)
    organic = simulation.draw_organic(world, simulation.draw_people(world), 10)
    on_blue = simulation.SURFACE_DOMAIN[organic["surface"]] == 0
    assert 0.4 < on_blue.mean() < 0.7
    assert len(np.intersect1d(organic["user"][on_blue], organic["user"][~on_blue])) > 1_000


def test_conversion_delays_have_mean_two_days_and_five_percent_over_seven():
    world = World(world_start=START, num_impressions=200_000)
    rows = world.num_impressions
    certain = {"p_click": np.ones(rows), "p_conversion_given_click": np.ones(rows)}
    shown = {"number": np.arange(rows), "event_ms": np.zeros(rows, np.int64)}
    drawn = simulation.draw_outcomes(world, shown, certain, 0)
    click_ms, conversion_ms = (drawn["event_ms"][drawn["outcome_type"] == k] for k in (0, 1))
    delay = (conversion_ms - click_ms) / DAY_MS
    assert delay.mean() == pytest.approx(2.0, abs=4 * delay.std() / rows**0.5)
    for limit, share in ((7, 0.95), (3, 0.805), (14, 0.9918)):
        assert simulation.converted_within(limit) == pytest.approx(share, abs=5e-4)
        spread = (share * (1 - share) / rows) ** 0.5
        assert (delay < limit).mean() == pytest.approx(share, abs=5e-4 + 4 * spread)


def test_conversions_that_come_too_late_are_counted():
    world = World(seed=7, world_start=START, num_impressions=20_000)
    late = wanted = 0
    for day in simulation.days(world, 0, 2):
        drawn = simulation.draw_outcomes(world, day.impressions, day.truth, day.number)
        wanted += int((drawn["outcome_type"] == 1).sum())
        late += day.num_dropped
    expected = wanted * (1 - simulation.converted_within(14.4))
    assert late == pytest.approx(expected, abs=4 * expected**0.5)


def test_propensities_weigh_the_shown_ads_up_to_all_candidates(sample):
    propensity = sample["propensity"]
    assert propensity.min() > 0
    assert propensity.max() <= 1
    weight = 1 / propensity
    assert weight.mean() == pytest.approx(
        simulation.NUM_CANDIDATES, abs=4 * weight.std() / len(weight) ** 0.5
    )
    # Weighted back, every slot is a candidate equally often, though the auction has favourites.
    first = sample["slot"] < 250
    spread = (weight * first).std() / len(weight) ** 0.5
    assert (weight * first).mean() == pytest.approx(4.0, abs=4 * spread)


def test_the_auction_shows_the_best_candidate_or_explores():
    score = np.tile([0.1, 0.7, 0.2, 0.3], (3, 1))
    at_random, explores = np.array([0, 0, 1]), np.array([False, True, True])
    shown, propensity = simulation.auction(score, at_random, explores)
    assert shown.tolist() == [1, 0, 1]
    np.testing.assert_allclose(propensity, [0.925, 0.025, 0.925])


def test_a_tenth_of_the_auctions_explores_among_all_candidates():
    world = World(world_start=START, num_impressions=40_000)
    ads = simulation.draw_ads(world, simulation.draw_campaigns(world), 0)
    drawn = simulation.draw_candidates(world, ads, 0)
    assert drawn["explores"].mean() == pytest.approx(0.1, abs=0.006)
    counts = np.bincount(drawn["at_random"][drawn["explores"]], minlength=8)
    assert counts.min() > 400
    assert all(len(set(row)) == 8 for row in drawn["slot"][:500])


def test_a_fifth_of_the_ads_is_new_every_day_and_the_others_drift():
    world = World(world_start=START, num_ads=4_000)
    campaigns = simulation.draw_campaigns(world)
    one, other = (simulation.draw_ads(world, campaigns, number) for number in (30, 31))
    kept = one.number == other.number
    assert np.mean(~kept) == pytest.approx(0.2, abs=0.02)
    for name in ("latents", "content", "created_ms", "bias"):
        np.testing.assert_array_equal(getattr(one, name)[kept], getattr(other, name)[kept])
    assert (other.drift - one.drift)[kept].std() == pytest.approx(0.12, rel=0.05)
    assert (other.drift[~kept] == 0).all()
    assert (other.created_ms < world.day_ms(31)).all()
    assert len(np.union1d(one.number, other.number)) == 4_000 + np.sum(~kept)


def test_the_abrupt_change_moves_categories_once_and_for_good():
    steady = World(world_start=START)
    changing = World(world_start=START, change_day=5)
    campaigns = simulation.draw_campaigns(changing)
    moved = {}
    for number in (4, 5, 9):
        one, other = (simulation.draw_ads(w, campaigns, number) for w in (steady, changing))
        moved[number] = other.drift - one.drift
        change = campaigns.change[one.category] if number >= 5 else 0
        np.testing.assert_allclose(moved[number], change, atol=1e-12)
        np.testing.assert_array_equal(one.bias, other.bias)
    assert campaigns.change.std() == pytest.approx(0.4)


def test_ads_of_one_creative_share_content_and_campaigns_have_several():
    world = World(world_start=START, num_ads=2_000)
    campaigns = simulation.draw_campaigns(world)
    ads = simulation.draw_ads(world, campaigns, 17)
    creative = np.stack([ads.campaign, ads.week, ads.variant])
    kinds, where = np.unique(creative, axis=1, return_inverse=True)
    assert 400 < kinds.shape[1] < 2_000
    contents = np.zeros((kinds.shape[1], 6))
    contents[where] = ads.content
    np.testing.assert_array_equal(contents[where], ads.content)
    np.testing.assert_allclose((ads.content**2).sum(axis=1), 6)
    own = (ads.content * campaigns.content[ads.campaign]).sum(axis=1) / 6
    assert own.mean() == pytest.approx(0.5**0.5, abs=0.05)
    assert own.std() > 0.1


def test_words_tell_the_content_of_ads_that_nobody_has_seen():
    world = World(world_start=START, num_ads=4_000)
    campaigns = simulation.draw_campaigns(world)
    ads = simulation.draw_ads(world, campaigns, 17)
    titles = simulation.draw_titles(world, campaigns, ads)
    descriptions = simulation.draw_descriptions(world, campaigns)[ads.campaign]
    counts = np.zeros((4_000, 400))
    for words in (titles, descriptions):
        np.add.at(counts, (np.arange(4_000)[:, None], words), 1)
    # Learnt from the ads of some campaigns, told of the ads of others.
    known = ads.campaign % 2 == 0
    x, y = counts[known], ads.content[known]
    weights = np.linalg.solve(x.T @ x + 20 * np.eye(400), x.T @ y)
    error = ads.content[~known] - counts[~known] @ weights
    assert 1 - error.var() / ads.content[~known].var() > 0.4


def test_memory_does_not_grow_with_the_days():
    world = World(world_start=START, num_users=100, num_ads=40, num_impressions=1_000)

    def peak(num_days):
        tracemalloc.start()
        for _ in simulation.days(world, 20, num_days):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(9) < 1.1 * peak(3)


def test_a_draw_alone_equals_the_day_of_a_run():
    world = World(world_start=START, num_users=300, num_ads=80, num_impressions=1_000)
    *_, day = simulation.days(world, 15, 3)
    alone = simulation.whole_day(world, 17)
    for name in ("impressions", "truth", "organic"):
        one, other = getattr(day, name), getattr(alone, name)
        assert one.keys() == other.keys()
        for column, values in one.items():
            np.testing.assert_array_equal(values, other[column], err_msg=column)


def test_neither_threads_nor_blocks_change_anything(monkeypatch):
    world = World(world_start=START, num_users=300, num_ads=80, num_impressions=1_000)
    one = simulation.whole_day(world, 2)
    monkeypatch.setattr("jobs.simulation.auctions._BLOCK_ROWS", 500)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    other = simulation.whole_day(world, 2)
    for column, values in one.truth.items():
        np.testing.assert_array_equal(values, other.truth[column], err_msg=column)
