"""Labels under the windows that impressions were assigned: packed, learnt, and judged."""

import math
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.config import day_of
from jobs.contract import LogContract
from jobs.family import teacher_name
from jobs.training.evaluation import gate_rows
from jobs.training.segments import Segment
from jobs.training.students import domain_plan, student_reader
from jobs.training.teacher import teacher_reader
from jobs.training_settings import Student
from tests.jobs.training import family, samples

SHORT, LONG = timedelta(minutes=10), samples.WINDOWS["click"]
ALL = [Segment(None, samples.END)]


def contract(windows=("10m", "30m")):
    """Clicks have two windows, buys the one that they had."""
    values = samples.contract().model_dump(mode="json")
    values["tasks"]["click"]["zipper_windows"] = list(windows)
    return LogContract.model_validate(values)


def world(num_rows=300):
    """The tiny world; half of the clicks come within the short window."""
    plain, draw = samples.world(num_rows), np.random.default_rng(3)
    examples = plain.examples
    soon = draw.random(len(examples)) < 0.5
    is_short = draw.random(len(examples)) < 0.4
    labels, mature, seconds = [], [], []
    for row, short, early in zip(examples.to_pylist(), is_short, soon, strict=True):
        window = SHORT if short else LONG
        end = row["event_ts"] + window
        clicked = row["label_click"] == 1 and (early or not short)
        labels.append(int(clicked) if end <= samples.END else None)
        mature.append(end)
        seconds.append(int(window.total_seconds()))
    columns = {
        "zipper_label_click": pa.array(labels, pa.int8()),
        "zipper_mature_ts_click": pa.array(mature, pa.timestamp("us", "UTC")),
        "zipper_seconds_click": pa.array(seconds, pa.int32()),
    }
    for name, values in columns.items():
        examples = examples.append_column(name, values)
    return samples.World(examples, plain.timelines)


@pytest.fixture(scope="module")
def rows():
    return world()


@pytest.fixture
def config(tmp_path):
    return zipped(tmp_path)


def settings():
    """Every model of the family under windows."""
    training = samples.training(network=samples.network(zipper=True))
    student = Student(training=training)
    return {
        "contract": contract(),
        "teacher": training,
        "domain_student": student,
        "vertical_student": student,
    }


def zipped(home, **changes):
    return samples.config(home, **(settings() | changes))


def test_rows_are_packed_with_the_windows_that_they_were_assigned(config, rows):
    packed = samples.packed(config, rows)
    assert packed.spec.zipper_windows == {"click": 2}
    examples = sorted(rows.examples.to_pylist(), key=lambda r: (r["event_ts"], r["impression_id"]))
    for at, row in enumerate(examples):
        label = row["zipper_label_click"]
        found = packed.zipper_labels[at, 0]
        assert math.isnan(found) if label is None else found == label
        assert samples.moment(int(packed.zipper_mature_us[at, 0])) == row["zipper_mature_ts_click"]
        assert packed.zipper_place[at, 0] == (row["zipper_seconds_click"] == 600)
    # A task with one window keeps its label.
    assert np.array_equal(packed.zipper_labels[:, 1], packed.labels[:, 1], equal_nan=True)
    assert np.array_equal(packed.zipper_mature_us[:, 1], packed.mature_us[:, 1])
    assert not packed.zipper_place[:, 1].any()


def test_a_label_is_learnt_when_its_assigned_window_closes(config, rows):
    reader = teacher_reader(config, samples.packed(config, rows))
    packed = reader.packed
    cut = samples.days(2.5)[0]
    found, mask = reader.rows(Segment(None, cut))
    learnt = {int(row) for row, is_learnt in zip(found, mask[:, 0], strict=True) if is_learnt}
    expected = {
        row
        for row in range(packed.num_rows)
        if samples.moment(int(packed.zipper_mature_us[row, 0])) <= cut
    }
    assert learnt == expected
    plain = {int(row) for row in np.flatnonzero(packed.matured(None, cut)[:, 0])}
    assert plain < learnt


