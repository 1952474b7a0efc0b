"""Which days a run touches, by arrival and by impression."""

from datetime import date

import pytest

from jobs.config import Windows, days_between
from jobs.days import arrival_days, last_arrival_day, outcome_days, shown_days
from jobs.errors import ConfigError
from tests.jobs.samples import contract, hold, recipe, run_config

MARCH = {day.day: day for day in days_between(date(2024, 3, 1), date(2024, 3, 31))}


def config_of(home, day, first=None, late=1, window="1d"):
    settings = recipe(contract(tasks__buy__window=window), windows=Windows(max_late_days=late))
    return run_config(home, settings, day, first=first)


def numbers(days):
    return [day.day for day in days]


@pytest.mark.parametrize(
    ("window", "late", "shown"),
    [
        ("30m", 0, [7, 8]),  # the last half hour of day 7 matures on day 8
        ("30m", 2, [6, 7, 8]),
        ("1d", 0, [7, 8]),
        ("3d", 1, [5, 6, 7, 8]),
        ("25h", 0, [6, 7, 8]),
    ],
)
def test_a_run_touches_the_impressions_that_arrive_late_or_mature_in_it(
    tmp_path, window, late, shown
):
    config = config_of(tmp_path, MARCH[8], MARCH[8], late, window)
    hold(config, "impressions", days_between(MARCH[1], MARCH[8]))
    assert numbers(shown_days(config)) == shown


def test_a_window_of_a_day_spans_three_days_where_one_has_23_hours(tmp_path):
    first = date(2024, 4, 1)
    config = config_of(tmp_path, first, first)
    hold(config, "impressions", [MARCH[28], first])
    # From 23:30 on 30 March, 24 hours last until 00:30 on 1 April.
    assert shown_days(config)[0] == MARCH[30]
    config = config_of(tmp_path, MARCH[30], MARCH[30])
    hold(config, "events", [first])
    assert outcome_days(config)[-1] == first


def test_nothing_is_touched_before_the_first_arrival(tmp_path):
    config = config_of(tmp_path, MARCH[8])
    hold(config, "impressions", [MARCH[7], MARCH[8]])
    assert numbers(shown_days(config)) == [6, 7, 8]


def test_a_daily_run_reads_no_later_arrivals_and_a_backfill_does(tmp_path):
    config = config_of(tmp_path, MARCH[8], MARCH[8], late=2, window="3d")
    hold(config, "impressions", days_between(MARCH[1], MARCH[8]))
    hold(config, "events", days_between(MARCH[1], MARCH[8]))
    assert numbers(arrival_days(config)) == numbers(outcome_days(config)) == [5, 6, 7, 8]
    assert last_arrival_day(config) == MARCH[8]
    hold(config, "events", days_between(MARCH[9], MARCH[20]))
    assert numbers(arrival_days(config)) == [5, 6, 7, 8, 9, 10]
    assert numbers(outcome_days(config)) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert last_arrival_day(config) == MARCH[20]


@pytest.mark.parametrize("held", [[], [MARCH[20]]])
def test_a_run_without_any_impression_so_far_is_told(tmp_path, held):
    config = config_of(tmp_path, MARCH[8])
    hold(config, "impressions", held)
    with pytest.raises(ConfigError, match="impressions: the table holds nothing up to 2024-03-08"):
        shown_days(config)
