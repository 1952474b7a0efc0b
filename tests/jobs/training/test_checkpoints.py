"""A checkpoint is read whole and unaltered, and goes on only as the model that it is."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from safetensors import safe_open

from jobs.errors import ConfigError
from jobs.training import checkpoints, trainee
from jobs.training.checkpoints import (
    Card,
    copy_checkpoint,
    load_checkpoint,
    load_model,
    read_card,
    weights_hash,
)
from jobs.training_settings import Distillation, SoftTerm, Student
from tests.jobs.training import samples

FIRST, SECOND = samples.segments(*samples.days(1.5, 2.5))


@pytest.fixture(scope="module")
def world():
    return samples.world(200)


@pytest.fixture
def config(tmp_path):
    return samples.config(tmp_path)


@pytest.fixture
def saved(config, world, tmp_path):
    """(folder, card, learner) of a teacher after its first segment."""
    reader = samples.reader(config, world)
    card, learner = samples.teacher(config, reader, [FIRST])
    card, _ = trainee.train(card, learner, reader, [FIRST])
    trainee.save(tmp_path / "model", card, learner)
    return tmp_path / "model", card, learner


def child(tmp_path, world, parent, vocabulary=None, **changes):
    config = samples.config(tmp_path, **changes)
    return samples.teacher(config, samples.reader(config, world, vocabulary), [SECOND], parent)


def test_what_is_read_is_what_was_written(saved):
    folder, card, learner = saved
    held = load_checkpoint(folder)
    assert held.card == card == read_card(folder)
    for name, tensor in learner.model.state_dict().items():
        assert torch.equal(held.weights[name], tensor)
    for kind, state in (("dense", held.dense_state), ("sparse", held.sparse_state)):
        expected = getattr(learner.optimizers, kind).state_dict()
        assert json.loads(json.dumps(expected["param_groups"])) == state["param_groups"]
        assert state["state"].keys() == expected["state"].keys()
        for index, values in expected["state"].items():
            assert values.keys() == state["state"][index].keys()
            assert all(torch.equal(x, state["state"][index][n]) for n, x in values.items())


def test_a_model_that_took_no_step_can_be_saved(config, world, tmp_path):
    card, learner = samples.teacher(config, samples.reader(config, world), [FIRST])
    trainee.save(tmp_path / "model", card, learner)
    assert load_checkpoint(tmp_path / "model").dense_state["state"] == {}


def test_every_file_is_json_or_safetensors(saved):
    folder, *_ = saved
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.suffix == ".safetensors"
            with safe_open(path, framework="pt") as file:
                assert list(file.keys())


@pytest.mark.parametrize(
    "name", ["model.safetensors", "averages.safetensors", "optimizer.safetensors", "card.json"]
)
@pytest.mark.parametrize("damage", ["altered", "torn", "missing"])
def test_a_damaged_file_is_refused_with_the_remedy(saved, name, damage):
    folder, *_ = saved
    path = folder / name
    content = path.read_bytes()
    if damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(ConfigError, match=f"{name} is not the file .* restore it or train again"):
        load_checkpoint(folder)


def test_a_checkpoint_without_manifest_is_refused_with_the_remedy(saved):
    folder, *_ = saved
    (folder / "manifest.json").unlink()
    for read in (read_card, load_checkpoint, load_model):
        with pytest.raises(ConfigError, match="no manifest; it is incomplete, train again"):
            read(folder)


def test_a_write_that_fails_leaves_the_old_one(saved, monkeypatch):
    folder, card, learner = saved
    before = weights_hash(folder)

    def fail(*_):
        raise OSError("disk full")

    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(1.0)
    monkeypatch.setattr(checkpoints, "_save_states", fail)
    with pytest.raises(OSError, match="disk full"):
        trainee.save(folder, replace(card, num_steps=99), learner)
    assert weights_hash(folder) == before
    assert load_checkpoint(folder).card == card


def test_a_later_write_replaces_the_old_one_and_leaves_nothing_beside_it(saved):
    folder, card, learner = saved
    beside = sorted(path.name for path in folder.parent.iterdir())
    trainee.save(folder, replace(card, num_steps=99), learner)
    assert read_card(folder).num_steps == 99
    assert sorted(path.name for path in folder.parent.iterdir()) == beside


def test_a_copy_is_complete_and_takes_the_twin_along(saved, tmp_path):
    folder, card, learner = saved
    trainee.save(folder / "twin", card, learner)
    copy_checkpoint(folder, tmp_path / "deep" / "copy")
    copy_checkpoint(folder, tmp_path / "deep" / "copy")
    assert weights_hash(tmp_path / "deep" / "copy") == weights_hash(folder)
    assert read_card(tmp_path / "deep" / "copy" / "twin") == card
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_a_hash_of_weights_is_of_weights_alone(saved):
    folder, card, learner = saved
    before = weights_hash(folder)
    learner.optimizers.dense.param_groups[0]["lr"] = 7.0
    trainee.save(folder, replace(card, run_id="another"), learner)
    assert weights_hash(folder) == before


@pytest.mark.parametrize("part", ["weight", "average", "twin"])
def test_any_served_weight_changes_the_hash(saved, part):
    folder, card, learner = saved
    target = folder / "twin" if part == "twin" else folder
    trainee.save(target, card, learner)
    before = weights_hash(folder)
    of = learner.average.averages if part == "average" else learner.model.state_dict()
    next(iter(of.values())).add_(1.0)
    trainee.save(target, card, learner)
    assert weights_hash(folder) != before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 12}, "width"),
        ({"interaction": samples.wukong(num_layers=2)}, "interaction"),
        ({"num_events": 3}, "history"),
        ({"head_hidden": (4, 4)}, "head_hidden"),
    ],
)
def test_a_parent_of_another_network_is_refused_by_the_field(saved, world, tmp_path, change, named):
    teacher = samples.training(network=samples.network(**change))
    with pytest.raises(ConfigError, match=rf"differs .* in \['{named}'\]; restore the setting"):
        child(tmp_path, world, saved[0], teacher=teacher)


@pytest.mark.parametrize(
    ("feature", "value", "named"),
    [
        ("windows_days", [1, 8], "dense"),
        ("rates", {"buy": "shown", "click": "shown"}, "dense"),
        ("categorical", ["ad_id", "user_id", "surface", "hour"], "fields', 'categorical"),
    ],
)
def test_a_parent_that_read_other_columns_is_refused(saved, world, tmp_path, feature, value, named):
    contract = samples.contract(**{feature: value})
    examples = world.examples
    for name in [n for n in examples.column_names if n.endswith("_7d")]:
        examples = examples.append_column(name.replace("_7d", "_8d"), examples[name])
    with pytest.raises(ConfigError, match=rf"differs from this run's network in \['{named}'\]"):
        child(tmp_path, replace(world, examples=examples), saved[0], contract=contract)


def test_a_shrunken_vocabulary_is_refused(saved, world, tmp_path):
    fewer = world.vocabulary(version=1, share=0.3)
    with pytest.raises(ConfigError, match=r"a vocabulary only grows; found .* rows to be cut to"):
        child(tmp_path, world, saved[0], fewer)


def test_an_earlier_vocabulary_is_refused_though_it_has_as_many_rows(world, tmp_path):
    config = samples.config(tmp_path)
    reader = samples.reader(config, world, world.vocabulary(version=3))
    card, learner = samples.teacher(config, reader, [FIRST])
    trainee.save(tmp_path / "model", card, learner)
    with pytest.raises(ConfigError, match="the parent knows version 3, the run packed version 2"):
        child(tmp_path, world, tmp_path / "model", world.vocabulary(version=2))


def test_a_later_vocabulary_with_other_values_in_the_rows_is_refused(saved, world, tmp_path):
    known = world.vocabulary(version=1, share=1.0)
    ads = known.values["ad_id"].to_pylist()
    ads[0], ads[1] = ads[1], ads[0]
    other = replace(known, values={**known.values, "ad_id": pa.array(ads)})
    child(tmp_path / "ours", world, saved[0], known)
    with pytest.raises(ConfigError, match=r"must extend the parent's; found .* of \['ad_id'\]"):
        child(tmp_path / "theirs", world, saved[0], other)


def test_a_student_of_another_distillation_is_refused(world, tmp_path):
    config = samples.config(tmp_path)
    reader = samples.reader(config, world)
    card, learner = samples.student(config, reader, [FIRST])
    trainee.save(tmp_path / "model", card, learner)
    plain = Student(training=samples.training(), distillation=Distillation(adapter=False))
    later = samples.config(tmp_path, domain_student=plain)
    with pytest.raises(ConfigError, match=r"differs .* in \['distillation.adapter'\]"):
        samples.student(later, reader, [SECOND], tmp_path / "model")


def test_the_weight_of_distillation_may_change(world, tmp_path):
    config = samples.config(tmp_path)
    reader = samples.reader(config, world)
    card, learner = samples.student(config, reader, [FIRST])
    trainee.save(tmp_path / "model", card, learner)
    softer = Student(
        training=samples.training(), distillation=Distillation(terms=(SoftTerm(weight=0.25),))
    )
    later = samples.config(tmp_path, domain_student=softer)
    _, learner = samples.student(later, reader, [SECOND], tmp_path / "model")
    assert {label.weight for label in learner.bare.distillation.soft_labels} == {0.25}


def test_a_card_survives_as_json():
    card = Card("m", {}, ["a"], ["b"], 0, None, {}, 3, "run", position={"segment": 1, "step": 2})
    assert Card(**json.loads(json.dumps(card.__dict__))) == card
    assert card.learnt_until is None
