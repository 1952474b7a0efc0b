"""Attributes are those that were known at the moment."""

import pytest

from jobs.spark.attributes import with_attributes
from tests.jobs.spark.frames import by, frame, utc

STATES = "entity_id string, known_ts timestamp, user_city string, user_plan string"


def known(spark, states, *queries):
    """Attributes of (id, user, moment)."""
    rows = frame(spark, "id string, user_id string, at timestamp", *queries)
    found = with_attributes(
        rows, frame(spark, STATES, *states), "user_id", "at", ["user_city", "user_plan"]
    )
    assert found.columns == [*rows.columns, "user_city", "user_plan"]
    return by(found, "id", "user_city", "user_plan")


def test_attributes_are_those_known_strictly_before(spark):
    states = [("u", utc(2), "Rome", None), ("u", utc(4), None, "gold"), ("v", utc(1), "Bonn", "x")]
    assert known(
        spark,
        states,
        ("before", "u", utc(1)),
        ("at once", "u", utc(2)),
        ("after", "u", utc(2, 0, 0, 0, 1)),
        ("later", "u", utc(9)),
        ("stranger", "w", utc(9)),
        ("nobody", None, utc(9)),
    ) == {
        "before": (None, None),
        "at once": (None, None),
        "after": ("Rome", None),
        "later": (None, "gold"),
        "stranger": (None, None),
        "nobody": (None, None),
    }


@pytest.mark.parametrize("order", [1, -1])
def test_states_that_repeat_themselves_do_not_hide_a_change(spark, order):
    daily = [("u", utc(n), city, None) for n, city in enumerate("AAABBA", start=1)]
    queries = [(str(n), "u", utc(n, 12)) for n in range(1, 7)]
    found = known(spark, daily[::order] + daily[:2], *queries)
    assert "".join(found[str(n)][0] for n in range(1, 7)) == "AAABBA"
