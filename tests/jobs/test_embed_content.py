"""A text is encoded once per encoder, whenever and under whatever item it comes."""

from datetime import date, timedelta

import pyarrow as pa
import pytest

from jobs import build_tables, delta
from jobs.content.encoders import open_encoder
from jobs.content.texts import content_hashes, open_texts
from jobs.content.vectors import add, without_vector
from jobs.spark.build import Build
from tests.jobs.content import catalogue
from tests.jobs.content.catalogue import FIRST, arrive, config, embed, moment, vectors

DAY = date(2024, 3, 3)
NEXT = DAY + timedelta(days=1)
ROWS = [
    ("mug", moment(FIRST, 9), "Red mug", "for tea"),
    ("jug", moment(FIRST, 9), "Blue jug", "for milk"),
    ("lamp", moment(FIRST, 10), "White lamp", None),
    ("lamp", moment(DAY, 5), "White lamp", "with a bulb"),
]


def text_hash(text):
    return content_hashes(pa.array([text])).to_pylist()[0]


@pytest.fixture
def shop(tmp_path):
    """A run whose table of ads holds four states."""
    made = config(tmp_path, DAY)
    arrive(made, ROWS)
    return made


def corrected(shop):
    """The next day's run, by when the mug has turned green."""
    later = config(shop.home, NEXT)
    arrive(later, [("mug", moment(NEXT, 1), "Green mug", "for tea")])
    return later


def test_every_text_of_every_item_gets_a_vector(shop):
    done = embed(shop)
    texts = {"Red mug\nfor tea", "Blue jug\nfor milk", "White lamp\n", "White lamp\nwith a bulb"}
    assert {name for _, name, _ in vectors(shop)} == {text_hash(text) for text in texts}
    assert done.details["texts_encoded"] == done.rows["content_embeddings"] == 4
    assert all(sum(x * x for x in v) == pytest.approx(1, rel=1e-6) for v in vectors(shop).values())


def test_a_second_run_computes_nothing(shop):
    first = embed(shop)
    again = embed(shop)
    assert again.details["texts_encoded"] == again.rows["content_embeddings"] == 0
    assert again.outputs == first.outputs == {"content_embeddings": 0}


def test_a_changed_text_computes_that_item_alone(shop):
    embed(shop)
    before = vectors(shop)
    done = embed(corrected(shop))
    assert done.details["texts_encoded"] == 1
    added = {key: v for key, v in vectors(shop).items() if key not in before}
    assert [key[:2] for key in added] == [("mug", text_hash("Green mug\nfor tea"))]
    assert {key: vectors(shop)[key] for key in before} == before


def test_an_item_with_a_known_text_takes_its_vector_over(shop):
    embed(shop)
    later = config(shop.home, NEXT)
    arrive(later, [("cup", moment(NEXT, 1), "Red mug", "for tea")])
    done = embed(later)
    assert (done.details["texts_encoded"], done.details["rows_reused"]) == (0, 1)
    of = {key[0]: v for key, v in vectors(later).items()}
    assert of["cup"] == of["mug"]


def test_an_item_first_seen_today_gets_a_vector_today(shop):
    embed(shop)
    later = config(shop.home, NEXT)
    arrive(later, [("cold", moment(NEXT, 23), "Red lamp", "for milk")])
    embed(later)
    (vector,) = [v for (item, _, _), v in vectors(later).items() if item == "cold"]
    assert sum(x * x for x in vector) == pytest.approx(1, rel=1e-6)


def test_the_fitted_encoder_is_kept_though_texts_come(shop):
    first = embed(shop).details["encoder_version"]
    later = corrected(shop)
    texts = open_texts(later, later.contract.content)
    encoder = open_encoder(later, later.contract.content, texts)
    assert encoder is not None
    assert encoder.version == first == embed(later).details["encoder_version"]
    key = ("mug", text_hash("Red mug\nfor tea"), first)
    assert vectors(shop)[key] == encoder.encode(["Red mug\nfor tea"])[0].tolist()


