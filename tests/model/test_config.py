"""Configurations that cannot work are refused where their fields meet."""

import pytest
from pydantic import ValidationError

from model.config import FieldConfig, RankerConfig, SoftLabel, TableConfig
from tests.model.samples import (
    config_without_history,
    distillation_config,
    history_config,
    ranker_config,
    stored_config,
)


def test_token_counts_follow_from_fields_dense_tokens_and_history():
    config = ranker_config()
    assert (config.num_feature_tokens, config.num_tokens, config.representation_dim) == (4, 7, 40)
    assert config_without_history().num_tokens == 4


def test_stored_vectors_add_feature_tokens():
    config = stored_config()
    assert (config.num_own_tokens, config.num_feature_tokens, config.num_tokens) == (4, 9, 12)


@pytest.mark.parametrize("config", [ranker_config(), stored_config()])
def test_config_survives_json(config):
    assert RankerConfig.model_validate_json(config.model_dump_json()) == config


def test_every_field_is_described():
    schema = RankerConfig.model_json_schema()
    objects = [schema, *schema["$defs"].values()]
    missing = [name for o in objects for name, p in o["properties"].items() if not p["description"]]
    assert missing == []


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        ranker_config(num_experts=2)


ITEM = TableConfig(name="item", num_rows=20, dim=5)
USER = TableConfig(name="user", num_rows=11, dim=4)
EVENT_TYPE = TableConfig(name="event_type", num_rows=4, dim=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": (ITEM, ITEM, USER, EVENT_TYPE)}, "tables: names must be unique"),
        ({"domains": ("feed", "feed")}, "domains: names must be unique"),
        ({"tasks": ("click", "click")}, "tasks: names must be unique"),
        ({"tables": (ITEM, USER)}, "history.fields.event_type: the table must be one of"),
        ({"fields": (FieldConfig(name="ad_id", table="ad"),)}, "fields.ad_id: the table must"),
        ({"history": None}, "unused .'event_type'.; remove them"),
        ({"num_dense": 0}, "num_dense_tokens: dense tokens exist exactly when"),
        ({"num_dense_tokens": 0}, "num_dense_tokens: dense tokens exist exactly when"),
        ({"width": 7}, "history.num_heads: the heads must divide width 7; found 2"),
        ({"domains": ()}, "at least 1 item"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_ranker_config_refuses(changes, message):
    with pytest.raises(ValidationError, match=message):
        ranker_config(**changes)


def test_history_without_any_column_is_refused():
    with pytest.raises(ValidationError, match="at least one column"):
        history_config(fields=(), num_dense=0)


def test_table_name_that_breaks_a_state_dict_key_is_refused():
    with pytest.raises(ValidationError, match="pattern"):
        TableConfig(name="item.v2", num_rows=2, dim=1)


@pytest.mark.parametrize("changes", [{"gradient_scale": 2.0}, {"adapter": True}])
def test_plain_distillation_refuses_settings_of_the_auxiliary_head(changes):
    with pytest.raises(ValidationError, match="choose head 'auxiliary'"):
        distillation_config(head="serving", **changes)


def test_task_distilled_twice_is_refused():
    label = SoftLabel(task="click", weight=1.0)
    with pytest.raises(ValidationError, match="soft_labels: names must be unique"):
        distillation_config(soft_labels=(label, label))
