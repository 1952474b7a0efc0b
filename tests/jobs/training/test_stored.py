"""What students read of what was kept: theirs, known before, and never the row's own."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.errors import ConfigError
from jobs.representation_settings import Representation
from jobs.training.inputs import to_us
from jobs.training.stored import (
    Representations,
    Stored,
    UserVectors,
    pack_representations,
    pack_user_vectors,
)
from model.representations.quantise import pack, quantise
from tests.jobs.training import samples
from tests.reference import stored_representations as reference

DIM = 5
NUM_ROWS = 240
MOMENT = pa.timestamp("us", "UTC")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Rows of which some became known hours after they were shown."""
    rows = samples.world(NUM_ROWS)
    late = np.random.default_rng(1).integers(0, 30, NUM_ROWS) * (np.arange(NUM_ROWS) % 3 == 0)
    times = rows.examples["event_ts"].to_pylist()
    known = [time + timedelta(hours=int(hours)) for time, hours in zip(times, late, strict=True)]
    at = rows.examples.column_names.index("known_ts")
    examples = rows.examples.set_column(at, "known_ts", pa.array(known, MOMENT))
    rows = samples.World(examples, rows.timelines)
    return samples.packed(samples.config(tmp_path_factory.mktemp("home")), rows)


def kept_rows(packed):
    """Every row but some, and some that no packed row is, each with numbers of its own."""
    ids = packed.ids().append_column("event_ts", pa.array(packed.event_us, MOMENT))
    some = [row for at, row in enumerate(ids.to_pylist()) if at % 7]
    start = samples.START
    for hours, name in ((-30, "early"), (-200, "older"), (-1, "unknown")):
        moment = start + timedelta(hours=hours)
        for user in ("u03", "nobody"):
            key = {"impression_id": f"{name}-{user}", "user_id": user}
            some.append({**key, "event_ts": moment, "known_ts": moment})
    codes = quantise(torch.rand(len(some), DIM) * 2 - 1, 4)
    for line, row in zip(pack(codes, 4).numpy(), some, strict=True):
        row |= {"representation": line.tobytes(), "encoder_version": "e1"}
    values = {row["impression_id"]: v for row, v in zip(some, (codes / 8).tolist(), strict=True)}
    order = np.random.default_rng(0).permutation(len(some))
    return [some[place] for place in order], values


def table(kept):
    kinds = {"event_ts": MOMENT, "known_ts": MOMENT, "representation": pa.binary()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in kept[0]])
    return pa.Table.from_pylist(kept, schema=schema)


@pytest.mark.parametrize(("same_day", "by"), [(False, None), (True, None), (True, "surface")])
def test_rows_read_what_the_loop_over_impressions_says(packed, tmp_path, same_day, by):
    settings = Representation(prefixes=(2, DIM), same_day=same_day, lookback_days=2, search_by=by)
    kept, values = kept_rows(packed)
    counts = pack_representations(tmp_path / "r", packed, table(kept), settings, samples.ZONE)
    read = Representations(tmp_path / "r")
    rows = np.arange(NUM_ROWS)[::-1].copy()
    found = read.history(packed, rows, length=4)
    ids = packed.ids().append_column("event_ts", pa.array(packed.event_us, MOMENT)).to_pylist()
    times = {one["impression_id"]: one["event_ts"] for one in kept}
    num_read, shared = 0, None
    if by is not None:
        column = packed.categorical[:, packed.spec.categorical.index(by)].tolist()
        assert 0 in column, "some rows have an unknown value"
        shared = dict(zip(packed.impression_ids().to_pylist(), column, strict=True))
    for place, row in enumerate(rows.tolist()):
        expected = reference.history(
            ids[row], kept, 4, 2, samples.ZONE, same_day=same_day, values=shared
        )
        start, end = found.offsets[place : place + 2].tolist()
        assert found.values[start:end].tolist() == [values[one] for one in expected]
        ages = [to_us(ids[row]["event_ts"]) - to_us(times[one]) for one in expected]
        assert found.age_us[start:end].tolist() == ages
        assert ids[row]["impression_id"] not in expected
        num_read += len(expected)
    assert num_read > NUM_ROWS / (2 if by is None else 6)
    assert counts["rows_with_history"] == int((found.offsets.diff() > 0).sum())


