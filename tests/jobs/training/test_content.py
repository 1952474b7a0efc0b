"""Packed content is of texts known strictly before the impression, for ads and events alike."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from jobs.config import Timeline, day_start
from jobs.content.texts import content_hashes
from jobs.errors import ConfigError
from jobs.training.content import ItemContent, content_arrays, read_content
from jobs.training.inputs import Packed, pack, to_us
from jobs.training.networks import ranker_config
from model.batch import check_batch
from model.ranker import Ranker
from tests.jobs.content import catalogue
from tests.jobs.training import samples

MICROS = pa.timestamp("us", "UTC")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
ONES = {"red": [1.0, 0.0], "green": [0.0, 1.0]}


def content(*states, hashes=("green", "red")):
    """States as (item, known, hash), in order of item and time."""
    item, known, name = zip(*states, strict=True)
    table = pa.table(
        {
            "item_id": pa.array(item, pa.string()),
            "known_ts": pa.array(known, MICROS),
            "content_hash": pa.array(name, pa.string()),
        }
    )
    return ItemContent(table, pa.array(hashes), np.array([ONES[h] for h in hashes], np.float32))


MUG = content(
    ("jug", NOON - timedelta(days=9), "red"),
    ("mug", NOON, "red"),
    ("mug", NOON + timedelta(hours=1), "green"),
    ("mug", NOON + timedelta(hours=2), None),
)
GREEN, RED = 1, 2


@pytest.mark.parametrize(
    ("at", "row"),
    [
        (NOON - TICK, 0),
        (NOON, 0),  # not before it was known
        (NOON + TICK, RED),
        (NOON + timedelta(hours=1), RED),  # the correction is not known yet
        (NOON + timedelta(hours=1) + TICK, GREEN),
        (NOON + timedelta(hours=2) + TICK, 0),  # withdrawn
    ],
)
def test_an_ads_content_is_the_last_text_known_strictly_before_the_impression(at, row):
    assert MUG.rows_at(pa.chunked_array([["mug"]]), micros(at)).tolist() == [row]


def micros(*moments):
    return pa.array(moments, MICROS).cast(pa.int64()).to_numpy()


def test_items_of_which_nothing_is_known_have_no_content():
    items = pa.chunked_array([["ark", None, "zoo", "jug"]])
    assert MUG.rows_at(items, micros(*[NOON] * 4)).tolist() == [0, 0, 0, RED]


def test_a_log_without_texts_has_no_content():
    nothing = ItemContent(MUG.states.slice(0, 0), pa.array([], pa.string()), np.zeros((0, 0)))
    assert nothing.rows_at(pa.chunked_array([["mug"]]), micros(NOON)).tolist() == [0]


def test_a_text_without_a_vector_is_an_error_of_ours():
    lacking = content(("mug", NOON, "blue"))
    with pytest.raises(AssertionError, match="gave every text a vector"):
        lacking.rows_at(pa.chunked_array([["mug"]]), micros(NOON))


def test_rows_agree_with_a_plain_loop():
    draw = np.random.default_rng(0)
    states = sorted(
        {
            (f"i{draw.integers(5)}", NOON + timedelta(minutes=int(draw.integers(40))))
            for _ in range(60)
        }
    )
    named = [(item, known, draw.choice(["red", "green", None])) for item, known in states]
    known = content(*named)
    items = [f"i{draw.integers(7)}" for _ in range(400)]
    moments = [NOON + timedelta(minutes=int(draw.integers(-2, 42))) for _ in items]
    expected = []
    for item, moment in zip(items, moments, strict=True):
        seen = [name for i, at, name in named if i == item and at < moment]
        expected.append({"green": GREEN, "red": RED, None: 0}[seen[-1] if seen else None])
    found = known.rows_at(pa.chunked_array([items]), micros(*moments))
    assert found.tolist() == expected
    assert len(set(expected)) == 3


def timelines(*events, day):
    """One user's timeline of a day, events as (item, known)."""
    items, known = zip(*events, strict=True)
    return pa.table(
        {
            "user_id": ["ann"],
            "day": [day],
            "item_id": pa.array([items], pa.list_(pa.string())),
            "known_ts": pa.array([known], pa.list_(MICROS)),
        }
    )


