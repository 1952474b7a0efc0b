"""The contracts of the frames that the gates judge."""

import pytest

from tests.validation.samples import event_days, good_frames
from validation.frames import PARTS, checked
from validation.gates import paired


def test_good_frames_keep_their_contract():
    frames = good_frames()
    assert {gate: list(parts) for gate, parts in frames.items()} == {
        gate: list(parts) for gate, parts in PARTS.items()
    }
    for gate, parts in frames.items():
        for part, frame in parts.items():
            assert checked(gate, part, frame).equals(frame)


def test_every_column_has_a_meaning():
    for parts in PARTS.values():
        for columns in parts.values():
            assert all(columns.values())


def test_columns_are_put_in_the_order_of_the_contract():
    frame = event_days()
    assert checked("events", "days", frame[frame.columns[::-1]]).equals(frame)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda f: f.drop(columns="rows_ratio"), "missing rows_ratio"),
        (lambda f: f.assign(country="NL"), "unknown country"),
        (lambda f: f.rename(columns={"rows": "row"}), "missing rows; unknown row"),
        (lambda f: f.iloc[:, [0, 0, *range(1, 9)]], "repeated day"),
    ],
)
def test_a_frame_with_other_columns_is_refused(change, found):
    with pytest.raises(ValueError, match=f"events.days: .* found {found}; see validation/frames"):
        checked("events", "days", change(event_days()))


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match=r"events.weeks: no such gate part; .* events.days"):
        checked("events", "weeks", event_days())


def test_a_frame_that_belongs_to_no_part_is_refused():
    with pytest.raises(ValueError, match=r"events.weeks: no such part; found only days"):
        paired("events", {"days": []}, {"weeks": event_days()})
