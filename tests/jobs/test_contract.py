"""Every rule of the log contract has a log that breaks it, and says so where it was broken."""

import json
from datetime import timedelta

import jsonschema
import pytest
import yaml

from jobs.check_contract import contract_schema
from jobs.config import REPOSITORY
from jobs.contract import LogContract, load_contract
from jobs.errors import ConfigError
from jobs.settings import checked
from tests.jobs.samples import contract, raw_contract

BRANDS = {
    "feeds__ads": {
        "kind": "attributes",
        "entity": "ad",
        "path": "ads.parquet",
        "key": "ad",
        "known_ts": "t",
        "attributes": {"brand": "brand"},
    },
    "features__categorical": ["user_id", "ad_id", "surface", "hour", "ad_brand"],
}
ONE_FILE_ONLY = {
    "feeds": {
        "shown": {
            **raw_contract()["feeds"]["shown"],
            "outcomes": {"click": {"when": "a"}, "buy": {"when": "b"}},
        }
    },
    "tasks__buy__outcomes": ["buy"],
    "features__counts__buy": ["buy"],
    "features__counts__visit": None,
    "timeline_event_types": ["impression", "click"],
}
"""Changes after which no feed can bring an event type that the contract does not name."""

ATTRIBUTES = {"kind": "attributes", "entity": "user", "path": "u.parquet", "key": "user"}


BUNDLED = sorted((REPOSITORY / "infra" / "contracts").glob("*.yaml"))
SCHEMA = REPOSITORY / "infra" / "contracts" / "contract.schema.json"
SECOND_LOG = REPOSITORY / "tests" / "data" / "second_log" / "contract.yaml"


def test_the_bundled_contracts_load():
    assert [load_contract(path).name for path in BUNDLED] == [
        "kuairand",
        "movielens",
        "simulated",
        "uci_retail",
        "world",
    ]


def test_the_schema_beside_the_contracts_is_that_of_the_code():
    assert SCHEMA.read_text(encoding="utf-8") == contract_schema() + "\n", (
        "python -m jobs.check_contract --schema > infra/contracts/contract.schema.json"
    )


