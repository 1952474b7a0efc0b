"""Overrides, the hash of what matters, days in a time zone, and the frozen file of a run."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from jobs.command import write_json
from jobs.config import (
    Recipe,
    RunConfig,
    day_of,
    day_start,
    days_between,
    lapidary_home,
    load_config,
    parse_day,
    with_overrides,
)
from jobs.errors import ConfigError
from jobs.recipes import RECIPES, kuairand, named_recipe
from jobs.training_settings import Trial
from model.interaction.config import MlpConfig
from tests.jobs.samples import DAY, raw_contract, recipe, run_config

UPSTREAM = {"num_stages": 1, "ffn_hidden": 8}


def test_every_recipe_resolves():
    for name in RECIPES:
        settings = named_recipe(name)
        assert settings.name == name
        assert with_overrides(settings, {}) == settings


def test_an_unknown_recipe_is_told_with_those_that_are():
    with pytest.raises(ConfigError, match=r"unknown recipe 'tini'; there are kuairand, gem"):
        named_recipe("tini")


@pytest.mark.parametrize(
    "overrides",
    [
        {"teacher.network.interaction.rank": 3},
        {"teacher": {"network": {"interaction": {"rank": 3}}}},
        {"teacher.network": {"interaction.rank": 3}},
        {"teacher": {"network.interaction.rank": 3}},
    ],
)
def test_dotted_and_nested_keys_change_the_same_value(overrides):
    base = recipe()
    changed = with_overrides(base, overrides)
    stack, before = changed.teacher.network.interaction, base.teacher.network.interaction
    assert stack == before.model_copy(update={"rank": 3})
    assert stack != before


@pytest.mark.parametrize(
    "overrides",
    [
        {"teacher.network.interaction": {"kind": "mlp", "hidden": [32]}},
        {"teacher.network.interaction.kind": "mlp", "teacher.network.interaction.hidden": [32]},
    ],
)
def test_another_kind_takes_nothing_over(overrides):
    changed = with_overrides(recipe(), overrides)
    assert changed.teacher.network.interaction == MlpConfig(hidden=(32,))


def test_lists_are_replaced_whole():
    trials = [{"lr_dense": 0.1, "lr_sparse": 0.2}, {"lr_dense": 0.3, "lr_sparse": 0.4}]
    changed = with_overrides(recipe(), {"teacher.trials": trials})
    assert changed.teacher.trials == (
        Trial(lr_dense=0.1, lr_sparse=0.2),
        Trial(lr_dense=0.3, lr_sparse=0.4),
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"teacher.batchsize": 1}, "unknown key teacher.batchsize; did you mean 'batch_size'?"),
        ({"timelines": {}}, "unknown key timelines; did you mean 'timeline'?"),
        (
            {"teacher.network.interaction.ranks": 3},
            "unknown key teacher.network.interaction.ranks; did you mean 'rank'?",
        ),
        ({"teacher.batch_size": "many"}, "teacher.batch_size: Input should be a valid integer"),
        ({"teacher.batch_size": 0}, "teacher.batch_size: Input should be greater than or equal"),
        ({"windows": 3}, "windows: Input should be a valid dictionary"),
        ({"name.first": "x"}, "name: Input should be a valid string"),
        ({"contract.tasks.click.window": "1w"}, "contract.tasks.click.window: a duration is"),
        ({"contract.feeds.shown.idd": 1}, "unknown key contract.feeds.shown.idd; did you mean"),
        ({"contract.features.windows_days": [7]}, "contract: features.windows_days"),
        ({"teacher.network.num_events": 129}, "teacher: network.num_events is at most timeline"),
        (
            {"domain_student.alignment": {}},
            "domain_student.alignment: it reads what the teacher keeps of impressions; found no",
        ),
        (
            {"vertical_student.representation_history": {}},
            "vertical_student.representation_history: it reads what the teacher keeps",
        ),
        (
            {"vertical_student.user_vector": {}},
            "vertical_student.user_vector: it reads vectors of users; found no user_vectors",
        ),
        ({"user_vectors": {}}, "user_vectors: they come from teacher.network.upstream; found none"),
        ({"representation": {"search_by": "colour"}}, "representation.search_by: one of"),
        (
            {"teacher.network.upstream": UPSTREAM, "user_vectors.high_value_events": ["purchase"]},
            "found ['purchase']; correct the names",
        ),
        ({"representation.prefixes": [8, 4]}, "representation.prefixes: nested widths grow, each"),
        (
            {
                "teacher.network.num_events": 0,
                "teacher.network.interformer": {"max_events": 8},
            },
            "upstream and interformer read a history; found 0 events",
        ),
        (
            {
                "teacher.network.num_events": 0,
                "teacher.network.downstream": {"kind": "din", "hidden": [8]},
            },
            "downstream, upstream and interformer read a history; found 0 events",
        ),
        ({"contract": "/nowhere/log.yaml"}, "contract: no file /nowhere/log.yaml"),
        ([1], "overrides: a JSON object of settings; found [1]"),
    ],
)
def test_a_wrong_override_is_told_with_its_place(overrides, message):
    with pytest.raises(ConfigError) as error:
        with_overrides(recipe(), overrides)
    assert message in str(error.value)


def test_a_contract_may_be_given_by_its_path(tmp_path):
    path = tmp_path / "log.yaml"
    path.write_text(yaml.safe_dump(raw_contract(name="other")))
    changed = with_overrides(
        kuairand(),
        {"contract.features.windows_days": [1, 3], "contract": str(path), "log_uri": "/logs"},
    )
    assert changed.contract.name == "other"
    assert changed.contract.features.windows_days == [1, 3]
    assert changed.log_uri == "/logs"
    assert changed.teacher == kuairand().teacher


NO_CONTENT = {
    "name": "x",
    "log_uri": "/x",
    "resources": {"num_workers": 7},
    "maintenance": {"retention_days": 9},
    "scaling_law": {"num_days": 3},
}
CONTENT: dict[str, Any] = {
    "contract": {"features": {"windows_days": [1, 14]}},
    "windows": {"gate_hours": 3},
    "timeline": {"lookback_days": 3},
    "teacher": {"seed": 9},
    "domain_student": {"distillation": {"label_mixing": 0.5}},
    "vertical_student": {"training": {"seed": 9}},
    "teachers": {"app-feed": "teacher"},
    "representation": {"bits": 8},
    "user_vectors": {"lookback_days": 3},
    "gates": {"num_resamples": 99},
}


def test_every_key_either_changes_the_content_or_is_known_not_to():
    assert {*NO_CONTENT, *CONTENT} == set(Recipe.model_fields)


@pytest.mark.parametrize("key", CONTENT)
def test_the_content_hash_changes_with(key):
    base = with_overrides(recipe(), {"teacher.network.upstream": UPSTREAM})
    assert with_overrides(base, {key: CONTENT[key]}).content_hash != base.content_hash


@pytest.mark.parametrize("key", NO_CONTENT)
def test_the_content_hash_does_not_change_with(key):
    base = recipe()
    changed = with_overrides(base, {key: NO_CONTENT[key]})
    assert changed != base
    assert changed.content_hash == base.content_hash


def test_a_run_has_the_content_hash_of_its_recipe(tmp_path):
    settings = recipe()
    assert run_config(tmp_path, settings, DAY).content_hash == settings.content_hash


def test_a_run_config_cannot_be_changed(tmp_path):
    config = run_config(tmp_path, recipe(), DAY)
    with pytest.raises(ValidationError, match="frozen"):
        config.home = "/elsewhere"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="frozen"):
        config.teacher.network.width = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("first", [None, date(2024, 3, 4)])
def test_a_run_config_survives_its_file(tmp_path, first):
    config = run_config(tmp_path, recipe(), DAY, first=first)
    path = config.run_folder / "config.json"
    write_json(path, config.model_dump(mode="json"))
    assert load_config(str(path)) == config
    assert isinstance(load_config(str(path)), RunConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--config: no file "),
        ("{", "is not JSON"),
        ('{"name": "x"}', "config.json: contract is missing; add it"),
    ],
)
def test_an_unreadable_config_file_is_told(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(str(path))
    assert message in str(error.value)


def test_a_written_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "a" / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="keys"):
        write_json(path, {"a": 2, "b": {(1, 2): 3}})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("zone", "day", "start", "hours"),
    [
        ("UTC", date(2024, 3, 31), datetime(2024, 3, 31), 24),
        ("Asia/Shanghai", date(2022, 5, 1), datetime(2022, 4, 30, 16), 24),
        ("America/New_York", date(2024, 11, 3), datetime(2024, 11, 3, 4), 25),
        ("Europe/Berlin", date(2024, 3, 31), datetime(2024, 3, 30, 23), 23),
        ("Europe/Berlin", date(2024, 10, 27), datetime(2024, 10, 26, 22), 25),
        # The clock leaps over midnight, or strikes it twice.
        ("America/Sao_Paulo", date(2018, 11, 4), datetime(2018, 11, 4, 3), 23),
        ("America/Havana", date(2024, 11, 3), datetime(2024, 11, 3, 4), 25),
    ],
)
def test_a_day_starts_at_its_midnight_and_lasts_until_the_next(zone, day, start, hours):
    begin = day_start(day, zone)
    end = day_start(day + timedelta(days=1), zone)
    assert begin == start.replace(tzinfo=UTC)
    assert end - begin == timedelta(hours=hours)
    assert day_of(begin, zone) == day
    assert day_of(end - timedelta(microseconds=1), zone) == day
    assert day_of(begin - timedelta(microseconds=1), zone) == day - timedelta(days=1)


def test_days_between_holds_both_ends():
    assert days_between(date(2024, 2, 28), date(2024, 3, 1)) == [
        date(2024, 2, 28),
        date(2024, 2, 29),
        date(2024, 3, 1),
    ]
    assert days_between(date(2024, 3, 2), date(2024, 3, 1)) == []


def test_a_day_is_parsed_or_told():
    assert parse_day("2024-02-29", "--day") == date(2024, 2, 29)
    with pytest.raises(ConfigError, match=r"--day: a day is YYYY-MM-DD; found '2023-02-29'"):
        parse_day("2023-02-29", "--day")


def test_the_home_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path / "a" / ".." / "b"))
    assert lapidary_home() == tmp_path / "b"
    monkeypatch.setenv("LAPIDARY_HOME", "")
    assert lapidary_home().name == "var"


def test_tables_and_runs_lie_below_the_home(tmp_path):
    config = run_config(tmp_path, recipe(), DAY, run_id="r7")
    assert config.table("labels") == f"{tmp_path}/tables/shop/labels"
    assert config.run_folder == tmp_path / "runs" / "r7"