def test_an_events_content_is_as_known_at_its_days_start_or_when_it_became_known():
    # A day in Shanghai, on which every impression that reads these events comes.
    day = NOON.date()
    start = day_start(day, samples.ZONE)
    known = content(
        ("cup", start - timedelta(hours=1), "green"),
        ("cup", start, "red"),
        ("mug", start - timedelta(hours=2), "red"),
        ("mug", start + timedelta(hours=2), "green"),
    )
    events = [
        ("cup", start - timedelta(hours=3)),  # its text came after it, and before the day
        ("mug", start - timedelta(hours=3)),
        ("mug", start + timedelta(hours=2)),
        ("mug", start + timedelta(hours=3)),
        (None, start),
    ]
    no_examples = pa.table(
        {"ad_id": pa.chunked_array([[]], pa.string()), "event_ts": pa.chunked_array([[]], MICROS)}
    )
    arrays = content_arrays(known, no_examples, timelines(*events, day=day), samples.ZONE)
    assert arrays["event_content_row"].tolist() == [GREEN, RED, RED, GREEN, 0]


@pytest.fixture(scope="module")
def rows():
    """The tiny world."""
    return samples.world(200)


@pytest.fixture(scope="module")
def known(rows):
    """Every second ad has a text from the log's second day on, corrected a day later."""
    ads = sorted(pc.unique(rows.examples["ad_id"]).to_pylist())[::2]
    days = [samples.START + timedelta(days=n) for n in (1, 2)]
    return content(*[(ad, at, n) for ad in ads for at, n in zip(days, ONES, strict=True)])


def packed(folder, rows, known=None):
    pack(folder, rows.examples, rows.timelines, samples.contract(), rows.vocabulary(), {}, known)
    return Packed(folder)


def as_of(known, item, moment):
    seen = [
        state["content_hash"]
        for state in known.states.to_pylist()
        if state["item_id"] == item and state["known_ts"] < moment
    ]
    return [0.0, 0.0] if not seen else ONES[seen[-1]]


def test_packed_rows_are_joined_to_their_examples_and_events(rows, known, tmp_path):
    found = packed(tmp_path / "packed", rows, known)
    assert found.content is not None
    assert (found.content.dtype, found.content[0].tolist()) == (np.float16, [0.0, 0.0])
    examples = sorted(rows.examples.to_pylist(), key=lambda r: (r["event_ts"], r["impression_id"]))
    expected = [as_of(known, row["ad_id"], row["event_ts"]) for row in examples]
    assert found.content[found.content_row].tolist() == expected
    assert len({tuple(vector) for vector in expected}) == 3
    at, expected = 0, []
    for line in rows.timelines.to_pylist():
        start = day_start(line["day"], samples.ZONE)
        for item, moment in zip(line["item_id"], line["known_ts"], strict=True):
            expected.append(as_of(known, item, max(moment, start)))
            at += 1
    assert at == len(found.event_us_flat)
    assert found.content[found.event_content_row].tolist() == expected


def test_no_event_tells_its_impression_of_a_later_text(rows, known, tmp_path):
    found = packed(tmp_path / "packed", rows, known)
    red, green = (to_us(samples.START + timedelta(days=n)) for n in (1, 2))
    born = np.array([0, green, red])
    for at in range(found.num_rows):
        first = found.event_offsets[found.timeline[at]]
        read = found.event_content_row[first : first + found.history_end[at]]
        assert (born[read] < found.event_us[at]).all()


def test_declared_content_changes_nothing_else_that_is_packed(rows, known, tmp_path):
    bare, full = (tmp_path / name / "packed" for name in ("bare", "full"))
    packed(bare, rows)
    found = packed(full, rows, known)
    names = {path.name for path in bare.iterdir()}
    assert {path.name for path in full.iterdir()} - names == {
        "content.npy",
        "content_row.npy",
        "event_content_row.npy",
    }
    for name in names:
        assert (bare / name).read_bytes() == (full / name).read_bytes(), name
    assert "content" not in json.loads((full / "meta.json").read_text())["spec"]
    at = np.arange(found.num_rows)
    assert Packed(bare).content is None
    one, two = Packed(bare).batch(at, 6), found.batch(at, 6)
    assert vars(one).keys() == vars(two).keys()


