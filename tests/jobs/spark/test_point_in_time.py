"""The one rule of every table, against a slow reference: what was not known then does not count.

Random logs hold late rows, copies that say something else, corrections by rows of their own,
attributes that change, moments that coincide to the microsecond, days that begin and end between
two events, and users with more events a day than a timeline keeps.
"""

import itertools
import random
from collections.abc import Sequence
from datetime import date, timedelta
from functools import cached_property
from typing import NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from jobs.build_examples import packed_examples, shown_impressions
from jobs.build_features import TABLE as FEATURES
from jobs.build_features import packed_counts
from jobs.build_labels import label_frame
from jobs.build_timelines import histories, timeline_cut
from jobs.config import Timeline, Windows, day_start, days_between
from jobs.spark import ingest
from jobs.spark.build import Build
from jobs.spark.counting import Counting
from jobs.spark.daily_counts import feature_batches
from jobs.spark.examples import count_feature_names, example_batches, example_columns
from jobs.spark.timelines import timeline_batches
from tests.jobs.samples import contract, hold, recipe, run_config
from tests.jobs.spark.frames import micros
from tests.jobs.spark.judging import raw
from tests.reference import point_in_time as slow
from validation.tables import TIMELINES, entity_features, recency_columns

MICROS_A_DAY = 86_400_000_000
NUM_DAYS = 4
ENTITIES: dict[str, slow.Key] = {
    "all": lambda *_: (),
    "user": lambda user, ad, place, category, plan: (user,),
    "ad": lambda user, ad, place, category, plan: (ad,),
    "surface": lambda user, ad, place, category, plan: (place,),
    "category": lambda user, ad, place, category, plan: (category or "",),
    "plan_surface": lambda user, ad, place, category, plan: (plan or "", place),
}


class Knobs(NamedTuple):
    """What a random log and its configuration are drawn from."""

    seed: int
    zone: str
    last_day: date
    num_events: int
    lookback_days: int
    max_late_days: int


# The last days hold 23, 24 or 25 hours.
KNOBS = st.builds(
    Knobs,
    seed=st.integers(0, 2**32),
    zone=st.just("Europe/Berlin"),
    last_day=st.sampled_from([date(2024, 4, 1), date(2024, 3, 8), date(2024, 10, 28)]),
    num_events=st.integers(1, 3),
    lookback_days=st.integers(1, 4),
    max_late_days=st.integers(0, 2),
) | st.builds(
    Knobs,
    seed=st.integers(0, 2**32),
    zone=st.sampled_from(["Asia/Kathmandu", "America/Sao_Paulo"]),
    last_day=st.just(date(2018, 11, 5)),
    num_events=st.just(2),
    lookback_days=st.just(2),
    max_late_days=st.just(1),
)


