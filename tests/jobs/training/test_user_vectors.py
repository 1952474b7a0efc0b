"""Users' vectors: made when something became known, by who had learnt nothing after it."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs import delta, embed_users
from jobs.config import day_of, day_start
from jobs.errors import ConfigError
from jobs.family import stage_folder
from jobs.pack_examples import open_packed
from jobs.training.checkpoints import load_model, read_card
from jobs.training.inputs import to_us
from jobs.training.reader import events_as_known
from jobs.training.teacher import teacher_reader
from jobs.training.user_vectors import read_moments, user_moments, vectors_out_of_sample
from jobs.user_embeddings import TABLE, check_vectors, read_vectors, write_vectors
from model.representations.quantise import dequantise, unpack
from tests.jobs.training import samples

TEACHER = "tiny-teacher"
MOMENT = pa.timestamp("us", "UTC")


def at(hour, minute=0):
    """A moment of the 2nd of March in Shanghai."""
    return day_start(date(2026, 3, 2), samples.ZONE) + timedelta(hours=hour, minutes=minute)


def test_moments_are_ends_of_days_and_arrivals_of_high_value():
    day = date(2026, 3, 2)
    timelines = pa.table(
        {
            "user_id": ["a", "b", "c"],
            "day": [day, day, day],
            "num_prior": pa.array([1, 0, 0], pa.int32()),
            "event_type": [["buy", "view", "buy", "view", "buy"], [], ["buy"]],
            "known_ts": pa.array(
                [[at(-9), at(1), at(2), at(2), at(7, 30)], [], [at(5)]], pa.list_(MOMENT)
            ),
        }
    )
    found = user_moments(timelines, ["buy"], samples.ZONE).to_pylist()
    told = sorted((m["user_id"], m["as_of"], m["num_events"], m["reason"]) for m in found)
    # The purchase of the day before made its moment then; two that arrive together make one.
    assert told == [
        ("a", at(2), 4, "event"),
        ("a", at(7, 30), 5, "event"),
        ("a", at(24), 5, "day_end"),
        ("c", at(5), 1, "event"),
        ("c", at(24), 1, "day_end"),
    ]
    assert {m["timeline"] for m in found} == {0, 2}
    ends = user_moments(timelines, [], samples.ZONE)["reason"].to_pylist()
    assert ends == ["day_end", "day_end"]


@pytest.fixture(scope="module")
def embedded(told):
    """(config, reader, checkpoints, vectors) of the run's moments before its gate window's end."""
    config, summaries, _ = told
    chosen = summaries["train_teacher"].details["chosen_trial"]
    folder = stage_folder(config, TEACHER, "judged").parent / f"trial-{chosen}"
    checkpoints = sorted(folder.iterdir())
    reader = teacher_reader(config, open_packed(config))
    rows, _ = vectors_out_of_sample(reader, checkpoints, to_us(config.plan.gate_end))
    return config, reader, checkpoints, rows


def test_each_vector_holds_what_was_known_by_the_checkpoint_before_it(embedded):
    config, reader, checkpoints, rows = embedded
    moments = read_moments(reader.packed).to_pylist()
    by_key = {(m["user_id"], m["as_of"]): m for m in moments}
    ends = [(read_card(folder).learnt_until, folder) for folder in checkpoints]
    assert rows.num_rows > 50
    assert {row["reason"] for row in rows.to_pylist()} == {"day_end", "event"}
    for row in rows.to_pylist()[::17]:
        until, folder = max(end for end in ends if end[0] <= row["as_of"])
        assert row["trained_until"] == until
        moment, model = by_key[row["user_id"], row["as_of"]], load_model(folder)
        history = reader.packed.history(
            np.array([moment["timeline"]]),
            np.array([moment["num_events"]]),
            np.array([to_us(row["as_of"])]),
            samples.NUM_EVENTS,
            whole=True,
        )
        known = history.event_us <= to_us(row["as_of"])
        assert known.all() and len(known) == moment["num_events"] == row["num_events"]
        with torch.no_grad():
            (expected,) = model.represent_user(events_as_known(history, model.config))
        line = torch.frombuffer(bytearray(row["vector"]), dtype=torch.uint8)[None]
        vector = dequantise(unpack(line, 8, row["dim"]), 8)[0] * row["scale"]
        assert (vector - expected).abs().max() <= row["scale"] / 127
    asked = {key for key, m in by_key.items() if ends[0][0] <= m["as_of"] < config.plan.gate_end}
    assert {(row["user_id"], row["as_of"]) for row in rows.to_pylist()} == asked


def test_written_again_no_vector_and_no_version_changes(embedded, tmp_path):
    config, reader, checkpoints, rows = embedded
    home = config.model_copy(update={"home": str(tmp_path)})
    days, version = write_vectors(home, rows, {})
    again, _ = vectors_out_of_sample(reader, checkpoints, to_us(config.plan.gate_end))
    assert write_vectors(home, again, {}) == (days, version)
    table = delta.read_days(home.table(TABLE))
    keys = list(zip(table["user_id"].to_pylist(), table["as_of"].to_pylist(), strict=True))
    assert len(set(keys)) == len(keys) == rows.num_rows
    for day, moment in zip(table["day"].to_pylist(), table["as_of"].to_pylist(), strict=True):
        assert day == day_of(moment, samples.ZONE)
    first = min(days)
    kept = read_vectors(home, (first, first), 1, rows["dim"][0].as_py(), version)
    assert kept.num_rows == days[first]
    assert read_vectors(home, (first, first), 1, 3, version).num_rows == 0


def test_a_vector_of_a_teacher_that_had_learnt_its_moment_is_fatal_and_names_nobody(embedded):
    rows = embedded[3].slice(0, 3)
    late = pa.array([datetime(2026, 4, 1, tzinfo=UTC)] * 3, MOMENT)
    changed = rows.set_column(rows.column_names.index("trained_until"), "trained_until", late)
    with pytest.raises(ConfigError, match="trained until its moment at the latest") as error:
        check_vectors(changed)
    assert rows["user_id"][0].as_py() not in str(error.value)
    check_vectors(rows)


def test_the_summary_tells_how_many_rows_read_a_vector_and_how_old_it_is(told):
    config, summaries, _ = told
    facts = summaries["score_teacher"].details["user_vectors"]
    assert facts["written"] > 50
    assert facts["before_any_teacher"] > 0
    assert 0 < facts["rows_with_vector"] < open_packed(config).num_rows
    assert 0 < facts["mean_age_days"] < 3
    assert summaries["blue"].inputs[TABLE] == summaries["score_teacher"].outputs[TABLE]


def test_a_refresh_embeds_all_users_of_the_newest_day_with_the_champion(told):
    config, *_ = told
    before = delta.read_days(config.table(TABLE))
    summary = embed_users.run(config, config.home)
    after = delta.read_days(config.table(TABLE))
    new = [row for row in after.to_pylist() if row["as_of"] >= config.plan.gate_end]
    assert len(new) == summary.rows[TABLE] == after.num_rows - before.num_rows > 5
    assert {row["as_of"] for row in new} == {config.plan.gate_end}
    assert {row["trained_until"] for row in new} == {config.plan.gate_end}
    assert len({row["user_id"] for row in new}) == len(new)
    assert summary.details["upstream_flops_ratio"].keys() == {"blue-feed", "blue-video", "red-home"}
    again = embed_users.run(config, config.home)
    assert (again.outputs, again.rows) == (summary.outputs, {TABLE: 0})


def test_a_refresh_adds_what_is_lacking_beside_what_is_there(told):
    config, *_ = told
    embed_users.run(config, config.home)
    uri, day = config.table(TABLE), day_of(config.plan.gate_end, samples.ZONE)
    rows = delta.read_days(uri, [day]).drop_columns("day").sort_by("user_id")
    commit = {"run_id": "x", "config_hash": "c", "code_hash": "c", "inputs": {}}
    delta.write_arrow_day(uri, rows.slice(2), day, ["as_of", "user_id"], commit)
    assert embed_users.run(config, config.home).rows == {TABLE: 2}
    found = delta.read_days(uri, [day]).drop_columns("day").sort_by("user_id")
    same = ["user_id", "as_of", "trained_until", "reason", "num_events"]
    assert found.select(same).equals(rows.select(same))
    assert found.slice(2).equals(rows.slice(2))


def test_a_recipe_without_user_vectors_is_refused_in_one_sentence(told):
    config, *_ = told
    none = config.model_copy(update={"user_vectors": None})
    with pytest.raises(ConfigError, match="user_vectors: this recipe makes no vectors"):
        embed_users.run(none, config.home)


def test_a_family_that_nobody_promoted_has_no_vectors(told, tmp_path):
    with pytest.raises(ConfigError, match="promotions: vectors come from the teacher that serves"):
        embed_users.run(told[0], str(tmp_path))


def test_arrays_packed_before_moments_were_asked_for_are_refused(embedded, tmp_path):
    packed = embedded[1].packed
    moved = replace(embedded[1], packed=packed)
    folder, moved.packed.folder = packed.folder, tmp_path
    try:
        with pytest.raises(ConfigError, match=r"no moments .* run jobs.pack_examples"):
            read_moments(moved.packed)
    finally:
        packed.folder = folder
