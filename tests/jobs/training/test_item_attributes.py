"""Events tell the attributes of their item as known at the event's time, where that is declared."""

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from jobs import delta
from jobs.config import with_overrides
from jobs.contract import LogContract
from jobs.spark.attributes import with_attributes
from jobs.training.inputs import Packed, pack
from jobs.training.item_attributes import ItemAttributes, read_item_attributes
from jobs.training.networks import ranker_config
from jobs.training.reader import Reader
from jobs.training.segments import Segment
from jobs.vocabulary import Vocabulary
from tests.jobs.samples import COMMIT, recipe, run_config
from tests.jobs.samples import contract as shop
from tests.jobs.spark.frames import frame, listed
from tests.jobs.training import samples

MICROS = pa.timestamp("us", "UTC")
NOON = datetime(2024, 3, 2, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
LONG_AGO = datetime(1971, 1, 1, tzinfo=UTC)
ADS = {
    "kind": "attributes",
    "entity": "ad",
    "path": "ads.parquet",
    "key": "ad",
    "known_ts": "t",
    "attributes": {"brand": "brand", "shape": "shape"},
}


def timelines(*histories):
    """Timelines of (item, time) events; the moments at which they became known say nothing here."""
    return pa.table(
        {
            "item_id": pa.array([[i for i, _ in one] for one in histories], pa.list_(pa.string())),
            "event_ts": pa.array([[at for _, at in one] for one in histories], pa.list_(MICROS)),
        }
    )


def states(*rows):
    """States as (item, known, brand, shape), in order of all four."""
    names = ("item_id", "known_ts", "ad_brand", "ad_shape")
    kinds = (pa.string(), MICROS, pa.string(), pa.string())
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return ItemAttributes({"attributes_ads": pa.table(arrays, names=names)})


MUG = states(
    ("jug", NOON - timedelta(days=9), "blank", None),
    ("mug", NOON, "red", "round"),
    ("mug", NOON + timedelta(hours=1), "green", "round"),
    ("mug", NOON + timedelta(hours=2), None, "round"),
)


@pytest.mark.parametrize(
    ("at", "brand"),
    [
        (NOON, None),  # not before it was known
        (NOON + TICK, "red"),
        (NOON + timedelta(hours=1), "red"),  # what changes after the event does not show
        (NOON + timedelta(hours=1) + TICK, "green"),
        (NOON + timedelta(hours=3), None),  # withdrawn
    ],
)
def test_an_events_attribute_is_the_last_one_known_strictly_before_it(at, brand):
    assert MUG.of_events("ad_brand", timelines([("mug", at)])).to_pylist() == [brand]


def test_items_that_are_no_ads_or_unknown_have_no_attributes():
    told = timelines([("ark", NOON), (None, NOON)], [], [("jug", NOON), ("zoo", NOON)])
    assert MUG.of_events("ad_brand", told).to_pylist() == [None, None, "blank", None]


def declaring(*names, **changes):
    features = {"features__categorical": ["user_id", "ad_id", "surface", "hour", *names]}
    return shop(feeds__ads=ADS, timeline_item_attributes=list(names), **features, **changes)


def test_an_event_tells_what_an_example_of_its_moment_would_tell(spark, tmp_path):
    """Both readers, on random states with copies, ties and gaps."""
    draw = random.Random(0)
    moments = [NOON + timedelta(minutes=n) for n in range(6)]

    def some(count, *choices):
        return [tuple(draw.choice(c) for c in choices) for _ in range(count)]

    rows = some(80, "abcdef", moments, ("x", "y", None), ("p", "q", None))
    events = list(
        dict.fromkeys(some(60, "abcdefg", [m + TICK * d for m in moments for d in (0, 1)]))
    )
    config = run_config(tmp_path, recipe(declaring("ad_brand", "ad_shape")), NOON.date())
    columns = ("entity_id", "known_ts", "ad_brand", "ad_shape")
    kinds = (pa.string(), MICROS, pa.string(), pa.string())
    arrays = [pa.array(c, k) for c, k in zip(zip(*rows, strict=True), kinds, strict=True)]
    held = pa.table(arrays, names=columns)
    uri = config.table("attributes_ads")
    delta.write_arrow_day(uri, held, NOON.date(), list(columns), COMMIT)
    # A later version corrects everything; the examples did not see it.
    wrong = held.set_column(2, "ad_brand", pa.array(["wrong"] * len(rows)))
    delta.write_arrow_day(uri, wrong, NOON.date(), list(columns), COMMIT)
    attributes = read_item_attributes(config, {"attributes_ads": 0}, timelines(events))
    found = {
        name: attributes.of_events(name, timelines(events)).to_pylist() for name in columns[2:]
    }
    schema = "entity_id string, known_ts timestamp, ad_brand string, ad_shape string"
    asked = frame(spark, "item string, at timestamp", *events)
    answers = with_attributes(
        asked, frame(spark, schema, *rows), "item", "at", ["ad_brand", "ad_shape"]
    )
    expected = {
        (row["item"], row["at"]): (row["ad_brand"], row["ad_shape"]) for row in listed(answers)
    }
    assert len(expected) == len(events)
    pairs = zip(found["ad_brand"], found["ad_shape"], strict=True)
    assert dict(zip(events, pairs, strict=True)) == expected
    assert len({*found["ad_brand"]}) == 3


def test_a_table_that_is_not_there_yet_tells_nothing(tmp_path):
    config = run_config(tmp_path, recipe(declaring("ad_brand")), NOON.date())
    attributes = read_item_attributes(config, {}, timelines([("mug", NOON)]))
    assert attributes.of_events("ad_brand", timelines([("mug", NOON)])).to_pylist() == [None]


@pytest.fixture(scope="module")
def world():
    """Rows with ads' brands, whose brand changes in the middle, and a contract that declares it."""
    rows = samples.world(200)
    base = samples.contract(categorical=["user_id", "ad_id", "surface", "hour"])
    values = base.model_dump(mode="json")
    values["feeds"]["ads"] = {**ADS, "attributes": {"brand": "brand"}}
    values["features"]["categorical"].append("ad_brand")
    values["timeline_item_attributes"] = ["ad_brand"]
    brands = pa.array(["old"] * rows.examples.num_rows)
    examples = rows.examples.append_column("ad_brand", brands)
    vocabulary = rows.vocabulary()
    known = {**vocabulary.values, "ad_brand": pa.array(["old", "new"])}
    return rows, examples, LogContract.model_validate(values), Vocabulary(0, known)


def test_packed_events_have_a_column_per_declared_attribute_that_models_embed(world, tmp_path):
    rows, examples, contract, vocabulary = world
    items = sorted({i for row in rows.timelines["item_id"].to_pylist() for i in row})
    times = [t for row in rows.timelines["event_ts"].to_pylist() for t in row]
    middle = sorted(times)[len(times) // 2]
    both = [(i, at, b) for i in items for at, b in ((LONG_AGO, "old"), (middle, "new"))]
    names, kinds = ("item_id", "known_ts", "ad_brand"), (pa.string(), MICROS, pa.string())
    arrays = [pa.array(c, k) for c, k in zip(zip(*both, strict=True), kinds, strict=True)]
    attributes = ItemAttributes({"attributes_ads": pa.table(arrays, names=names)})
    spec = pack(
        tmp_path / "packed", examples, rows.timelines, contract, vocabulary, {}, None, attributes
    )
    packed = Packed(tmp_path / "packed")
    old, new = 1, 2
    expected = [new if t > middle else old for t in times]
    assert packed.event_categorical[:, -1].tolist() == expected
    assert list(spec.event_fields) == ["item_id", "event_type", "surface", "ad_brand"]
    sizes = ranker_config(
        samples.network(), samples.config(tmp_path).timeline, packed.spec, spec.domains, spec.tasks
    )
    assert sizes.history is not None
    assert [(f.name, f.table) for f in sizes.history.fields][-1] == ("ad_brand", "ad_brand")
    plain = pack(
        tmp_path / "plain", rows.examples, rows.timelines, samples.contract(), vocabulary, {}
    )
    assert plain.item_attributes == []
    without = Packed(tmp_path / "plain").event_categorical
    np.testing.assert_array_equal(packed.event_categorical[:, :-1], without)


def test_an_evicted_attribute_is_learnt_as_unknown(world, tmp_path):
    rows, examples, contract, vocabulary = world
    gone = Vocabulary(0, vocabulary.values, {"ad_brand": [1]})
    items = pc.unique(pa.chunked_array([c.flatten() for c in rows.timelines["item_id"].chunks]))
    known = pa.array([LONG_AGO] * len(items), MICROS)
    table = pa.table({"item_id": items, "known_ts": known, "ad_brand": ["old"] * len(items)})
    attributes = ItemAttributes({"attributes_ads": table.sort_by("item_id")})
    pack(tmp_path / "packed", examples, rows.timelines, contract, gone, {}, None, attributes)
    packed = Packed(tmp_path / "packed")
    reader = Reader(packed, [0, 1], None, np.arange(2), 64, samples.NUM_EVENTS)
    (piece, *_) = reader.pieces(Segment(None, samples.END), 0, 1)
    held = reader.batch(piece.rows).history
    assert piece.batch.history is not None and held is not None
    assert torch.equal(
        held.categorical[:, -1], torch.ones(len(held.categorical), dtype=torch.int64)
    )
    assert not piece.batch.history.categorical[:, -1].any()
    assert torch.equal(piece.batch.history.categorical[:, :-1], held.categorical[:, :-1])


def test_declaring_an_attribute_is_another_configuration():
    plain = recipe(
        shop(feeds__ads=ADS, features__categorical=["user_id", "ad_id", "surface", "ad_brand"])
    )
    declared = with_overrides(plain, {"contract.timeline_item_attributes": ["ad_brand"]})
    assert declared.content_hash != plain.content_hash
