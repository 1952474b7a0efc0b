"""The data of a run, out of small tables: arrivals, base rates, labels, lengths, versions."""

import math
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from jobs import delta
from jobs.promotions import commit, read_ledger
from jobs.report.data import Arrivals, read_data
from jobs.report.facts import gather
from jobs.report.lineage import changed_settings, read_lineage
from jobs.report.runs import Job, read_jobs
from jobs.report.tables import read_tables, read_vocabulary
from tests.jobs.report import samples
from tests.jobs.samples import COMMIT, DAY, hold, promotion, recipe, run_config

BEFORE = date(2024, 3, 4)
NOON = datetime(2024, 3, 5, 11, tzinfo=UTC)
VERTICALS = ["feed", "feed", "feed", "search"]
ENDS = [0, 2, 6, 1000]
"""Events before each impression."""


def examples(clicks, buys, number=4):
    """Impressions of which clicks are mature at once, and buys a day later."""
    return pa.table(
        {
            "domain": ["app"] * number,
            "vertical": VERTICALS[:number],
            "surface": VERTICALS[:number],
            "event_ts": pa.array([NOON] * number, pa.timestamp("us", "UTC")),
            "history_end": ENDS[:number],
            "label_click": pa.array(clicks, pa.int8()),
            "label_buy": pa.array(buys, pa.int8()),
            "mature_ts_click": pa.array([NOON] * number, pa.timestamp("us", "UTC")),
            "mature_ts_buy": pa.array(
                [NOON + timedelta(days=1)] * number, pa.timestamp("us", "UTC")
            ),
        }
    )


def write(config, table, rows, day):
    delta.write_arrow_day(config.table(table), rows, day, rows.column_names[:1], COMMIT)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two days of examples, of which the run wrote the last."""
    config = samples.first_run(tmp_path_factory.mktemp("home"))
    write(config, "examples", examples([1, 0], [1, 1], 2), BEFORE)
    write(config, "examples", examples([1, 0, 0, 0], [None] * 4), DAY)
    samples.job(config, "build_tables", outputs={"examples": 1})
    return read_data(config, read_tables(config, read_jobs(config)))


def test_rows_are_counted_by_arrival_day_and_verdict(tmp_path):
    config = samples.first_run(tmp_path)
    entries = [
        ("shown", "ok", 5),
        ("acts", "ok", 2),
        ("shown", "late", 1),
        ("shown", "duplicate", 3),
    ]
    samples.leave(
        config,
        "events",
        *({"feed": f, "day": "2024-03-05", "verdict": v, "rows": n} for f, v, n in entries),
    )
    (found,) = read_data(config, []).arrivals
    assert found == Arrivals("2024-03-05", 5, 2, 3, 0, {"late": 1})


def test_rates_of_days_are_in_order(data):
    assert [(day.day, day.rows) for day in data.rates] == [("2024-03-04", 2), ("2024-03-05", 4)]


def test_a_rate_is_a_share_of_the_labels(data):
    assert [day.rates["click"] for day in data.rates] == [0.5, 0.25]


def test_a_rate_without_labels_does_not_exist(data):
    assert math.isnan(data.rates[-1].rates["buy"])


def test_shares_are_of_the_gate_day(data):
    found = [(s.level, s.name, s.rows, s.share) for s in data.shares if s.level == "vertical"]
    assert found == [("vertical", "app-feed", 3, 0.75), ("vertical", "app-search", 1, 0.25)]


def test_labels_are_mature_once_their_window_has_closed(data):
    found = {m.task: (m.window, m.rows, m.mature, m.labelled) for m in data.maturity}
    assert found == {"click": ("30 min", 4, 4, 4), "buy": ("1 d", 4, 0, 0)}


def test_the_rate_before_is_of_earlier_days(data):
    assert [m.rate_before for m in data.maturity] == [0.5, 1.0]


def test_histories_are_cut_to_what_a_model_reads(data):
    (seen,) = data.lengths
    assert (seen.number, seen.empty, seen.quantiles[-1]) == (4, 1, 32)


def test_a_run_without_examples_has_none_of_these(tmp_path):
    config = samples.first_run(tmp_path)
    write(config, "examples", examples([1, 0], [1, 1], 2), DAY)
    # The table is there, of an earlier run; this one has not come to it.
    assert read_data(config, read_tables(config, [])).shares == []


def test_a_table_is_read_at_the_version_of_the_run(tmp_path):
    config = samples.first_run(tmp_path)
    hold(config, "labels", [BEFORE, DAY])
    (found,) = read_tables(config, [Job("x", state="done", inputs={"labels": 0})])
    assert (found.version, found.pinned, found.written) == (0, True, False)
    assert (found.rows, found.days) == (1, ["2024-03-04"])


def test_a_table_that_the_run_did_not_touch_is_the_newest(tmp_path):
    config = samples.first_run(tmp_path)
    hold(config, "labels", [BEFORE, DAY])
    (found,) = read_tables(config, [])
    assert (found.version, found.pinned) == (1, False)


def test_what_was_written_last_is_what_the_run_left(tmp_path):
    config = samples.first_run(tmp_path)
    hold(config, "labels", [BEFORE, DAY])
    late = Job("b", state="done", started=9, outputs={"labels": 1})
    early = Job("a", state="done", started=1, outputs={"labels": 0}, inputs={"labels": 0})
    (found,) = read_tables(config, [late, early])
    assert (found.version, found.written) == (1, True)


def test_a_vocabulary_counts_the_row_for_unknown_values(tmp_path):
    config = samples.first_run(tmp_path)
    fields = ["ad_id", "ad_id", "ad_id", "ad_id", "hour"]
    runs = ["run", "old", "run", "old", "old"]
    # The first ad was evicted, and came back.
    rows = pa.table({"field": fields, "row": [2, 1, -1, 1, 1], "run_id": runs})
    write(config, "vocabulary", rows, DAY)
    tables = read_tables(config, [Job("x", state="done", inputs={"vocabulary": 0})])
    found = [(v.field, v.rows, v.admitted) for v in read_vocabulary(config, tables)]
    assert found == [("ad_id", 3, 1), ("hour", 2, 0)]


def test_settings_are_held_against_the_recipe(tmp_path):
    settings = recipe(name="tiny")
    config = run_config(tmp_path, settings, DAY)
    found = {setting.name: setting.run for setting in changed_settings(config)}
    assert found["domain_student.training.network.num_events"] == "null"
    assert "teacher.batch_size" not in found


def test_a_recipe_that_is_gone_has_nothing_to_differ_from(tmp_path):
    lineage = read_lineage(samples.first_run(tmp_path))
    assert (lineage.recipe_known, lineage.settings) == (False, [])


def test_the_newest_promotions_come_first(tmp_path):
    config = samples.first_run(tmp_path)
    uri = config.table("promotions")
    for number in range(1, 11):
        previous = number - 1 or None
        commit(read_ledger(uri), promotion(number, NOON, previous), previous)
    lineage = gather(config).lineage
    assert [row.number for row in lineage.ledger] == [10, 9, 8, 7, 6, 5, 4, 3]
    assert lineage.serving is not None
    assert lineage.serving.number == 10
