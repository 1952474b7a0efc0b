"""An increment reads a day of events, and of the days before only what is stored of them."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from jobs import delta
from jobs.build_features import packed_counts
from jobs.config import days_between
from jobs.spark.build import Build
from jobs.spark.counting import Counting
from tests.jobs.samples import COMMIT, contract, recipe, run_config
from validation.tables import EVENTS, entity_features

DAYS = days_between(date(2024, 3, 1), date(2024, 3, 8))
KINDS = {
    "string": pa.string(),
    "double": pa.float64(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
}
VALUES = {"string": "click", "double": 1.0, "bigint": 1, "boolean": False}


def row(columns):
    """A row of a table, without its day."""
    moment = datetime(2024, 3, 1, tzinfo=UTC)
    return pa.table(
        {
            name: pa.array([VALUES.get(kind, moment)], KINDS[kind])
            for name, kind in columns.items()
            if name != "day"
        }
    )


class RecordingBuild(Build):
    """Tells which days of which tables were read."""

    def __init__(self, config, spark):
        super().__init__(config, spark)
        self.reads = []

    def read(self, table, wanted=None, empty=None):
        self.reads.append((table, list(wanted or [])))
        return super().read(table, wanted, empty)

    def map_columns(self, table, wanted, columns, function, result, few_values=()):
        self.reads.append((table, list(wanted)))
        return super().map_columns(table, wanted, columns, function, result)


@pytest.fixture
def home(tmp_path):
    """A home with eight days of events, and features of all but the last."""
    config = run_config(tmp_path, recipe(), DAYS[-1])
    features = config.contract.features
    stored = row(entity_features(list(features.counts), features.windows_days, features.recency))
    for day in DAYS:
        delta.write_arrow_day(config.table("events"), row(EVENTS), day, ["event_id"], COMMIT)
        if day < DAYS[-1]:
            uri = config.table("entity_features")
            delta.write_arrow_day(uri, stored, day, ["entity", "key"], COMMIT)
    return tmp_path


def reads(spark, home, settings):
    """What an increment of the last day reads."""
    config = run_config(home, settings, DAYS[-1], first=DAYS[-1])
    tables = RecordingBuild(config, spark)
    packed_counts(tables, Counting.of(config.contract.features))
    return tables.reads


def test_an_increment_reads_one_day_of_events_and_the_stored_days_of_the_window(spark, home):
    assert reads(spark, home, recipe()) == [
        ("events", [DAYS[7]]),
        ("entity_features", DAYS[1:7]),
    ]


def test_a_moment_that_is_not_stored_is_found_in_the_events_again(spark, home):
    asked = recipe(contract(features__recency={"click": ["user"], "buy": ["user"]}))
    assert reads(spark, home, asked) == [("events", DAYS[1:])]
