"""Values are counted before the gate window, evicted when out of use, and never by a backfill."""

from datetime import date

import pyarrow as pa
import pytest

from jobs import build_vocabulary, delta
from jobs.build_vocabulary import eviction_days
from jobs.config import day_start
from jobs.vocabulary import admit, fields, read_vocabulary
from tests.jobs.samples import COMMIT, ZONE, contract, recipe, run_config

SETTINGS = recipe(contract(features__vocabulary={"min_count": 2, "evict_after_days": 2}))
ADS = {1: ["old", "old", "old", "kept", "kept"], 2: ["kept"], 3: ["late", "late"]}


def hold(config, number, ads):
    """Make `events` and `examples` hold a day on which one user was shown ads at noon."""
    day = date(2024, 3, number)
    columns = {
        "known_ts": pa.array([day_start(day, ZONE)] * len(ads), pa.timestamp("us", "UTC")),
        "user_id": ["u"] * len(ads),
        "surface": ["feed"] * len(ads),
    }
    events = columns | {"item_id": ads, "event_type": ["impression"] * len(ads)}
    examples = columns | {"ad_id": ads, "hour": ["12"] * len(ads)}
    for table, rows in (("events", events), ("examples", examples)):
        delta.write_arrow_day(config.table(table), pa.table(rows), day, ["surface"], COMMIT)


@pytest.fixture
def home(tmp_path):
    """A home with three days, whose first run has admitted two ads."""
    config = run_config(tmp_path, SETTINGS, date(2024, 3, 3))
    for number in (1, 2, 3):
        hold(config, number, ADS[number])
    candidates = [("ad_id", "kept", 6), ("ad_id", "old", 6)]
    admit(config.table("vocabulary"), candidates, SETTINGS.contract, "run")
    return tmp_path


def run(home, spark, number):
    """(admitted, evicted) by the run of a day."""
    config = run_config(home, SETTINGS, date(2024, 3, number))
    summary = build_vocabulary.build(config, spark)
    return summary.rows["vocabulary"], summary.details["evicted"]


def ads(home):
    """Ads in the order of their rows, and those that are evicted."""
    held = read_vocabulary(run_config(home, SETTINGS, date(2024, 3, 3)).table("vocabulary"))
    values = held.values["ad_id"].to_pylist()
    return values, [values[row - 1] for row in held.evicted.get("ad_id", [])]


def test_a_value_out_of_use_is_evicted_and_regains_its_row(spark, home):
    config = run_config(home, SETTINGS, date(2024, 3, 3))
    for number, shown in ((4, ["kept", "late"]), (5, ["old", "old"])):
        hold(config, number, shown)
    # Admitted are an ad, the user, surface, hour and event type; the gate window does not count.
    assert run(home, spark, 5) == (5, 1)
    assert ads(home) == (["kept", "old", "late"], ["old"])
    hold(config, 6, ["kept"])
    assert run(home, spark, 6) == (1, 0)
    assert ads(home) == (["kept", "old", "late"], [])


@pytest.mark.parametrize(
    ("day", "days"),
    [
        (3, {name: date(2024, 3, 1) for name in fields(SETTINGS.contract)}),
        (2, {}),  # a backfill: it has not seen the 3rd
    ],
)
def test_only_a_run_of_the_newest_day_evicts(home, day, days):
    assert eviction_days(run_config(home, SETTINGS, date(2024, 3, day))) == days


def test_a_field_is_evicted_by_its_own_rule_where_the_log_reaches_back(home):
    rules = {"ad_id": {"evict_after_days": 1}, "user_id": {"evict_after_days": 3}}
    settings = recipe(contract(features__vocabulary_by_field=rules))
    found = eviction_days(run_config(home, settings, date(2024, 3, 3)))
    assert found == {"ad_id": date(2024, 3, 2)}
