"""A table version is pinned by every registered model that was trained on it."""

from datetime import UTC, datetime

import pytest

from jobs import pins, promotions
from jobs.errors import ConfigError
from jobs.pins import read_pins
from jobs.trained import Trained
from tests.jobs.samples import promotion, recipe

OLD = Trained("shop-teacher", "1", {"examples": 4, "vocabulary": 2})
NEW = Trained("shop-teacher", "2", {"examples": 6, "vocabulary": 2})


@pytest.fixture
def registered(monkeypatch):
    """Registered versions of the family."""
    held = []
    monkeypatch.setattr(pins, "trained_versions", lambda *_: held)
    return held


def promote(home, number, previous):
    uri = f"{home}/tables/shop/promotions"
    row = promotion(number, datetime(2024, 1, number, tzinfo=UTC), previous)
    promotions.commit(promotions.read_ledger(uri), row, previous)


def test_every_registered_version_pins_what_it_was_trained_on(registered, tmp_path):
    assert read_pins(recipe(), str(tmp_path)) == {}
    registered += [OLD, NEW]
    assert read_pins(recipe(), str(tmp_path)) == {
        "examples": {4: [OLD], 6: [NEW]},
        "vocabulary": {2: [OLD, NEW]},
    }


def test_a_family_that_serves_and_is_not_registered_is_refused(registered, tmp_path):
    for number in (1, 2, 3):
        promote(tmp_path, number, number - 1 or None)
    registered += [Trained("shop-teacher", "3", {"examples": 4})]
    message = "family 2 names shop-teacher version 2, which the registry lacks"
    with pytest.raises(ConfigError, match=message):
        read_pins(recipe(), str(tmp_path))
    # Family 1 neither serves nor can be rolled back to: its versions may have been deleted.
    registered += [NEW]
    assert set(read_pins(recipe(), str(tmp_path))["examples"]) == {4, 6}
