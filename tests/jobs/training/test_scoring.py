"""Scores come from a checkpoint that had not learnt the row, and are kept by the log's own days."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs import delta
from jobs.config import day_of
from jobs.errors import ConfigError
from jobs.training import trainee
from jobs.training.checkpoints import load_checkpoint, load_model
from jobs.training.inputs import to_us
from jobs.training.scoring import (
    check_out_of_sample,
    predict,
    read_scores,
    score_out_of_sample,
    scores_table,
)
from tests.jobs.training import samples

TASKS = ["click", "buy"]
NAME = "tiny-teacher"
ENDS = samples.days(1, 2, 3)


@pytest.fixture(scope="module")
def world():
    """One impression lies exactly at the end of a segment."""
    rows = samples.world(300)
    times = rows.examples["event_ts"].to_pylist()
    times[150] = ENDS[1]
    column = pa.array(times, pa.timestamp("us", "UTC"))
    return replace(rows, examples=rows.examples.set_column(1, "event_ts", column))


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """(config, reader, checkpoints at the ends of three segments)."""
    home = tmp_path_factory.mktemp("home")
    config = samples.config(home)
    reader = samples.reader(config, world)
    segments, folders = samples.segments(*ENDS), []

    def keep(card, learner, _):
        folders.append(home / f"segment-{len(folders)}")
        trainee.save(folders[-1], card, learner)

    card, learner = samples.teacher(config, reader, segments)
    trainee.train(card, learner, reader, segments, keep)
    return config, reader, folders


@pytest.fixture
def config(trained, tmp_path):
    """A home of its own, so that every test writes a table of its own."""
    return trained[0].model_copy(update={"home": str(tmp_path)})


def table(config):
    return delta.read_days(scores_table(config, NAME)).sort_by(
        [("event_ts", "ascending"), ("impression_id", "ascending")]
    )


def utc(us):
    return datetime.fromtimestamp(us / 1e6, UTC)


def test_every_row_is_scored_by_the_last_checkpoint_before_it(config, trained):
    _, reader, folders = trained
    score_out_of_sample(config, NAME, reader, folders)
    packed = reader.packed
    rows = np.flatnonzero(packed.event_us >= to_us(ENDS[0]))
    expected_end = [max(end for end in ENDS if end <= utc(packed.event_us[row])) for row in rows]
    scores = table(config)
    assert scores["impression_id"].to_pylist() == packed.impression_ids().take(rows).to_pylist()
    assert scores["trained_until"].to_pylist() == expected_end
    by_end = {
        end: predict(load_model(f), reader, rows) for end, f in zip(ENDS, folders, strict=True)
    }
    expected = np.array([by_end[end][at] for at, end in enumerate(expected_end)])
    # No label of a task that takes a day to mature had been learnt by then.
    expected[[end == ENDS[0] for end in expected_end], TASKS.index("buy")] = np.nan
    actual = np.stack([scores[f"p_{task}"].to_numpy() for task in TASKS], axis=1)
    # A product of matrices may round otherwise in a batch of another size.
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_model_reads_a_value_admitted_since_as_unknown(trained, world):
    config, reader, folders = trained
    rows, model = np.arange(100, 200), load_model(folders[0])
    expected = predict(model, reader, rows)
    home = Path(config.home) / "later"
    grown = world.vocabulary(version=1, share=1.0)
    later = samples.reader(samples.config(home), world, grown)
    assert later.packed.categorical.max() > reader.packed.categorical.max()
    np.testing.assert_allclose(predict(model, later, rows), expected, rtol=1e-6)


def test_a_row_at_the_very_end_of_a_segment_is_scored_by_its_checkpoint(config, trained):
    _, reader, folders = trained
    score_out_of_sample(config, NAME, reader, folders)
    scores = table(config)
    (at,) = [i for i, time in enumerate(scores["event_ts"].to_pylist()) if time == ENDS[1]]
    assert scores["trained_until"][at].as_py() == ENDS[1]


def test_a_child_that_learnt_nothing_leaves_its_parents_scores(config, trained, tmp_path):
    _, reader, folders = trained
    held = load_checkpoint(folders[1])
    card = replace(held.card, run_id="child")
    card, learner = trainee.from_checkpoint(card, config.teacher, held, "cpu")
    trainee.save(tmp_path / "child", card, learner)
    score_out_of_sample(config, NAME, reader, folders[:2])
    parents = table(config)
    score_out_of_sample(config, NAME, reader, [*folders[:2], tmp_path / "child"])
    assert table(config).equals(parents)
    assert "child" not in parents["scorer_run"].to_pylist()


def test_rows_before_the_first_checkpoint_have_no_score(config, trained):
    _, reader, folders = trained
    score_out_of_sample(config, NAME, reader, folders)
    values = read_scores(config, NAME, reader.packed, TASKS)
    early = reader.packed.event_us < to_us(ENDS[0])
    assert early.sum() > 50
    assert np.isnan(values[early]).all()
    clicks = values[~early, 0]
    assert ((clicks > 0) & (clicks < 1)).all()


def test_a_task_that_no_label_has_taught_has_no_score(config, trained):
    _, reader, folders = trained
    score_out_of_sample(config, NAME, reader, folders)
    buys = read_scores(config, NAME, reader.packed, ["buy"])[:, 0]
    untaught = reader.packed.event_us < to_us(ENDS[1])
    assert (np.isnan(buys) == untaught).all()


def test_scores_are_read_by_row_and_in_the_order_asked_for(config, trained):
    _, reader, folders = trained
    score_out_of_sample(config, NAME, reader, folders)
    scores = {row["impression_id"]: row for row in table(config).to_pylist()}
    values = read_scores(config, NAME, reader.packed, ["buy", "click"])
    for impression, (buy, click) in zip(
        reader.packed.impression_ids().to_pylist(), values, strict=True
    ):
        if impression in scores:
            row = scores[impression]
            assert click == row["p_click"]
            assert buy == row["p_buy"] or (np.isnan(buy) and row["p_buy"] is None)


def test_days_are_days_in_the_contracts_time_zone(config, trained, world):
    _, reader, folders = trained
    days, _ = score_out_of_sample(config, NAME, reader, folders)
    expected = {}
    for time in world.examples["event_ts"].to_pylist():
        if time >= ENDS[0]:
            day = day_of(time, samples.ZONE)
            expected[day] = expected.get(day, 0) + 1
    assert days == expected
    uri = scores_table(config, NAME)
    for day in days:
        times = delta.read_days(uri, [day])["event_ts"].to_pylist()
        assert {day_of(time, samples.ZONE) for time in times} == {day}
        assert len({time.date() for time in times}) == 2


def test_the_same_scores_written_twice_make_no_new_version(config, trained):
    _, reader, folders = trained
    days, version = score_out_of_sample(config, NAME, reader, folders)
    again, later = score_out_of_sample(config, NAME, reader, folders)
    assert (again, later) == (days, version)


def test_scores_are_read_at_the_version_asked_for(config, trained):
    _, reader, folders = trained
    _, version = score_out_of_sample(config, NAME, reader, folders)
    before = read_scores(config, NAME, reader.packed, TASKS, version)
    # Another run scores all rows by the first checkpoint.
    other = config.model_copy(update={"run": samples.run_context(run_id="run-2")})
    _, later = score_out_of_sample(other, NAME, reader, folders[:1])
    assert later > version
    again = read_scores(config, NAME, reader.packed, TASKS, version)
    np.testing.assert_array_equal(again, before)
    newest = read_scores(config, NAME, reader.packed, TASKS)
    assert not np.array_equal(newest, before, equal_nan=True)


def test_a_student_scores_its_own_rows_only(config, trained):
    _, reader, folders = trained
    keep = reader.packed.domain == 1
    days, _ = score_out_of_sample(config, NAME, replace(reader, keep=keep), folders)
    values = read_scores(config, NAME, reader.packed, TASKS)
    late = reader.packed.event_us >= to_us(ENDS[0])
    assert np.array_equal(~np.isnan(values[:, 0]), keep & late)
    assert sum(days.values()) == (keep & late).sum()


def test_no_row_after_the_checkpoints_writes_nothing(config, trained):
    _, reader, folders = trained
    nobody = replace(reader, keep=np.zeros(reader.packed.num_rows, bool))
    assert score_out_of_sample(config, NAME, nobody, folders) == ({}, None)


def test_scores_that_were_never_written_are_missed(config, trained):
    with pytest.raises(ConfigError, match=r"no Delta table at .* run the job that writes it"):
        read_scores(config, NAME, trained[1].packed, TASKS)


def planted(seconds):
    """Two scores, the second by a checkpoint that had learnt so many seconds past the row."""
    shown = ENDS[1]
    return pa.table(
        {
            "impression_id": ["good", "late"],
            "event_ts": pa.array([shown, shown], pa.timestamp("us", "UTC")),
            "trained_until": pa.array(
                [ENDS[0], shown + timedelta(seconds=seconds)], pa.timestamp("us", "UTC")
            ),
        }
    )


def test_a_scorer_that_had_learnt_up_to_the_impression_is_out_of_sample():
    check_out_of_sample(planted(0), NAME)


def test_a_late_score_is_fatal_and_named():
    with pytest.raises(
        ConfigError, match=r"teacher_scores/tiny-teacher: .* found late of .* again"
    ):
        check_out_of_sample(planted(1e-6), NAME)


def test_a_late_score_in_the_table_stops_its_reader(config, trained):
    _, reader, folders = trained
    days, _ = score_out_of_sample(config, NAME, reader, folders)
    day, uri = max(days), scores_table(config, NAME)
    rows = delta.read_days(uri, [day]).drop_columns("day")
    late = pa.array([samples.END] * rows.num_rows, pa.timestamp("us", "UTC"))
    rows = rows.set_column(rows.column_names.index("trained_until"), "trained_until", late)
    commit = {"run_id": "x", "config_hash": "c", "code_hash": "c", "inputs": {}}
    delta.write_arrow_day(uri, rows, day, ["event_ts", "impression_id"], commit)
    with pytest.raises(
        ConfigError, match="a score must come from a checkpoint trained until before"
    ):
        read_scores(config, NAME, reader.packed, TASKS)