def test_a_step_trains_the_heads_of_the_assigned_windows(config, rows):
    reader = teacher_reader(config, samples.packed(config, rows))
    _, learner = samples.teacher(config, reader, ALL)
    assert learner.ranker.config.num_windows == 2
    piece = next(reader.pieces(ALL[0], 0, 1))
    with torch.no_grad():
        logits = learner.model(piece.batch).window_logits.double()
    expected, served = 0.0, 0.0
    for row, packed_row in enumerate(piece.rows.tolist()):
        for task in range(2):
            if not piece.mask[row, task]:
                continue
            long = not reader.packed.zipper_place[packed_row, task]
            z = logits[row, int(long), task].item()
            y = reader.packed.zipper_labels[packed_row, task]
            expected += (math.log1p(math.exp(z)) - y * z) / piece.num_labels[task].item()
            if task == 0 and long:
                served += 1 / (1 + math.exp(-z))
    found = []
    learner._check_finite = lambda what, value, piece: found.append(value.item())
    before = [heads.domains[0].weights[1].clone() for heads in learner.ranker.heads.windows]
    learner.learn(piece, world=1)
    assert found[0] == pytest.approx(expected, rel=1e-4)
    # Figures are of the served heads, so of labels of the longest window alone.
    assert learner.progress.predicted[0].item() == pytest.approx(served, rel=1e-4)
    longest = reader.served(piece.rows)[:, 0] & piece.mask[:, 0].numpy()
    assert learner.progress.num_rows[0].item() == longest.sum() < piece.mask[:, 0].sum()
    for heads, weight in zip(learner.ranker.heads.windows, before, strict=True):
        assert not torch.equal(heads.domains[0].weights[1][0], weight[0])
    # Buys have one window, the longest.
    assert torch.equal(learner.ranker.heads.windows[0].domains[0].weights[1][1], before[0][1])


def test_fresh_heads_start_at_the_rates_of_their_windows(config, rows):
    reader = teacher_reader(config, samples.packed(config, rows))
    _, learner = samples.teacher(config, reader, ALL)
    found, mask = reader.rows(ALL[0])
    blue = reader.packed.domain[found] == 0
    for window, heads in enumerate(learner.ranker.heads.windows):
        own = mask[:, 0] & blue & (reader.windows(found)[:, 0] == window)
        rate = (reader.labels(found)[own, 0].sum() + 1) / (own.sum() + 10)
        bias = heads.domains[0].biases[-1][0].item()
        assert bias == pytest.approx(math.log(rate / (1 - rate)), abs=1e-4)


def test_no_judged_row_was_learnt_under_a_shorter_window(config, rows):
    reader = teacher_reader(config, samples.packed(config, rows))
    packed = reader.packed
    # The gate opens after an impression's short window has closed, and before the task's own has.
    row = int(np.flatnonzero(packed.zipper_place[:200, 0])[-1])
    start = samples.moment(int(packed.zipper_mature_us[row, 0]) + 1)
    learnt = packed.matured(None, start, zipper=True)
    assert (packed.matured(start, samples.END) & learnt)[row, 0]
    gate = gate_rows(reader, Segment(start, samples.END))
    assert gate.mask.any(axis=1).all()
    assert not (gate.mask & learnt[gate.rows]).any()
    assert np.array_equal(gate.labels[gate.mask], reader.labels(gate.rows)[gate.mask])


def test_a_student_learns_under_windows_too(config, rows):
    packed = samples.packed(config, rows)
    scores = np.full((packed.num_rows, 2), 0.3, np.float32)
    reader = student_reader(config, domain_plan(config, "blue"), packed, scores)
    _, learner = samples.student(config, reader, ALL)
    for piece in reader.pieces(ALL[0], 0, 1):
        learner.learn(piece, world=1)
    assert learner.progress.num_rows[0] == reader.served(reader.rows(ALL[0])[0])[:, 0].sum()
    assert all(math.isfinite(value) for value in learner.progress.ne())


def test_a_family_under_windows_is_trained_scored_and_absorbed(tmp_path):
    (gate_start, gate_end) = samples.days(2.5, 3)
    plan = samples.plan(
        day=day_of(gate_start, samples.ZONE), gate_start=gate_start, gate_end=gate_end
    )
    config, rows = family.resolve(tmp_path, "run-1", plan, **settings()), world(900)
    reader = family.pack(config, rows, rows.vocabulary(version=0))
    family.train(config)
    records = family.absorb(config)
    gate = gate_rows(reader, Segment(gate_start, gate_end))
    teacher = {r["task"]: r for r in records if r["model"] == teacher_name(config)}
    for index, task in enumerate(("click", "buy")):
        assert teacher[task]["rows"] == gate.mask[:, index].sum()
    plain = reader.packed.matured(gate_start, gate_end)[:, 0].sum()
    assert 0 < gate.mask[:, 0].sum() < plain
    assert {record["finite_ratio"] for record in records} == {1.0}


@pytest.mark.parametrize("windows", [("5m", "10m"), ()])
def test_windows_of_which_the_longest_is_not_the_tasks_own_are_refused(tmp_path, windows):
    with pytest.raises(ValueError, match=r"network.zipper: the longest of a task's zipper_windows"):
        zipped(tmp_path, contract=contract(windows))


def test_a_family_has_windows_in_all_of_its_models_or_in_none(tmp_path):
    with pytest.raises(ValueError, match="all or none have it; found both"):
        zipped(tmp_path, teacher=samples.training())