def test_refitting_makes_a_version_of_its_own_and_the_old_one_stays(shop):
    first = embed(shop).details["encoder_version"]
    before = vectors(shop)
    encoder = {**catalogue.CONTENT["encoder"], "refit": 1}
    anew = config(shop.home, DAY, "anew", {**catalogue.CONTENT, "encoder": encoder})
    done = embed(anew)
    assert done.details["encoder_version"] != first
    assert done.details["texts_encoded"] == 4
    found = vectors(shop)
    assert {key: v for key, v in found.items() if key[2] == first} == before
    assert len(found) == 8


def test_nothing_known_at_or_after_the_cut_off_is_fitted_on(tmp_path):
    versions = []
    cut_off = moment(DAY, 0)
    for place, known in (("without", None), ("at", cut_off), ("before", cut_off)):
        run = config(tmp_path / place, DAY)
        back = timedelta(microseconds=1 if place == "before" else 0)
        arrive(run, ROWS if known is None else [*ROWS, ("hat", known - back, "Hat", "of wool")])
        versions.append(embed(run).details["encoder_version"])
    without, at, before = versions
    assert at == without
    assert before != without


def test_where_no_text_was_known_in_time_a_later_run_fits(tmp_path):
    run = config(tmp_path, DAY)
    arrive(run, [("hat", moment(DAY, 1), "Hat", "of wool")])
    done = embed(run)
    assert done.details["encoder_version"] is None
    assert done.outputs == {"content_embeddings": None}
    assert embed(config(tmp_path, NEXT)).details["texts_encoded"] == 1


def test_what_arrives_after_the_runs_day_is_left_to_its_own_run(shop):
    corrected(shop)
    embed(shop)
    assert text_hash("Green mug\nfor tea") not in {name for _, name, _ in vectors(shop)}


def test_an_item_without_text_has_no_vector(shop):
    arrive(shop, [("void", moment(DAY, 2), " ", None)])
    embed(shop)
    assert "void" not in {item for item, _, _ in vectors(shop)}


def test_of_two_racing_runs_one_adds_the_rows(shop):
    version = embed(shop).details["encoder_version"]
    later = corrected(shop)
    uri = later.table("content_embeddings")
    one, other = delta.open_table(uri), delta.open_table(uri)
    texts = open_texts(later, later.contract.content)
    encoder = open_encoder(later, later.contract.content, texts)
    assert encoder is not None
    fresh = without_vector(one, version, texts.states())
    made = encoder.encode(["Green mug\nfor tea"])
    add(uri, one, version, fresh, made, "one")
    with pytest.raises(delta.StaleSnapshot):
        add(uri, other, version, fresh, made, "other")
    assert len(vectors(shop)) == 5


def test_without_content_nothing_is_read_or_written(tmp_path):
    run = config(tmp_path, DAY, feeds__ads__path="ads.jsonl")
    bare = run.model_copy(update={"contract": run.contract.model_copy(update={"content": None})})
    done = embed(bare)
    assert done.details == {"content": "none declared"}
    assert (done.inputs, done.outputs) == ({}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_building_the_tables_embeds_content_where_it_is_declared(shop, monkeypatch):
    monkeypatch.setattr(build_tables, "STEPS", ())
    assert build_tables.build(shop, None).outputs == {"content_embeddings": 0}
    bare = shop.model_copy(update={"contract": shop.contract.model_copy(update={"content": None})})
    assert build_tables.build(bare, None).outputs == {}


def test_texts_are_joined_to_no_impression(shop, spark):
    rows = spark.createDataFrame([("mug", moment(DAY, 1))], "ad_id string, event_ts timestamp")
    found = Build(shop, spark).with_attributes(rows, "ad", "ad_id", "event_ts").toArrow()
    assert found.drop(["event_ts"]).to_pylist() == [{"ad_id": "mug", "ad_brand": "some"}]
