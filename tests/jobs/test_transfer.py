"""What the study of distillation promises: out of sample, resumable, and honest intervals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs import measure_distillation
from jobs.config import REPOSITORY
from jobs.errors import ConfigError
from jobs.scaling.sizes import EVENT_FIELDS
from jobs.settings import checked
from jobs.simulation import SURFACE_DOMAIN
from jobs.transfer import cells, results
from jobs.transfer.arms import MEANS, distillation_config, means_of, student_config
from jobs.transfer.hierarchy import domain_rows, score
from jobs.transfer.lessons import earlier, lessons, over_prediction_shift, own_rows
from jobs.transfer.rows import Rows, read_rows, with_own_histories
from jobs.transfer.settings import Study
from jobs.transfer.teacher import Taught, teach
from model.batch import check_batch

TINY = {
    "preset": "world-1",
    "num_days": 4,
    "first_day": 1,
    "staleness": [1],
    "seeds": [0, 1],
    "share": 1.0,
    "capacities": ["small"],
    "teacher_width": 4,
    "teacher_layers": 1,
    "weights": [0.3, 3.0],
    "trials": [{"lr_dense": 1e-3, "lr_sparse": 0.03}, {"lr_dense": 3e-3, "lr_sparse": 0.1}],
    "latent_dim": 4,
    "history_length": 3,
    "extras": [],
}
CPU = torch.device("cpu")


def study(**changes: object) -> Study:
    return checked(Study, TINY | changes, "test")


@pytest.fixture(scope="module")
def rows() -> Rows:
    return read_rows(study())


@pytest.fixture(scope="module")
def taught(rows: Rows) -> Taught:
    return teach(study(), rows, 0, CPU)


def test_counts_are_those_of_the_latest_actions_before_the_row(rows):
    stream = rows.stream
    category = stream.event_categorical[:, EVENT_FIELDS.index("category")].numpy() - 1
    num_categories = category.max() + 1
    for row in np.linspace(0, len(rows.day) - 1, 25).astype(int):
        own = [
            e
            for e in range(len(category))
            if stream.event_users[e] == stream.users[row]
            and stream.event_us[e] < stream.row_us[row]
        ]
        expected = [
            np.bincount(category[own[-n:]], minlength=num_categories) / n
            if own
            else np.zeros(num_categories)
            for n in study().windows
        ]
        found = rows.counts[row].numpy()
        assert np.allclose(found, [*np.concatenate(expected), np.log1p(len(own))], atol=1e-6)


def test_cached_counts_know_nothing_of_the_day(rows):
    for row in np.flatnonzero(rows.day == 2)[[0, 400, 999]]:
        before = (rows.stream.event_users == rows.stream.users[row]) & (
            rows.stream.event_us.numpy() // 86_400_000_000
            < rows.stream.row_us[row].item() // 86_400_000_000
        )
        assert rows.cached_counts[24][row, -1] == pytest.approx(np.log1p(before.sum()))


@pytest.fixture(scope="module")
def delayed() -> tuple[Study, Rows]:
    """Days enough for vectors that are two days old."""
    longer = study(num_days=5, first_day=2, delays=[6, 48])
    return longer, read_rows(longer)


def test_what_is_cached_within_a_day_is_as_old_as_its_last_refresh(delayed):
    stream, counts = delayed[1].stream, delayed[1].cached_counts[6]
    for row in (1_700, 2_900):
        quarter = stream.row_us[row].item() // 21_600_000_000
        known = (stream.event_users == stream.users[row]) & (
            stream.event_us.numpy() // 21_600_000_000 < quarter
        )
        assert counts[row, -1] == pytest.approx(np.log1p(known.sum()))
    assert (counts[:, -1] <= delayed[1].counts[:, -1]).all()


def test_of_two_days_every_other_user_is_refreshed_at_each_midnight(delayed):
    rows = delayed[1]
    late = rows.day - rows.refresh_day(48)
    assert np.array_equal(late[rows.day > 0], (rows.day + rows.user)[rows.day > 0] % 2)
    stream = rows.stream
    for row in np.flatnonzero((rows.day == 4) & (late == 1))[[0, 99, 199]]:
        known = (stream.event_users == stream.users[row]) & (
            (stream.event_us.numpy() - rows.origin_us) // 86_400_000_000 < 3
        )
        assert rows.cached_counts[48][row, -1] == pytest.approx(np.log1p(known.sum()))


def test_what_is_cached_knows_nothing_from_its_refresh_on(delayed):
    """Neither labels that a snapshot could have learnt nor what users did."""
    longer, rows = delayed
    told, stream = teach(longer, rows, 0, CPU), rows.stream
    late = rows.day >= 3
    labels = torch.where(torch.from_numpy(late), 1 - stream.labels, stream.labels)
    counts = {hours: of.clone() for hours, of in rows.cached_counts.items()}
    for hours, of in counts.items():
        of[torch.from_numpy(rows.refresh_day(hours) >= 3)] += 1
    changed = replace(rows, stream=replace(stream, labels=labels), cached_counts=counts)
    other = teach(longer, changed, 0, CPU)
    own = (stream.domain.numpy() == longer.domain) & (rows.day >= longer.first_day)
    for hours in (6, 24, 48):
        before = own & (rows.refresh_day(hours) < 3)
        since = own & (rows.refresh_day(hours) >= 4)
        assert hours <= 24 or (before & (rows.day == 3)).any()
        for name in ("user_vectors", "matched"):
            one, two = (getattr(each, name)[1, hours] for each in (told, other))
            assert np.array_equal(one[before], two[before])
            assert not np.array_equal(one[since], two[since])
        assert np.array_equal(told.cached_until[1, hours][own], rows.refresh_day(hours)[own] - 1)


def test_a_cached_vector_that_knows_its_day_is_fatal(delayed, taught):
    rows = read_rows(study())
    until = taught.cached_until[1, 24].copy()
    until[rows.day == 2] = 2
    later = replace(taught, cached_until={(1, 24): until})
    cells.check_out_of_sample(rows, later, 1)
    with pytest.raises(ConfigError, match=r"cached vector of staleness 1 .* found one up to day 2"):
        cells.check_out_of_sample(rows, later, 1, 24)


def test_own_histories_are_counts_of_actions_on_the_rows_platform(rows):
    own, stream = with_own_histories(study(), rows), rows.stream
    surface = stream.event_categorical[:, EVENT_FIELDS.index("surface")].numpy() - 1
    category = stream.event_categorical[:, EVENT_FIELDS.index("category")].numpy() - 1
    for row in np.linspace(0, len(rows.day) - 1, 25).astype(int):
        theirs = (
            (stream.event_users == stream.users[row])
            & (stream.event_us < stream.row_us[row]).numpy()
            & (SURFACE_DOMAIN[surface] == stream.domain[row].item())
        )
        latest = np.bincount(category[theirs][-8:], minlength=12) / 8
        assert np.allclose(own.counts[row, :12].numpy(), latest, atol=1e-6)
        assert own.counts[row, -1] == pytest.approx(np.log1p(theirs.sum()))


def test_a_score_comes_from_a_snapshot_that_has_learnt_nothing_of_its_day(rows, taught):
    scored = ~np.isnan(taught.logits[1])
    assert np.array_equal(scored, rows.day >= 1)
    assert np.array_equal(taught.trained_until[1][scored], rows.day[scored] - 1)


def test_no_label_of_a_day_changes_what_is_told_of_it_or_before(rows, taught):
    labels = rows.stream.labels.clone()
    changed = rows.day == 2
    labels[torch.from_numpy(changed)] = 1 - labels[torch.from_numpy(changed)]
    other = teach(study(), replace(rows, stream=replace(rows.stream, labels=labels)), 0, CPU)
    before = (rows.day >= 1) & (rows.day <= 2)
    for name, key in (
        ("logits", 1),
        ("latents", 1),
        ("user_vectors", (1, 24)),
        ("matched", (1, 24)),
    ):
        told, now = getattr(taught, name)[key], getattr(other, name)[key]
        assert np.array_equal(told[before], now[before])
        assert not np.array_equal(told[rows.day == 3], now[rows.day == 3])


def test_a_score_that_is_not_out_of_sample_is_fatal(rows, taught):
    late = {1: np.where(rows.day == 2, 2, taught.trained_until[1])}
    key = {"arm": "teacher", "bias": "unbiased", "staleness": 1}
    with pytest.raises(ConfigError, match="found one up to day 2 for a row of day 2"):
        cells.teacher_cell(study(), rows, key, replace(taught, trained_until=late))


@pytest.mark.parametrize("by_category", [False, True])
@pytest.mark.parametrize("hours", [6, 24, 48])
def test_earlier_activations_equal_the_loop_over_rows(rows, taught, by_category, hours):
    category = rows.stream.categorical[:, 4].numpy() if by_category else None
    at = own_rows(study(), rows, 0)[::50]
    stored = earlier(study(), rows, at, taught.latents[1], hours, category)
    row_us, refreshed_us = rows.stream.row_us.numpy(), rows.refreshed_us(hours)
    for reader, row in enumerate(at):
        own = [
            other
            for other in range(len(rows.day))
            if rows.user[other] == rows.user[row]
            and rows.day[other] >= 1
            and row_us[other] < refreshed_us[row]
            and (category is None or category[other] == category[row])
        ][-3:]
        low, high = stored.offsets[reader : reader + 2].tolist()
        assert np.array_equal(stored.values[low:high].numpy(), taught.latents[1][own] / 8)
        assert np.array_equal(stored.age_us[low:high].numpy(), row_us[row] - row_us[own])
    assert stored.offsets[-1] > 0


def test_the_biased_teacher_predicts_as_many_clicks_more_as_is_asked(rows, taught):
    shift = over_prediction_shift(study(), taught, 1)
    z = taught.logits[1][~np.isnan(taught.logits[1])].astype(float)
    p, biased = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-z - shift))
    assert biased.sum() / p.sum() == pytest.approx(1.15, abs=1e-6)


@pytest.mark.parametrize("arm", MEANS)
@pytest.mark.parametrize("capacity", ["small", "large", "counted"])
def test_every_arm_reads_what_its_ranker_is_made_for(rows, taught, arm, capacity):
    means = means_of(arm, capacity)
    at = own_rows(study(), rows, 0)[:20]
    read = lessons(study(), rows, at, means, taught, "unbiased", 1)
    check_batch(read.batch(3, 9), student_config(study(), rows, capacity, means))
    assert read.teacher.isnan().all() == (means.head is None)


def test_arms_of_equal_weight_are_drawn_to_the_teacher_alike():
    one = distillation_config(means_of("auxiliary", "small"), 3.0)
    two = distillation_config(means_of("adapter", "small"), 3.0)
    assert one is not None and two is not None
    assert one.soft_labels[0].weight == 2 * two.soft_labels[0].weight == 3.0
    assert distillation_config(means_of("raw", "small"), 3.0) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"staleness": [1, 2]}, r"staleness: .*from 1 to first_day \(1\); found \[1, 2\]"),
        ({"first_day": 2}, "first_day: a student needs a day to learn .* found 2"),
        ({"weights": [1.0]}, "trials, weights: every arm is tuned over as many; found 2 and 1"),
        ({"refresh_hours": 5}, r"refresh_hours, delays: .*multiples of 24; found \[5\]"),
        ({"delays": [6, 24]}, r"refresh_hours, delays: different .* found \[24, 6, 24\]"),
        ({"delays": [48]}, "a vector of the first scored day .* found 48 hours"),
        ({"overlaps": [1.5]}, r"overlaps: shares from 0 to 1; found \[1.5\]"),
        ({"arms": ["kd", "raw"]}, r"arms: the twin 'raw' comes first; found \['kd', 'raw'\]"),
        ({"wieghts": [1.0]}, "unknown key wieghts; did you mean 'weights'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        study(**changes)


@pytest.mark.parametrize("changes", [{"preset": "world-0"}, {"num_days": 5}, {"domain": 2}])
def test_only_what_a_frozen_world_has_is_measured(changes, tmp_path):
    with pytest.raises(ConfigError, match="preset, num_days, domain: a frozen world"):
        measure_distillation.run(study(**changes), tmp_path / "cells.jsonl", tmp_path, "cpu", 0, 9)


def test_a_study_stops_at_its_seconds_resumes_and_runs_no_cell_twice(tmp_path):
    small = study(arms=["raw", "kd", "full"], biases=["unbiased"])
    path = tmp_path / "cells.jsonl"
    arguments = (small, path, tmp_path / "teachers", "cpu", 0)
    stopped = measure_distillation.run(*arguments, seconds=0.0)
    assert stopped.rows["cells"] == 0
    assert stopped.details["not_run"] == 2 * 4
    assert "*not run*: seed 1" in (tmp_path / "results.md").read_text()
    done = measure_distillation.run(*arguments, seconds=300.0)
    assert done.details["not_run"] == 0
    kept = path.read_text()
    found = [json.loads(line) for line in kept.splitlines()]
    assert {(c["arm"], c["seed"]) for c in found} == {
        (arm, seed) for arm in ("teacher", "raw", "kd", "full") for seed in (0, 1)
    }
    again = measure_distillation.run(*arguments, seconds=300.0)
    assert again.rows["cells"] == 8
    assert path.read_text() == kept
    for cell in found:
        # Sums by group say what the figure says.
        divergence, rows = (sum(cell["by_group"][name]) for name in ("divergence", "rows"))
        assert divergence / rows / cell["entropy"] == pytest.approx(cell["excess_ne"], rel=1e-5)
        assert len(cell.get("trials", "ab")) == 2
    twin = next(c for c in found if c["arm"] == "raw")
    distilled = next(c for c in found if c["arm"] == "kd" and c["seed"] == twin["seed"])
    assert {t["lr_dense"] for t in distilled["trials"]} == {
        twin["trials"][twin["chosen"]]["lr_dense"]
    }
    lines = results.lines_of(small, found)
    assert [line.arm for line in lines] == ["teacher", "raw", "kd", "full"]
    assert lines[0].excess_ne == pytest.approx(
        np.mean([c["excess_ne"] for c in found if c["arm"] == "teacher"])
    )


def test_variants_are_cells_of_their_own_beside_the_same_twins_and_teachers(tmp_path):
    changes = {"arms": ["raw", "kd", "raw_crossed"], "biases": ["unbiased"]}
    plain = study(**changes, delays=[6])
    path, folder = tmp_path / "cells.jsonl", tmp_path / "teachers"
    measure_distillation.run(plain, path, folder, "cpu", 0, seconds=300.0)
    before = cells.held_cells(path)
    assert {results.variant_of(cell) for cell in before} == {"", "6 h"}
    teachers = sorted(folder.iterdir())
    more = study(**changes, delays=[6], overlaps=[0.9], own_histories=True)
    done = measure_distillation.run(more, path, folder, "cpu", 0, seconds=300.0)
    assert done.details["not_run"] == 0
    held = cells.held_cells(path)
    assert held[: len(before)] == before
    assert sorted((c["arm"], results.variant_of(c)) for c in held[len(before) :]) == sorted(
        2
        * [
            ("kd", "overlap 0.9"),
            ("raw_crossed", "own histories"),
            ("teacher", "own histories"),
        ]
    )
    assert {path.name for path in teachers} < {path.name for path in folder.iterdir()}
    lines = {(line.arm, line.variant): line for line in results.lines_of(more, held)}
    own, all_of_them = lines["raw_crossed", "own histories"], lines["raw_crossed", ""]
    assert own.over_plain is not None
    assert own.over_plain.interval.value == pytest.approx(
        all_of_them.excess_ne - own.excess_ne, rel=1e-4
    )


def test_a_study_without_teachers_still_compares_its_twins(tmp_path):
    alone = study(arms=["raw", "raw_crossed"], biases=[], own_histories=True)
    path = tmp_path / "cells.jsonl"
    done = measure_distillation.run(alone, path, tmp_path / "teachers", "cpu", 0, seconds=300.0)
    assert done.rows["cells"] == 2 * 3
    assert not list((tmp_path / "teachers").iterdir())
    lines = results.lines_of(alone, cells.held_cells(path))
    assert [(line.arm, line.variant) for line in lines] == [
        ("raw", ""),
        ("raw_crossed", ""),
        ("raw_crossed", "own histories"),
    ]
    assert lines[2].over_plain is not None
    assert "| none |" in results.table(lines, [])[-1]


def test_a_cell_of_before_there_were_variants_counts_as_the_plain_one(rows, tmp_path):
    one = study(arms=["raw", "user_vector"], biases=["unbiased"], seeds=[0])
    path = tmp_path / "cells.jsonl"
    for key in cells.keys_of(one, rows):
        cells.keep_cell(path, {name: key[name] for name in key.keys() - cells.PLAIN.keys()})
    held = cells.held_cells(path)
    assert all(any(c.items() >= key.items() for c in held) for key in cells.keys_of(one, rows))


def test_cells_of_the_studies_that_have_run_keep_their_digests():
    assert cells.study_digest(Study()) == "0f5b3b430a7a"
    assert cells.study_digest(Study(overlaps=(0.2,), own_histories=True)) == "0f5b3b430a7a"
    assert cells.study_digest(Study(delays=(6,))) != "0f5b3b430a7a"


def test_a_domain_students_rows_are_as_many_at_every_overlap_and_shared_as_said(rows):
    half = study(share=0.5, first_day=1)
    own = rows.stream.domain.numpy() == half.domain
    days = (rows.day >= 0) & (rows.day < 3)
    smaller = min((own & days).sum(), (~own & days).sum())
    mine = set(own_rows(half, rows, 3))
    for overlap in (0.2, 0.9):
        at = domain_rows(half, rows, overlap, seed=3)
        assert len(at) == pytest.approx(smaller, rel=0.05)
        assert own[at].mean() == pytest.approx(overlap, abs=0.03)
        theirs = {row for row in at[own[at]] if rows.day[row] >= 1}
        assert theirs < mine or mine < theirs


def test_a_domain_student_scores_a_day_before_it_learns_it(rows, taught):
    one = study(trials=TINY["trials"][:1], weights=[1.0])
    found = score(one, rows, taught, 0.9, 0, deadline=float("inf")).logits
    own = rows.stream.domain.numpy() == one.domain
    labels = rows.stream.labels.clone()
    # It learns on until the first row that it scores of a day.
    labels[np.flatnonzero(own & (rows.day == 2))[0] : rows.first(3)] = 1
    other = replace(rows, stream=replace(rows.stream, labels=labels))
    now = score(one, other, taught, 0.9, 0, deadline=float("inf")).logits
    assert np.array_equal(np.isnan(found), ~own | (rows.day < 1))
    before = own & (rows.day >= 1) & (rows.day <= 2)
    assert np.array_equal(found[before], now[before])
    assert not np.array_equal(found[own & (rows.day == 3)], now[own & (rows.day == 3)])


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "cells.jsonl"
    path.write_text('{"arm": "raw"}\n{"arm": "k')
    assert cells.held_cells(path) == [{"arm": "raw", **cells.PLAIN}]
    cells.keep_cell(path, {"arm": "kd"})
    assert [cell["arm"] for cell in cells.held_cells(path)] == ["raw", "kd"]


def test_the_study_runs_where_only_torch_and_its_like_are_installed():
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pyarrow", "psutil", "mlflow", "ray", "pyspark", "deltalake"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import jobs.measure_distillation
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