def test_a_row_finds_its_own_representation_or_nothing(packed, tmp_path):
    kept, values = kept_rows(packed)
    settings = Representation(prefixes=(DIM,))
    pack_representations(tmp_path / "r", packed, table(kept), settings, samples.ZONE)
    own = Representations(tmp_path / "r").own(np.arange(30))
    for row, impression in enumerate(packed.impression_ids().to_pylist()[:30]):
        assert (impression in values) == bool(row % 7)
        if row % 7:
            assert own[row].tolist() == values[impression]
        else:
            assert own[row].isnan().all()


def test_where_nothing_was_kept_rows_read_nothing(packed, tmp_path):
    kept, _ = kept_rows(packed)
    empty = table(kept).slice(0, 0)
    settings = Representation(prefixes=(DIM,))
    counts = pack_representations(tmp_path / "r", packed, empty, settings, samples.ZONE)
    assert counts["rows_with_history"] == 0
    read = Representations(tmp_path / "r")
    assert read.history(packed, np.arange(5), 4).offsets.tolist() == [0] * 6
    assert read.own(np.arange(5)).isnan().all()


def test_a_twin_is_told_nothing(packed, tmp_path):
    kept, _ = kept_rows(packed)
    settings = Representation(prefixes=(DIM,), same_day=True)
    pack_representations(tmp_path / "r", packed, table(kept), settings, samples.ZONE)
    stored = Stored(length=4, representations=Representations(tmp_path / "r"), is_aligned=True)
    rows = np.arange(100, 200)
    assert len(stored.inputs(packed, rows)["representations"].values) > 50
    assert len(stored.untold().inputs(packed, rows)["representations"].values) == 0
    assert stored.own(rows) is not None
    assert stored.untold().own(rows) is None


def test_the_latest_vector_before_the_row_is_read(packed, tmp_path):
    draw = np.random.default_rng(3)
    moments = [samples.START + timedelta(hours=float(h)) for h in draw.uniform(-40, 96, 60)]
    # One as of the very moment of an impression: not before it.
    moments[0] = samples.moment(int(packed.event_us[100]))
    owners = [f"u{u:02d}" for u in draw.integers(0, 12, 60)]
    owners[0] = packed.ids()["user_id"][100].as_py()
    vectors = draw.integers(-127, 128, (60, 3))
    kept = pa.table(
        {
            "user_id": owners,
            "as_of": pa.array(moments, MOMENT),
            "vector": [line.astype(np.int8).tobytes() for line in vectors],
            "scale": pa.array(np.full(60, 2.0), pa.float32()),
        }
    )
    counts = pack_user_vectors(tmp_path / "u", packed, kept, lookback_days=1, dim=3)
    found = UserVectors(tmp_path / "u").of(np.arange(NUM_ROWS))
    users, missing = packed.ids()["user_id"].to_pylist(), 0
    for row, (user, us) in enumerate(zip(users, packed.event_us.tolist(), strict=True)):
        shown = samples.moment(us)
        known = [
            (moment, place)
            for place, (owner, moment) in enumerate(zip(owners, moments, strict=True))
            if owner == user and shown - timedelta(days=1) <= moment < shown
        ]
        if known:
            expected = torch.tensor(vectors[max(known)[1]]) / 128 * 2.0
            torch.testing.assert_close(found[row], expected.float())
        else:
            assert found[row].isnan().all()
            missing += 1
    assert 0 < missing < NUM_ROWS
    assert counts["rows_with_vector"] == NUM_ROWS - missing


def test_students_of_a_run_without_packed_representations_are_told_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing is packed .* run jobs.score_teacher"):
        Representations(tmp_path / "none")