def in_editor(path):
    """A contract's values as an editor holds them against the schema."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return json.loads(json.dumps(raw, default=str))


@pytest.mark.parametrize("path", [*BUNDLED, SECOND_LOG], ids=lambda path: path.stem)
def test_a_contract_names_the_schema_that_it_fits(path):
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == SCHEMA
    jsonschema.validate(in_editor(path), json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feeds__shown__user_idd": "u"}, "feeds"),
        ({"tasks__click__window": "half an hour"}, "'half an hour' does not match"),
        ({"tasks__click__level": "page"}, "'page' is not one of"),
        ({"features": None}, "'features' is a required property"),
    ],
)
def test_the_schema_refuses_what_the_code_refuses(changes, message):
    raw = json.loads(json.dumps(raw_contract(**changes), default=str))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError) as error:
        jsonschema.validate(raw, schema)
    assert message in f"{error.value.message} {list(error.value.path)}"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"feeds__shown__user_idd": "u"}, ["unknown key feeds.shown.user_idd", "'user_id'"]),
        ({"feeds__acts__surface": "s"}, ["unknown key feeds.acts.surface", "known here"]),
        ({"feeds__shown__event_ts": {"colum": "at"}}, ["feeds.shown.event_ts.colum", "'column'"]),
        ({"feeds__shown__user_id": None}, ["feeds.shown.user_id is missing; add it"]),
        ({"feeds__shown__kind": "impression"}, ["feeds.shown", "'impression'", "'impressions'"]),
        ({"feeds__shown__user_id": {"unit": "s"}}, ["feeds.shown.user_id", "exactly one of"]),
        ({"feeds__shown": None}, ["exactly one is of kind `impressions`; found ['outcomes'"]),
        ({"time_zone": "Europe/Atlantis"}, ["time_zone", "'Europe/Atlantis'", "Europe/Berlin"]),
        ({"tasks__click__window": "half an hour"}, ["tasks.click.window", "such as 30m", "half"]),
        ({"tasks__click__window": 30}, ["tasks.click.window", "such as 30m; found 30"]),
        (
            {"tasks__click__zipper_windows": ["1d", "24h"]},
            ["tasks.click", "different windows", "1 day"],
        ),
        (
            {"tasks__click__zipper_windows": ["1d", "3d"], "tasks__click__zipper_shares": [1.0]},
            ["zipper_shares: one for each of the 2 zipper_windows, of sum 1; found [1.0]"],
        ),
        (
            {
                "tasks__click__zipper_windows": ["1d", "3d"],
                "tasks__click__zipper_shares": [0.5, 0.4],
            },
            ["of sum 1; found [0.5, 0.4]"],
        ),
        ({"features__bags": ["ad_topics"]}, ["features.bags: unknown column 'ad_topics'"]),
        ({"features__bags": ["hour"]}, ["features.bags", "no other feature", "found ['hour']"]),
        (
            {
                "feeds__shown__context": {"position": "p", "tags": "tags"},
                "features__bags": ["tags", "tags"],
            },
            ["features.bags", "each named once", "found ['tags']"],
        ),
        (
            {
                "feeds__shown__context": {
                    "position": "p",
                    "tags": {"column": "tags", "values": ["a"]},
                },
                "features__bags": ["tags"],
            },
            ["features.bags: tags is made of lists", "say nothing; remove them"],
        ),
        ({"name": "My Log"}, ["lower case", "'My Log'"]),
        ({"feeds__shown__context": {"Position": "p"}}, ["lower case", "'Position'"]),
        ({"feeds__shown__path": "{hour}/x"}, ["feeds.shown", "{day} alone", "'{hour}/x'"]),
        (
            {"feeds__shown__path": "d/{day}", "feeds__shown__format": "delta"},
            ["feeds.shown.path", "format delta has no folder per day"],
        ),
        (
            {
                "feeds__past": {
                    "kind": "sequences",
                    "path": "past/{day}",
                    "user_id": "u",
                    "last_ts": "t",
                    "surface": "old",
                    "sequences": {"seen": "seen"},
                }
            },
            ["feeds.past.path", "a feed of sequences"],
        ),
        (
            {"feeds__shown__context": {"position": {"expr": "least(dwell, 3)"}}},
            ["context 'position' reads 'dwell'", "only after the impression", "remove"],
        ),
        (
            {"feeds__shown__context": {"position": "dwell"}},
            ["context 'position' reads 'dwell'"],
        ),
        ({"feeds__shown__path": "../shown"}, ["feeds.shown.path", "below the log", "'../shown'"]),
        ({"feeds__shown__path": "/etc/x"}, ["feeds.shown.path", "without a leading /"]),
        ({"feeds__acts__ready": "{day}/../../x"}, ["feeds.acts.ready", "found '{day}/../../x'"]),
        (
            {"feeds__shown__bid": {"column": "b", "values": ["1"]}},
            ["feeds.shown.bid: `values` are of text"],
        ),
        (
            {"feeds__shown__surface": {"column": "p", "min": 1}},
            ["feeds.shown.surface: `min` and `max` are of numbers"],
        ),
        (
            {"feeds__shown__event_ts": {"column": "at", "unit": "us", "values": ["1"]}},
            ["feeds.shown.event_ts: `values` are of text"],
        ),
        (
            {"feeds__shown__bid": {"column": "b", "min": 2, "max": 1}},
            ["feeds.shown.bid: `min` is at most `max`; found 2 and 1"],
        ),
        (
            {"feeds__shown__surface": {"column": "p", "values": []}},
            ["feeds.shown.surface: `values` lists no value"],
        ),
        (
            {"feeds__shown__context": {"position": {"column": "p", "values": ["1"], "min": 1}}},
            ["feeds.shown.context.position: give `values` or a range"],
        ),
        (
            {"domains__app__verticals__search": {"surfaces": ["search", "feed"]}},
            ["surface 'feed' is in app.feed and in app.search", "belongs to one vertical"],
        ),
        (
            {"domains__app__verticals__search__tasks": ["clik"]},
            ["domains.app.verticals.search.tasks: unknown task 'clik'", "['buy', 'click']"],
        ),
        (
            {"tasks__click__level": "domain"},
            ["domains.app.verticals.feed: no task"],
        ),
        (
            {"features__categorical": ["user_id", "ad_id", "surface", "hours"]},
            ["features.categorical: unknown column 'hours'; did you mean 'hour'?"],
        ),
        (
            {"features__numeric": ["zzz"]},
            ["features.numeric: unknown column 'zzz'; known are ['ad_id', "],
        ),
        (
            {"features__entities__city": ["user_city"]},
            ["features.entities.city: unknown column 'user_city'"],
        ),
        (
            {"features__entities__place": ["position"]},
            ["features.entities.place", "found ['position'], which no other event has"],
        ),
        (
            {"features__entities__hour": ["hour"]},
            ["features.entities.hour", "found ['hour'], which no other event has"],
        ),
        (
            {"features__categorical": ["user_id", "surface"]},
            ["features.categorical: ad_id is missing"],
        ),
        (
            {"features__categorical": ["ad_id", "surface", "position"]},
            ["categorical or numeric; found both of ['position']"],
        ),
        (
            {"features__rates__click": "view"},
            ["features.rates: click / view names no count", "['impression', 'click', 'buy'"],
        ),
        (
            {"features__rates__buy": None},
            ["features.rates: task 'buy' has no rate; count ['buy', 'basket'] and divide"],
        ),
        ({"features__rates__buy": "click"}, ["features.rates: task 'buy' has no rate"]),
        (
            {"features__prior_entity": "everything"},
            ["features.prior_entity: 'everything' is no entity; the entities are ['all', "],
        ),
        (
            {"features__entities__surface": None},
            ["features.entities: no entity has the key [surface]; add one"],
        ),
        (
            {"features__recency": {"clicks": ["user"]}},
            ["features.recency: unknown count 'clicks'; did you mean 'click'?"],
        ),
        (
            {"features__recency": {"click": ["usr"]}},
            ["features.recency.click: unknown entity 'usr'; did you mean 'user'?"],
        ),
        (
            {"features__recency": {"click": ["user", "user"]}},
            ["features.recency.click: different entities; found ['user', 'user']"],
        ),
        (
            {"features__recency": {"click": ["user"]}}
            | {"feeds__shown__context": {"position": "p", "user_click_last_ts": "p"}},
            ["names of their own; found two called ['user_click_last_ts']"],
        ),
        ({"features__rate_prior_strength": 0}, ["features.rate_prior_strength", "found 0"]),
        ({"features__windows_days": [7, 30]}, ["features.windows_days", "1 among them"]),
        ({"features__windows_days": [1, 7, 7]}, ["features.windows_days", "found [1, 7, 7]"]),
        ({"features__windows_days": [1, 0]}, ["features.windows_days.1", "(found 0)"]),
        (
            {"feeds__shown__context": {"position": "p", "bid": "b"}},
            ["names of their own; found two called ['bid']"],
        ),
        (
            {"features__entities__user_surface": None, "features__entities__all_user": ["ad_id"]}
            | {"features__counts__user_click": ["click"]},
            ["two called ['all_user_click_1d', 'all_user_click_2d', 'all_user_click_7d']"],
        ),
        (
            {
                "feeds__one": {**ATTRIBUTES, "known_ts": "t", "attributes": {"city": "a"}},
                "feeds__two": {**ATTRIBUTES, "known_ts": "t", "attributes": {"city": "b"}},
            },
            ["two called ['user_city']"],
        ),
        (
            {"timeline_item_attributes": ["ad_id"]},
            ["timeline_item_attributes: no categorical attribute of ads 'ad_id'; known are []"],
        ),
        (
            {**BRANDS, "timeline_item_attributes": ["ad_brnd"]},
            ["no categorical attribute of ads 'ad_brnd'; did you mean 'ad_brand'?"],
        ),
        (
            {**BRANDS, "timeline_item_attributes": ["ad_brand", "ad_brand"]},
            ["timeline_item_attributes: different attributes; found ['ad_brand', 'ad_brand']"],
        ),
        (
            {**ONE_FILE_ONLY, "tasks__click__outcomes": ["clik"]},
            ["tasks.click.outcomes: unknown outcome 'clik'; did you mean 'click'?"],
        ),
        (
            {**ONE_FILE_ONLY, "features__counts__visit": ["visits"]},
            ["features.counts.visit: unknown event type 'visits'; known are ['buy', "],
        ),
        (
            {**ONE_FILE_ONLY, "timeline_event_types": ["impresion"]},
            ["timeline_event_types: unknown type 'impresion'; did you mean 'impression'?"],
        ),
    ],
)
def test_a_broken_rule_is_told_with_its_place(changes, parts):
    with pytest.raises(ConfigError) as error:
        contract(**changes)
    for part in ["contract: ", *parts]:
        assert part in str(error.value)


def test_without_events_feeds_a_contract_still_loads():
    assert contract(**ONE_FILE_ONLY).outcome_types == ["buy", "click"]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("12 h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("PT1H30M", timedelta(minutes=90)),
    ],
)
def test_durations_are_read_with_their_unit(text, length):
    assert contract(tasks__buy__window=text).tasks["buy"].window == length


def test_a_feed_names_the_raw_columns_that_it_declares_or_computes_with():
    feed = contract(
        feeds__shown__columns={"declared": "int"},
        feeds__shown__where="kind = 'shown'",
        feeds__shown__context={"position": {"expr": "least(`the place`, 3)"}},
        feeds__shown__outcomes={"click": {"when": "Clicked = 1", "value": "price"}},
    ).feeds["shown"]
    named = ("id", "user", "declared", "kind", "the place", "clicked", "price", "dwell")
    assert [name for name in named if not feed.names(name)] == []
    # Neither a word of the contract, nor a part of a name.
    unnamed = ("impressions", "parquet", "us", "position", "pric", "click", "declare")
    assert [name for name in unnamed if feed.names(name)] == []


def test_the_longest_window_and_the_types_that_decide_follow_from_what_a_task_declares():
    task = contract(tasks__buy__zipper_windows=["12h", "3d"]).tasks["buy"]
    assert task.longest_window == timedelta(days=3)
    assert task.read_types == {"buy", "basket"}
    log = contract(tasks__buy__attribution="click_through", tasks__buy__clicks=["tap"])
    assert log.tasks["buy"].read_types == {"buy", "basket", "tap"}
    assert log.outcome_types == ["basket", "buy", "click", "tap"]


def test_undated_attributes_are_features_only_where_wanted():
    undated = {**ATTRIBUTES, "attributes": {"city": "city"}}
    by_day = {**undated, "path": "u/{day}.parquet"}
    dated = {**undated, "known_ts": "known"}
    assert contract(feeds__users=undated).attribute_columns("user") == []
    for feed in (by_day, dated):
        assert contract(feeds__users=feed).attribute_columns("user") == ["user_city"]
    wanted = contract(feeds__users=undated, features__use_undated_attributes=True)
    assert wanted.attribute_columns("user") == ["user_city"]
    assert wanted.attribute_columns("ad") == []


def test_a_vertical_predicts_its_own_tasks_or_all_of_its_level():
    both = contract(domains__app__verticals__search__tasks=["click", "buy"])
    assert both.vertical_tasks("app", "feed") == ["click"]
    assert both.vertical_tasks("app", "search") == ["click", "buy"]


def test_a_surface_leads_to_its_domain_and_vertical():
    places = {"feed": ("app", "feed"), "search": ("app", "search")}
    assert contract().surface_vertical == places


def test_the_rate_of_a_task_is_of_the_same_outcomes_per_impression():
    log = contract(
        features__counts__click_or_buy=["click", "buy"],
        features__rates={"click_or_buy": "impression", "click": "impression", "buy": "impression"},
    )
    assert [log.rate_of(task) for task in log.tasks.values()] == ["click", "buy"]


def test_a_contract_is_read_from_yaml(tmp_path):
    path = tmp_path / "log.yaml"
    path.write_text(yaml.safe_dump(raw_contract()))
    assert load_contract(path) == contract()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "contract: no file "),
        ("a: [1", "contract log.yaml: not YAML: "),
        ("", "contract log.yaml: (top): Input should be a valid dictionary"),
        ("nme: x", "contract log.yaml: unknown key nme; did you mean 'name'?"),
    ],
)
def test_an_unreadable_contract_is_told_by_its_file(tmp_path, text, message):
    path = tmp_path / "log.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_contract(path)
    assert message in str(error.value)


def test_a_contract_survives_json():
    log = contract(tasks__click__zipper_windows=["1d", "3d"])
    assert checked(LogContract, log.model_dump(mode="json"), "again") == log
