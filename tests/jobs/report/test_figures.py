"""How figures are written."""

import math
from datetime import UTC, datetime

import pytest

from jobs.report import figures
from jobs.report.figures import Interval

NAN = math.nan


@pytest.mark.parametrize(
    "written",
    [
        figures.decimal(NAN),
        figures.count(NAN),
        figures.count(None),
        figures.rate(NAN),
        figures.change(NAN),
        figures.duration(NAN),
        figures.plain(NAN),
        figures.plain(None),
    ],
)
def test_a_figure_that_does_not_exist_is_a_dash(written):
    assert written == "–"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0123, "+1.23 %"),
        (-0.0123, "−1.23 %"),
        (0.0, "0.00 %"),
        # What rounds to zero has no direction.
        (0.00004, "0.00 %"),
        (-0.00004, "0.00 %"),
        (1.5, "+150.00 %"),
    ],
)
def test_a_change_has_its_sign(value, written):
    assert figures.change(value) == written


def test_a_metric_has_four_decimals_and_a_true_minus():
    assert figures.decimal(-0.12345) == "−0.1235"


def test_a_count_has_separators():
    assert figures.count(1234567) == "1,234,567"


def test_a_rate_is_a_percentage():
    assert figures.rate(0.0725) == "7.2 %"


@pytest.mark.parametrize(
    ("num_bytes", "written"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (2_713_403_392, "2.7 GB"),
        (999_960_000, "1.0 GB"),
        (5e12, "5.0 TB"),
    ],
)
def test_a_size_is_in_decimal_units(num_bytes, written):
    assert figures.size(num_bytes) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (119.6, "2 min 00 s"),
        (241, "4 min 01 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_a_duration_has_the_units_that_it_needs(seconds, written):
    assert figures.duration(seconds) == written


def test_an_interval_of_a_metric_has_both_bounds():
    assert figures.spread(Interval(0.85, 0.84, 0.86)) == "0.8400 to 0.8600"


def test_an_interval_of_a_change_says_percent_once():
    assert figures.change_spread(Interval(0, -0.01, 0.02)) == "−1.00 to +2.00 %"


def test_an_interval_that_lacks_a_bound_is_a_dash():
    assert figures.change_spread(Interval(0.1, NAN, 0.2)) == "–"


def test_an_instant_is_told_in_the_zone_asked_for():
    at = datetime(2024, 3, 4, 23, 30, tzinfo=UTC)
    assert figures.moment(at, "Europe/Berlin") == "2024-03-05 00:30"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "yes"),
        (False, "no"),
        (12345, "12,345"),
        (-12345, "−12,345"),
        (0.767718538, "0.7677"),
        (-0.00036977, "−0.0003698"),
        ("0.001 to 12345.678", "0.001 to 12,346"),
        ("3 of 17 break it", "3 of 17 break it"),
        ("from here to there", "from here to there"),
    ],
)
def test_what_a_check_found_is_written_by_its_type(value, written):
    assert figures.plain(value) == written


@pytest.mark.parametrize(("value", "read"), [(1, 1.0), (0.5, 0.5)])
def test_a_number_in_json_is_a_figure(value, read):
    assert figures.number(value) == read


@pytest.mark.parametrize("value", [None, "0.5", []])
def test_what_is_no_number_in_json_does_not_exist(value):
    assert math.isnan(figures.number(value))
