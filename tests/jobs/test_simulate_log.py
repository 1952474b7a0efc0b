"""The simulated log: a day's bytes depend on the day alone, and its truth is the truth."""

import json
import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import delta, simulate_log, simulation
from jobs.config import REPOSITORY
from jobs.contract import load_contract
from jobs.simulation import CLICK, CONVERSION, DAY_MS, World

START = date(2026, 1, 1)
SMALL = World(seed=3, world_start=START, num_users=300, num_ads=80, num_impressions=2_000)
TABLES = ("users", "ads", "events", "outcomes", "truth", "impressions")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Eighteen days of a small world, so that conversions reach their last day of arrival."""
    out = tmp_path_factory.mktemp("log")
    simulate_log.run(SMALL, out, START, 18)
    return out


@pytest.fixture(scope="module")
def sample():
    """Three days of a world that has run for ten: (impressions, truth, clicked, converted)."""
    world = World(world_start=START)
    parts = []
    for day in simulation.days(world, 10, 3):
        drawn = simulation.draw_outcomes(world, day.impressions, day.truth, day.number)
        clicked, converted = (
            np.isin(day.impressions["number"], drawn["number"][drawn["outcome_type"] == kind])
            for kind in (0, 1)
        )
        parts.append({**day.impressions, **day.truth, "clicked": clicked, "converted": converted})
    return simulation.concatenated(parts)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(folder: Path, table: str) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(path, partitioning=None)
        for path in sorted(folder.glob(f"{table}/day=*/*.parquet"))
    )


def entropy(p):
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


def cross_entropy(y, p):
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        simulate_log.run(SMALL.model_copy(update={"seed": seed}), tmp_path / name, START, 2)
    one, same, other = (files(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert set(one) == set(other)
    parquet = [name for name in one if name.endswith(".parquet")]
    assert len(parquet) == 2 * len(TABLES)
    assert all(one[name] != other[name] for name in parquet)


def test_days_written_one_by_one_in_any_order_equal_days_written_together(log, tmp_path):
    whole = files(log)
    for number in (17, 0, 1, 9):
        simulate_log.run(SMALL, tmp_path, START + timedelta(days=number), 1)
    apart = files(tmp_path)
    assert len(apart) == 4 * (len(TABLES) + 1) + 1
    assert {name: whole[name] for name in apart} == apart


def test_a_crash_leaves_no_marker(tmp_path, monkeypatch):
    write = simulate_log._write

    def fail_at_impressions(table, path):
        if "impressions" in path.parts:
            raise OSError("disk full")
        write(table, path)

    monkeypatch.setattr(simulate_log, "_write", fail_at_impressions)
    with pytest.raises(OSError, match="disk full"):
        simulate_log.run(SMALL, tmp_path, START, 1)
    assert not list(tmp_path.rglob("_SUCCESS"))


@pytest.mark.parametrize("domain", [0, 1])
@pytest.mark.parametrize("task", ["click", "conversion"])
def test_truth_reaches_the_bayes_floor_and_is_calibrated(sample, task, domain):
    chosen = simulation.SURFACE_DOMAIN[sample["surface"]] == domain
    p, y = sample["p_click"], sample["clicked"]
    if task == "conversion":
        chosen &= sample["clicked"]
        p, y = sample["p_conversion_given_click"], sample["converted"]
    p, y = p[chosen], y[chosen].astype(float)
    # Given p, a label's log loss has mean H(p) and variance p (1 - p) logit(p)^2.
    background = entropy(p.mean())
    ne, floor = cross_entropy(y, p).mean() / background, entropy(p).mean() / background
    spread = np.sqrt(np.mean(p * (1 - p) * np.log(p / (1 - p)) ** 2) / len(p)) / background
    assert abs(ne - floor) < 3 * spread
    assert abs(y.mean() - p.mean()) < 3 * np.sqrt(np.mean(p * (1 - p)) / len(p))
    assert floor < 0.9


@pytest.mark.parametrize(("domain", "rate"), [(0, 0.16), (1, 0.07)])
def test_base_rates_differ_by_domain(sample, domain, rate):
    chosen = simulation.SURFACE_DOMAIN[sample["surface"]] == domain
    assert sample["p_click"][chosen].mean() == pytest.approx(rate, rel=0.15)


@pytest.mark.parametrize("part", ["order_1", "order_2", "order_3", "history", "content"])
def test_forgetting_a_component_costs_what_the_truth_predicts(sample, part):
    p, y = sample["p_click"], sample["clicked"].astype(float)
    logit = np.log(p / (1 - p))
    without = 1 / (1 + np.exp(-(logit - sample[f"click_{part}"])))
    measured = (cross_entropy(y, without) - cross_entropy(y, p)).mean()
    predicted = (cross_entropy(p, without) - entropy(p)).mean()
    # The two losses differ by y * component + (what is fixed given p).
    spread = np.sqrt(np.mean(p * (1 - p) * sample[f"click_{part}"] ** 2) / len(p))
    assert abs(measured - predicted) < 3 * spread
    assert predicted / entropy(p.mean()) > 0.02


@pytest.mark.parametrize("task", [CLICK, CONVERSION])
def test_components_have_the_variance_of_their_coefficients(task):
    world = World(seed=5, world_start=START, num_ads=2_000)
    people = simulation.draw_people(world)
    ads = simulation.draw_ads(world, people, 20)
    rng = np.random.default_rng(0)
    user = np.arange(world.num_users)
    slot = rng.integers(world.num_ads, size=(world.num_users, 16))
    share = np.zeros(slot.shape)
    for surface, domain in enumerate(simulation.SURFACE_DOMAIN):
        request = {
            "user": user,
            "surface": np.full(len(user), surface),
            "position": np.zeros(len(user), int),
        }
        parts = simulation.logit_parts(task, people, ads, request, slot=slot, share=share)
        for name in ("order_1", "order_2", "order_3", "content"):
            wanted = getattr(task, name)[domain] ** 2
            assert parts[name].var() == pytest.approx(wanted, rel=0.2), (name, surface)
            assert abs(parts[name].mean()) < 0.1, (name, surface)
        if task is CLICK:
            orders = [parts[f"order_{r}"].ravel() for r in (1, 2, 3)]
            assert np.abs(np.corrcoef(orders) - np.eye(3)).max() < 0.1


def test_history_is_what_was_known_strictly_before():
    # User 0: category 1 a day and half a day ago, category 2 just now; user 1 is somebody else.
    history = {
        "user": np.array([0, 0, 0, 1]),
        "category": np.array([1, 1, 2, 1]),
        "event_type": np.array([0, 1, 0, 2]),
        "event_ms": np.array([0, DAY_MS // 2, DAY_MS, 0]) + 10**12,
    }
    shares = simulation.history_shares(
        history, np.array([0, 2]), np.array([[1, 2], [1, 2]]), np.full(2, 10**12 + DAY_MS)
    )
    about = 1 * 0.5 + 2 * 0.5**0.5
    prior = 2 / 12
    expected = [[(about + prior) / (about + 2), prior / (about + 2)], [1 / 12, 1 / 12]]
    np.testing.assert_allclose(shares, expected, rtol=1e-12)


def test_history_spans_both_platforms(sample):
    world = World(world_start=START)
    people = simulation.draw_people(world)
    organic = simulation.draw_organic(world, people, 10)
    on_blue = simulation.SURFACE_DOMAIN[organic["surface"]] == 0
    assert 0.4 < on_blue.mean() < 0.7
    assert len(np.intersect1d(organic["user"][on_blue], organic["user"][~on_blue])) > 1_000


def test_conversions_come_after_the_click_of_an_impression_that_exists(log):
    shown = read(log, "impressions").select(["impression_id", "event_ms"]).to_pandas()
    outcomes = read(log, "outcomes").to_pandas()
    joined = outcomes.merge(shown, on="impression_id", how="left", suffixes=("", "_shown"))
    assert joined["event_ms_shown"].notna().all()
    assert outcomes["outcome_id"].is_unique
    clicks = joined[joined["outcome_type"] == "click"]
    assert (clicks["event_ms"] - clicks["event_ms_shown"]).between(1_000, 600_000).all()
    assert clicks["value"].isna().all()
    conversions = joined[joined["outcome_type"] == "conversion"]
    clicked = conversions.merge(clicks, on="impression_id", how="left", suffixes=("", "_click"))[
        "event_ms_click"
    ]
    assert len(conversions) > 300
    assert (conversions["event_ms"].to_numpy() > clicked.to_numpy()).all()
    assert (conversions["value"] > 0).all()


def test_an_outcome_arrives_in_the_folder_of_its_day_within_fourteen_days(log):
    lags = []
    for path in sorted(log.glob("outcomes/day=*/*.parquet")):
        outcomes = pq.read_table(path, partitioning=None).to_pandas()
        day = date.fromisoformat(path.parent.name.removeprefix("day="))
        assert (outcomes["event_ms"] // DAY_MS == (day - date(1970, 1, 1)).days).all()
        shown = outcomes["impression_id"].str[1:9]
        lags += [(day - date.fromisoformat(text)).days for text in shown.unique()]
    assert (min(lags), max(lags)) == (0, 14)


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
    world = World(seed=7, world_start=START, num_impressions=50_000)
    late = wanted = 0
    for day in simulation.days(world, 3, 3):
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
    score = np.tile([0.1, 0.7, 0.2, 0.3], (40_000, 1))
    shown, propensity = simulation.auction(score, np.random.default_rng(1))
    counts = np.bincount(shown, minlength=4) / len(shown)
    np.testing.assert_allclose(counts, [0.025, 0.925, 0.025, 0.025], atol=0.004)
    np.testing.assert_allclose(propensity[shown == 1], 0.925)
    np.testing.assert_allclose(propensity[shown != 1], 0.025)


def test_a_fifth_of_the_ads_is_new_every_day_and_the_others_drift():
    world = World(world_start=START, num_ads=4_000)
    people = simulation.draw_people(world)
    one, other = (simulation.draw_ads(world, people, number) for number in (30, 31))
    kept = one.number == other.number
    assert np.mean(~kept) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(one.latents[kept], other.latents[kept])
    np.testing.assert_array_equal(one.created_ms[kept], other.created_ms[kept])
    assert (other.bias - one.bias)[kept].std() == pytest.approx(0.12, rel=0.05)
    assert (other.created_ms < world.day_ms(31)).all()
    assert len(np.union1d(one.number, other.number)) == 4_000 + np.sum(~kept)


def test_no_contract_names_the_truth():
    contracts = sorted((REPOSITORY / "infra" / "contracts").glob("*.yaml"))
    assert len(contracts) >= 2
    for path in contracts:
        assert simulate_log.TRUTH not in path.read_text().lower(), path.name


def test_the_contract_knows_what_the_simulator_writes(log):
    contract = load_contract(REPOSITORY / "infra" / "contracts" / "simulated.yaml")
    assert list(contract.surface_vertical) == list(simulation.SURFACES)
    assert list(contract.domains) == list(simulation.DOMAINS)
    assert contract.outcome_types == sorted(simulation.OUTCOME_TYPES)
    types = {"impression", *simulation.EVENT_TYPES, *simulation.OUTCOME_TYPES}
    assert set(contract.timeline_event_types) == types
    for feed in contract.feeds.values():
        folder = feed.path.format(day=START.isoformat())
        written = pq.read_schema(log / folder / "part-0.parquet").names
        assert list(feed.columns) == [name for name in written if name in feed.columns]
    assert contract.impressions.ready is not None
    assert (log / contract.impressions.ready.format(day=START.isoformat())).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--days", "0"], "--days: from 1"),
        (["--first-day", "tomorrow"], "--first-day: a day is YYYY-MM-DD"),
        (["--ads", "3"], "num_ads"),
        (["--users", "0"], "num_users"),
        (["--impressions-per-day", "-1"], "num_impressions"),
        (["--seed", "-1"], "seed"),
        (
            ["--first-day", "2025-12-31", "--world-start", "2026-01-01"],
            "world starts on 2026-01-01",
        ),
    ],
)
def test_bad_options_end_with_code_2(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["simulate_log", "--out", str(tmp_path), *options])
    with pytest.raises(SystemExit) as end:
        simulate_log._main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_refuses_another_world(log, monkeypatch, capsys):
    command = ["simulate_log", "--out", str(log), "--first-day", "2026-01-02", "--seed", "4"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        simulate_log._main()
    assert end.value.code == 2
    assert "seed: a folder holds one world" in capsys.readouterr().err


def test_ingest_takes_every_row_and_rejects_none(tmp_path):
    def command(*words: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=REPOSITORY,
            env={**os.environ, "LAPIDARY_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    size = ["--users", "300", "--ads", "80", "--impressions-per-day", "2000"]
    days = ["--first-day", START.isoformat(), "--days", "3"]
    written = command("jobs.simulate_log", *days, *size)["rows"]
    resolved = command("jobs.resolve_config", "--recipe", "simulated", "--day", "2026-01-03")
    details = resolved["details"]
    assert Path(details["ready"]).is_file()
    ingested = command("jobs.ingest_log", "--config", details["config"])
    assert set(ingested["details"]["verdicts"]) == {"ok"}
    acts = written["impressions"] + written["outcomes"] + written["events"]
    expected = {
        "impressions": written["impressions"],
        "outcomes": written["outcomes"],
        "events": acts,
        "attributes_users": written["users"],
        "attributes_ads": written["ads"],
    }
    tables = tmp_path / "tables" / "simulated"
    held = {path.name: delta.read_days(str(path)).num_rows for path in tables.iterdir()}
    assert held == expected
