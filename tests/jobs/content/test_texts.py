"""An item's text over time is what its attributes said, change by change."""

import os
from datetime import date, timedelta

import pyarrow as pa

from jobs.content.texts import content_hashes, joined, open_texts
from tests.jobs.content.catalogue import FIRST, arrive, config, moment

DAY = date(2024, 3, 3)


def states(tmp_path, rows):
    run = config(tmp_path, DAY)
    arrive(run, rows)
    found = open_texts(run, run.contract.content).states().to_pylist()
    return [(row["item_id"], row["known_ts"], row["content_hash"]) for row in found]


def of(title, text=None):
    return content_hashes(joined([pa.array([title]), pa.array([text], pa.string())])).to_pylist()[0]


def test_a_listing_that_repeats_itself_says_nothing_new(tmp_path):
    days = [FIRST + timedelta(days=n) for n in range(3)]
    rows = [("mug", moment(day, 1), title, "") for day, title in zip(days, "AAB", strict=True)]
    assert states(tmp_path, rows) == [
        ("mug", moment(days[0], 1), of("A")),
        ("mug", moment(days[2], 1), of("B")),
    ]


def test_a_text_that_comes_back_is_a_change_again(tmp_path):
    rows = [("mug", moment(FIRST, hour), title, "") for hour, title in enumerate("ABA")]
    assert [name for _, _, name in states(tmp_path, rows)] == [of("A"), of("B"), of("A")]


def test_a_withdrawn_text_is_told(tmp_path):
    rows = [("mug", moment(FIRST, 1), "A", "a"), ("mug", moment(FIRST, 2), None, "  ")]
    assert [name for _, _, name in states(tmp_path, rows)] == [of("A", "a"), None]


def test_of_texts_of_one_moment_the_order_is_that_of_their_hashes(tmp_path):
    at = moment(FIRST, 1)
    rows = [("mug", at, title, "") for title in "ABC"]
    found = states(tmp_path, rows)
    assert [name for _, _, name in found] == sorted(of(title) for title in "ABC")
    # Reversed in the files, as another order of the same listing may have it.
    assert states(tmp_path / "other", rows[::-1]) == found


def test_fields_do_not_run_into_each_other():
    assert of("red", "mug") != of("red mug", "") != of("", "red mug")
    assert of("red", None) == of("red", "")


def test_a_sample_to_fit_on_depends_on_the_texts_alone(tmp_path):
    titles = "ABCDEFGH"
    run = config(tmp_path, DAY)
    arrive(run, [(title, moment(FIRST, 1), title, "") for title in titles])
    found = open_texts(run, run.contract.content).known_before(moment(DAY, 0), limit=3)
    assert list(found) == sorted(of(title) for title in titles)[:3]
    assert {of(text.rstrip(os.linesep)) for text in found.values()} == set(found)


def test_a_column_that_came_later_is_empty_in_earlier_files(tmp_path):
    run = config(tmp_path, DAY)
    arrive(run, [("mug", moment(FIRST, 1), "A", "a")])
    wider = run.contract.content.model_copy(update={"fields": ["title", "slogan"]})
    (row,) = open_texts(run, wider).states().to_pylist()
    assert row["content_hash"] == of("A")