def random_log(knobs: Knobs) -> slow.Log:
    """A log of four days, whose moments come from few instants so that they coincide."""
    draw = random.Random(knobs.seed)
    days = days_between(knobs.last_day - timedelta(days=NUM_DAYS - 1), knobs.last_day)
    starts = micros(day_start(day, knobs.zone) for day in days)
    borders = [start + shift for start in starts for shift in (-1, 0, 1)]
    first, end = starts[0], starts[-1] + MICROS_A_DAY
    instants = [m for m in borders if m >= first] + [draw.randrange(first, end) for _ in range(25)]
    delays = [0, 0, 0, 1, 600_000_000, MICROS_A_DAY // 2, MICROS_A_DAY, 2 * MICROS_A_DAY, -1]

    def at() -> int:
        return draw.choice(instants) + draw.choice([0, 0, 0, 1, draw.randrange(3_600_000_000)])

    def copies(rows: list, change: str, values: Sequence[str]) -> list:
        """Some rows again: as they were, or later with another value."""
        again = draw.sample(rows, len(rows) // 4)
        later = [row._replace(known=row.known + draw.choice([1, MICROS_A_DAY])) for row in again]
        later = [row._replace(**{change: draw.choice(values)}) for row in later]
        out = rows + draw.sample(rows, len(rows) // 6) + later
        draw.shuffle(out)
        return out

    users = [f"u{n}" for n in range(10)]
    ads = [f"a{n}" for n in range(4)]
    places = ["feed", "search"]
    shown = []
    for n in range(60):
        moment = at()
        # User 0 does most of what is done: more than four times N a day.
        user = draw.choice([*users, "u0", "u0"])
        delay = draw.choice(delays)
        shown.append(
            slow.Shown(str(n), user, draw.choice(ads), draw.choice(places), moment, moment + delay)
        )
    acts = []
    for n in range(60):
        of = draw.choice(shown)
        wait = draw.choice(
            [0, 1, 1_800_000_000, 1_800_000_001, MICROS_A_DAY, draw.randrange(end - first)]
        )
        moment = of.at + wait
        of_id = draw.choice([of.id, of.id, of.id, "lost"])
        what = draw.choice(["click", "buy", "basket"])
        acts.append(slow.Act(str(n), of_id, what, moment, moment + draw.choice(delays)))
    visits = []
    for n in range(60):
        moment = at()
        user = draw.choice([*users, *["u0"] * 8])
        what = draw.choice(["visit", "visit", "sleep"])
        known = moment + draw.choice(delays)
        visits.append(
            slow.Visit(str(n), user, draw.choice(ads), draw.choice(places), what, moment, known)
        )
    # A correction is a new row that says what the first should have said.
    visits += [
        row._replace(id=f"{row.id}-again", item=draw.choice(ads), known=row.known + 3_600_000_000)
        for row in draw.sample(visits, 6)
    ]
    plans = [
        slow.Plan(draw.choice(users), draw.choice(["free", "gold", None]), at()) for _ in range(12)
    ]
    states = [
        slow.State(draw.choice(ads), draw.choice(["x", "y", None]), draw.choice([first - 5, at()]))
        for _ in range(12)
    ]
    return slow.Log(
        copies(shown, "user", users),
        copies(acts, "what", ["click", "buy"]),
        copies(visits, "item", ads),
        states,
        knobs.zone,
        knobs.max_late_days,
        knobs.last_day,
        plans,
    )


class MemoryBuild(Build):
    """Tables as frames: the jobs' own way of joining them, without a write between."""

    def __init__(self, config, spark, frames) -> None:
        super().__init__(config, spark)
        self.frames = frames

    @cached_property
    def shown_days(self) -> list[date]:
        return self.config.days

    def read(self, table, wanted=None, empty=None):
        rows = self.frames[table]
        return rows if wanted is None else rows.where(F.col("day").isin(list(wanted)))

    def map_columns(self, table, wanted, columns, function, result, few_values=()):
        return self.read(table, wanted).select(*columns).mapInArrow(function, ddl(result))


def ddl(columns) -> str:
    return ", ".join(f"`{name}` {kind}" for name, kind in columns.items())


def settings_of(knobs: Knobs):
    log = contract(
        time_zone=knobs.zone,
        first_day=knobs.last_day - timedelta(days=NUM_DAYS - 1),
        feeds__shown__context={"position": {"expr": "1"}},
        feeds__ads={
            "kind": "attributes",
            "entity": "ad",
            "path": "ads.parquet",
            "key": "ad",
            "known_ts": {"column": "known", "unit": "us"},
            "attributes": {"category": "category"},
        },
        tasks__clicked={
            "outcomes": ["buy", "basket"],
            "window": "1d",
            "attribution": "click_through",
            "zipper_windows": ["30m", "1d", "2d"],
            "zipper_shares": [0.5, 0.3, 0.2],
            "zipper_seed": 7,
        },
        feeds__users={
            "kind": "attributes",
            "entity": "user",
            "path": "users.parquet",
            "key": "user",
            "known_ts": {"column": "known", "unit": "us"},
            "attributes": {"plan": "plan"},
        },
        features__entities__user_surface=None,
        features__entities__category=["ad_category"],
        features__entities__plan_surface=["user_plan", "surface"],
        features__recency={"impression": ["user", "category"], "buy": list(ENTITIES)},
        features__windows_days=[1, 3],
    )
    return recipe(
        log,
        windows=Windows(max_late_days=knobs.max_late_days),
        timeline=Timeline(num_events=knobs.num_events, lookback_days=knobs.lookback_days),
    )


def repairs_of(knobs: Knobs) -> dict[date, date]:
    """Some of the days, each repaired until some later day."""
    draw = random.Random(knobs.seed + 1)
    days = days_between(knobs.last_day - timedelta(days=NUM_DAYS), knobs.last_day)
    return {
        day: draw.choice([knobs.last_day, draw.choice([d for d in days if d >= day])])
        for day in draw.sample(days, 4)
    }


def built(spark, log: slow.Log, config, repaired) -> MemoryBuild:
    """Ingest a log, in memory, and build what depends on it."""
    by_name = config.contract.feeds
    late = config.windows.max_late_days

    def rows(kind, found):
        numbers = {"at", "known"}
        schema = ", ".join(f"{n} {'long' if n in numbers else 'string'}" for n in kind._fields)
        return raw(spark, schema, *found)

    judged = ingest.judge_impressions(rows(slow.Shown, log.shown), config.contract, late)
    shown = ingest.impressions(judged, config.contract)
    shown = shown.where(F.col("day") <= log.last_day).persist()
    acts, visits = by_name["acts"], by_name["visits"]
    happened = ingest.outcomes(
        ingest.judge_outcomes(rows(slow.Act, log.acts), "acts", acts, config.contract)
    ).where(F.col("day") <= log.last_day)
    organic = ingest.organic_events(
        ingest.judge_events(rows(slow.Visit, log.visits), "visits", visits, config.contract)
    )
    events = ingest.impression_events(shown).unionByName(ingest.outcome_events(happened, shown))
    events = events.unionByName(organic).where(F.col("day") <= log.last_day).persist()
    frames = {"impressions": shown, "outcomes": happened, "events": events}
    for name, kind, states in (("ads", slow.State, log.states), ("users", slow.Plan, log.plans)):
        feed = by_name[name]
        judged = ingest.judge_attributes(rows(kind, states), feed, config.contract)
        frames[f"attributes_{name}"] = ingest.attributes(judged, feed)
    tables = MemoryBuild(config, spark, frames)
    tables.frames["labels"] = label_frame(tables, repaired)
    counting = Counting.of(config.contract.features)
    tables.frames[FEATURES] = packed_counts(tables, counting).mapInArrow(
        feature_batches(config.days, counting),
        ddl(entity_features(list(counting.counts), counting.windows_days, counting.recency)),
    )
    tables.frames["timelines"] = (
        histories(tables, config.days)
        .mapInArrow(timeline_batches(config.days, timeline_cut(config.timeline)), ddl(TIMELINES))
        .persist()
    )
    return tables


HOMES = itertools.count()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    # Every step of shrinking would start Spark jobs; a failing log is small enough to read.
    phases=[Phase.explicit, Phase.generate],
)
@given(knobs=KNOBS)
def test_examples_and_timelines_equal_the_slow_reference(spark, home, knobs):
    log = random_log(knobs)
    config = run_config(home / str(next(HOMES)), settings_of(knobs), knobs.last_day)
    # The days that jobs look up in the tables themselves.
    for table in ("impressions", "events"):
        hold(config, table, config.days)
    repaired = repairs_of(knobs)
    tables = built(spark, log, config, repaired)
    try:
        days = tables.shown_days
        packed = packed_examples(tables, shown_impressions(tables, days), days)
        build = example_batches(Counting.of(config.contract.features), config.contract)
        kinds = ddl(example_columns(config.contract))
        examples = packed.mapInArrow(build, kinds).toArrow().to_pylist()
        stored = tables.frames["timelines"].toArrow().to_pylist()
    finally:
        spark.catalog.clearCache()
    compare_timelines(log, config, stored)
    compare_examples(log, config, examples, stored)
    compare_labels(log, config, examples, repaired)


def compare_timelines(log, config, stored):
    expected = slow.timelines(
        log,
        log.events_of(config.contract.timeline_event_types),
        config.days,
        config.timeline.num_events,
        config.timeline.lookback_days,
    )
    found = {(row["user_id"], row["day"]): row for row in stored}
    assert len(found) == len(stored)
    assert set(found) == set(expected)
    for key, timeline in expected.items():
        row = found[key]
        assert (row["num_prior"], row["num_cut"]) == (timeline.num_prior, timeline.num_cut), key
        columns = [
            row["event_type"],
            row["item_id"],
            row["surface"],
            micros(row["event_ts"]),
            micros(row["known_ts"]),
        ]
        assert list(zip(*columns, strict=True)) == [
            (e.what, e.item, e.place, e.at, e.known) for e in timeline.events
        ], key


def compare_examples(log, config, examples, stored):
    shown = {i: r for i, r in log.impressions().items() if log.day(r.at) in config.days}
    assert sorted(row["impression_id"] for row in examples) == sorted(shown)
    features, n = config.contract.features, config.timeline.num_events
    events = log.events()
    kept = log.events_of(config.contract.timeline_event_types)
    timelines = {(row["user_id"], row["day"]): row for row in stored}
    longest = max(features.windows_days)
    for row in examples:
        of = shown[row["impression_id"]]
        counts = {
            f"{entity}_{name}_{days}d": len(slow.seen(log, events, of, key, types, days))
            for entity, key in ENTITIES.items()
            for name, types in features.counts.items()
            for days in features.windows_days
        }
        assert list(counts) == count_feature_names(config.contract)
        assert {name: row[name] for name in counts} == counts, of
        moments = {
            f"{entity}_{name}_last_ts": max(
                slow.seen(log, events, of, ENTITIES[entity], features.counts[name], longest),
                default=None,
            )
            for name, entities in features.recency.items()
            for entity in entities
        }
        assert list(moments) == recency_columns(features.recency)
        assert dict(zip(moments, micros(row[n] for n in moments), strict=True)) == moments, of
        # What a model reads are the N events that were known last before the impression.
        line = timelines[row["user_id"], row["day"]]
        end = row["history_end"]
        assert 0 <= end <= len(line["known_ts"])
        seen = line["event_ts"][max(end - n, 0) : end]
        today = sum(e.user == of.user and e.day == row["day"] and e.known < of.at for e in kept)
        assert end == line["num_prior"] + min(today, slow.DAY_FACTOR * n), of
        if today <= slow.DAY_FACTOR * n:
            expected = slow.history(log, kept, of, n, config.timeline.lookback_days)
            assert micros(seen) == [e.at for e in expected], of


def compare_labels(log, config, examples, repaired):
    shown = log.impressions()
    for row in examples:
        of = shown[row["impression_id"]]
        for name, task in config.contract.tasks.items():
            clicks = task.clicks if task.attribution == "click_through" else None
            windows = {"": round(task.window.total_seconds()) * 1_000_000}
            if task.zipper_windows:
                micros_of = [round(w.total_seconds()) * 1_000_000 for w in task.zipper_windows]
                drawn = slow.zipper_micros(of.id, task.zipper_seed, micros_of, task.zipper_shares)
                assert row[f"zipper_seconds_{name}"] * 1_000_000 == drawn
                windows["zipper_"] = drawn
            for kind, window in windows.items():
                label = slow.label(log, of, task.outcomes, window, clicks, repaired)
                assert row[f"{kind}label_{name}"] == label, (kind, name, of)
                closes = max(of.at + window, of.known)
                assert micros([row[f"{kind}mature_ts_{name}"]]) == [closes]


def test_random_logs_hold_what_they_are_meant_to():
    knobs = [Knobs(seed, "Europe/Berlin", date(2024, 4, 1), 1, 2, 1) for seed in range(20)]
    logs = [random_log(one) for one in knobs]
    found = [log.events() for log in logs]
    cut = [
        slow.timeline(events, "u0", log.last_day, 1, 2).num_cut
        for log, events in zip(logs, found, strict=True)
    ]
    assert sum(n > 0 for n in cut) > 10
    ties = [len(events) - len({e.known for e in events}) for events in found]
    assert min(ties) > 10
    assert all(len(log.impressions()) < len({row.id for row in log.shown}) for log in logs)
    rows = [
        (log, one, row)
        for log, one in zip(logs, knobs, strict=True)
        for row in log.impressions().values()
    ]

    def labels(clicks=None, repair=False):
        return [
            slow.label(log, row, [what], window, clicks, repairs_of(one) if repair else None)
            for log, one, row in rows
            for what, window in (("click", 1_800_000_000), ("buy", MICROS_A_DAY))
        ]

    plain = labels()
    assert {0, 1, None} == set(plain)
    assert sum(a != b for a, b in zip(plain, labels(repair=True), strict=True)) > 10
    assert sum(a != b for a, b in zip(plain, labels(clicks=["click"]), strict=True)) > 10
    assert all(any(row.id.endswith("-again") for row in log.visits) for log in logs)
    later = MICROS_A_DAY**2
    assert any(log.plan(r.user, r.at) != log.plan(r.user, later) for log, _, r in rows)
    assert any(log.category(r.ad, r.at) != log.category(r.ad, later) for log, _, r in rows)
