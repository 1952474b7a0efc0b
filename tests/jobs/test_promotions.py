"""The ledger: of two promotions that saw the same champion one wins, and a rollback goes back."""

import dataclasses
from datetime import UTC, datetime

import pytest

from jobs import promotions
from jobs.errors import ConfigError, PromotionConflict
from jobs.promotions import commit, read_ledger, rollback
from tests.jobs.samples import promotion


def learnt(day: int) -> datetime:
    return datetime(2024, 3, day, 23, 0, 0, 1, tzinfo=UTC)


@pytest.fixture
def uri(tmp_path):
    """A ledger of three promotions."""
    location = str(tmp_path / "promotions")
    for number in (1, 2, 3):
        previous = None if number == 1 else number - 1
        row = promotion(number, learnt(number), previous)
        commit(read_ledger(location), row, expected_champion=previous)
    return location


def test_a_ledger_that_is_not_there_has_no_champion(tmp_path):
    ledger = read_ledger(str(tmp_path / "promotions"))
    assert ledger.rows == ()
    assert ledger.champion is None


def test_rows_are_read_as_they_were_written(uri):
    ledger = read_ledger(uri)
    assert ledger.rows == tuple(promotion(n, learnt(n), n - 1 or None) for n in (1, 2, 3))
    assert ledger.champion == ledger.row(3)


def test_a_promotion_judged_against_another_champion_is_refused(uri):
    with pytest.raises(PromotionConflict, match="judged against champion 2, the champion is now 3"):
        commit(read_ledger(uri), promotion(4, learnt(4), 2), expected_champion=2)
    assert read_ledger(uri).champion == promotion(3, learnt(3), 2)


@pytest.mark.parametrize("start", ["empty", "three rows"])
def test_of_two_promotions_from_one_snapshot_the_second_fails(tmp_path, uri, start):
    location = uri if start == "three rows" else str(tmp_path / "none")
    one, other = read_ledger(location), read_ledger(location)
    champion = None if one.champion is None else one.champion.number
    number = (champion or 0) + 1
    commit(one, promotion(number, learnt(5), champion), champion)
    with pytest.raises(PromotionConflict, match=f"another writer committed {number} first"):
        commit(other, promotion(number, learnt(6), champion), champion)
    assert len(read_ledger(location).rows) == number
    assert read_ledger(location).row(number).trained_until == learnt(5)


def test_a_number_that_does_not_follow_is_refused(uri):
    with pytest.raises(PromotionConflict, match="transaction 5 does not follow 3"):
        commit(read_ledger(uri), promotion(5, learnt(5), 3), expected_champion=3)


def test_rollbacks_walk_back_family_by_family(uri):
    for number, target in ((4, 2), (5, 1)):
        row = rollback(uri, "someone", "bad figures")
        expected = {
            **dataclasses.asdict(promotion(target, learnt(target), target - 1 or None)),
            "number": number,
            "action": "rollback",
            "who": "someone",
            "reason": "bad figures",
            "at": row.at,
        }
        assert dataclasses.asdict(row) == expected
        assert read_ledger(uri).champion == row
    with pytest.raises(ConfigError, match="no earlier family to roll back to; nothing was changed"):
        rollback(uri, "someone", "once more")
    assert len(read_ledger(uri).rows) == 5


def test_after_a_rollback_the_next_promotion_can_be_rolled_back_too(uri):
    rollback(uri, "someone", "bad figures")
    commit(read_ledger(uri), promotion(5, learnt(5), 4), expected_champion=4)
    row = rollback(uri, "someone", "worse")
    assert (row.number, row.members) == (6, promotion(2, learnt(2)).members)
    assert row.previous == 1


def test_an_empty_ledger_has_nothing_to_roll_back_to(tmp_path):
    with pytest.raises(ConfigError, match="no earlier family"):
        rollback(str(tmp_path / "promotions"), "someone", "why not")
    assert not (tmp_path / "promotions").exists()


def test_a_promotion_during_a_rollback_makes_it_fail(uri, monkeypatch):
    def overtaken(location):
        ledger = read_ledger(location)
        commit(read_ledger(location), promotion(4, learnt(4), 3), expected_champion=3)
        return ledger

    monkeypatch.setattr(promotions, "read_ledger", overtaken)
    with pytest.raises(PromotionConflict, match="another writer committed 4 first"):
        rollback(uri, "someone", "too late")
    assert read_ledger(uri).champion == promotion(4, learnt(4), 3)