def test_batches_hold_content_where_the_network_reads_it(rows, known, tmp_path):
    found = packed(tmp_path / "packed", rows, known)
    spec, timeline = found.spec, Timeline(num_events=6)
    at = np.array([150, 3, 77])
    config = ranker_config(
        samples.network(content=True), timeline, spec, spec.domains, spec.tasks, found.content_dim
    )
    batch = found.batch(at, 6, content=True)
    check_batch(batch, config)
    (vectors,), (events,) = batch.content, batch.history.content
    assert vectors.tolist() == found.content[found.content_row[at]].tolist()
    for row in range(3):
        first = found.event_offsets[found.timeline[at[row]]]
        end = first + found.history_end[at[row]]
        told = found.content[found.event_content_row[max(first, end - 6) : end]].tolist()
        history = batch.history
        assert events[history.start[row] : history.end[row]].tolist() == told
    model = Ranker(config)
    other = replace(batch, content=(vectors + 1.0,))
    assert not torch.equal(model(other).logits, model(batch).logits)
    assert found.batch(at, 6).content == found.batch(at, 6).history.content == ()


def test_a_network_that_reads_content_needs_it_packed(rows, tmp_path):
    spec = packed(tmp_path / "packed", rows).spec
    with pytest.raises(ConfigError, match=r"network\.content: no vectors are packed"):
        ranker_config(samples.network(content=True), Timeline(), spec, spec.domains, spec.tasks)


def test_a_network_reads_only_content_that_the_contract_declares(tmp_path):
    reading = samples.training(network=samples.network(content=True))
    with pytest.raises(ValueError, match=r"teacher: network\.content .* found none declared"):
        samples.config(tmp_path, teacher=reading)


def shown(*rows):
    """Examples of ads at moments."""
    ads, moments = zip(*rows, strict=True)
    return pa.table({"ad_id": pa.array(ads), "event_ts": pa.array(moments, MICROS)})


def test_what_was_embedded_is_read_at_the_versions_of_the_run(tmp_path):
    first = catalogue.FIRST
    day, hour = first + timedelta(days=1), timedelta(hours=1)
    run = catalogue.config(tmp_path, day)
    texts = [
        ("mug", catalogue.moment(first, 9), "Red mug", ""),
        ("jug", catalogue.moment(first, 9), "Blue jug", ""),
        ("cold", catalogue.moment(day, 9), "Red jug", ""),
        ("mug", catalogue.moment(day, 9), "Green mug", ""),
    ]
    catalogue.arrive(run, texts)
    catalogue.embed(run)
    # Arrives again, meanwhile and otherwise.
    catalogue.arrive(run, [("mug", catalogue.moment(day, 1), "Late", "")])
    nine = catalogue.moment(day, 9)
    examples = shown(("mug", nine), ("mug", nine + hour), ("cold", nine), ("cold", nine + hour))
    lines = timelines(("mug", nine - hour), ("jug", nine + hour), day=day)
    found = content_arrays(read_content(run, examples, lines), examples, lines, "Europe/Berlin")
    by_text = {text: vector for (_, text, _), vector in catalogue.vectors(run).items()}
    titles = pa.array([f"{title}\n" for title in ("Red mug", "Blue jug", "Red jug", "Green mug")])
    names = content_hashes(titles).to_pylist()
    red, blue, cold, green = (np.float16(by_text[name]) for name in names)
    nothing = np.zeros(4, np.float16)
    for array, expected in (
        ("content_row", [red, green, nothing, cold]),
        ("event_content_row", [red, blue]),
    ):
        np.testing.assert_array_equal(found["content"][found[array]], expected)


def test_before_anything_was_fitted_the_matrix_has_its_width_and_no_content(tmp_path):
    run = catalogue.config(tmp_path, catalogue.FIRST)
    at = catalogue.moment(catalogue.FIRST, 9)
    catalogue.arrive(run, [("mug", at, "Red mug", "")])
    catalogue.embed(run)
    examples, lines = shown(("mug", at + TICK)), timelines(("mug", at), day=catalogue.FIRST)
    found = content_arrays(read_content(run, examples, lines), examples, lines, "Europe/Berlin")
    assert found["content"].tolist() == [[0.0] * 4]
    assert found["content_row"].tolist() == found["event_content_row"].tolist() == [0]
