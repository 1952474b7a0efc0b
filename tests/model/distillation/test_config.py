"""Distillation that cannot work is refused where its fields meet."""

import pytest
from pydantic import ValidationError

from model.distillation.config import (
    DistillationConfig,
    DistillationOptions,
    NegativeSampling,
    SoftLabel,
    SoftLoss,
)
from tests.model.samples import distillation_config

SERVING = SoftLabel(task="click", prediction="serving")


def test_config_survives_json():
    config = distillation_config(
        soft_labels=(SERVING, SoftLabel(task="click", loss="listwise", within="batch")),
        negative_sampling=NegativeSampling(teacher_ratio=0.1, student_ratio=1.0),
        initialised=("tables.item",),
        frozen=("history",),
        label_mixing=0.5,
    )
    assert DistillationConfig.model_validate_json(config.model_dump_json()) == config


def test_every_field_is_described():
    schema = DistillationConfig.model_json_schema()
    objects = [schema, *schema["$defs"].values()]
    missing = [name for o in objects for name, p in o["properties"].items() if not p["description"]]
    assert missing == []


def test_a_task_with_several_losses_is_distilled_once():
    labels = (SERVING, SoftLabel(task="buy"), SoftLabel(task="click", loss="pairwise"))
    assert distillation_config(soft_labels=labels).tasks == ("click", "buy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "pairwise", "amplification": 2.0}, "amplification: it acts on probabilities"),
        ({"within": "batch"}, "within: only losses 'pairwise' and 'listwise' compare rows"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"weight": -1.0}, "greater than or equal to 0"),
        ({"loss": "hinge"}, "'cross_entropy', 'mean_squared', 'pairwise' or 'listwise'"),
    ],
)
def test_a_loss_refuses(changes, message):
    with pytest.raises(ValidationError, match=message):
        SoftLoss(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft_labels": (SERVING, SERVING)}, "found .*'click', 'cross_entropy', 'serving'"),
        ({"soft_labels": (SERVING,), "gradient_scale": 2.0}, "gradient_scale: .* without any"),
        ({"soft_labels": (), "adapter": True}, "adapter: .* found none; add a loss"),
        ({"label_mixing": 1.0}, "less than 1"),
        ({"initialised": ("history",), "frozen": ("history.events",)}, "which is in it"),
        ({"frozen": ("tables.a", "tables.a")}, "a part is named once"),
        ({"frozen": ("heads.shared",)}, "heads belong to a domain .* found .'heads.shared'."),
        ({"negative_sampling": {"teacher_ratio": 0.0, "student_ratio": 1.0}}, "greater than 0"),
    ],
)
def test_a_config_refuses(changes, message):
    with pytest.raises(ValidationError, match=message):
        distillation_config(**changes)


def test_tables_of_similar_names_are_different_parts():
    parts = ("tables.user", "tables.user_id", "tables.user-agent")
    assert DistillationOptions(initialised=parts).initialised == parts
