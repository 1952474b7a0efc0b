"""Baselines learn what had matured before the gate window, and nothing of it."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from jobs import fit_baselines
from jobs.training.dense import smoothed_log_odds
from tests.jobs.training import samples


@pytest.fixture(scope="module")
def world():
    return samples.world(400)


def fitted(home, world):
    """(config, packed, what was written)."""
    config = samples.config(home)
    packed = samples.packed(config, world)
    fit_baselines.run(config)
    return config, packed, np.load(config.run_folder / fit_baselines.FILE)


def with_labels(world, task, change):
    """The world with the labels of a task passed through `change(label, matured)`."""
    name = f"label_{task}"
    rows = zip(
        world.examples[name].to_pylist(),
        world.examples[f"mature_ts_{task}"].to_pylist(),
        strict=True,
    )
    column = pa.array([None if y is None else change(y, at) for y, at in rows], pa.int8())
    at = world.examples.column_names.index(name)
    return replace(world, examples=world.examples.set_column(at, name, column))


def test_rows_are_those_of_the_gate_window(tmp_path, world):
    config, packed, found = fitted(tmp_path, world)
    gate = packed.matured(config.plan.gate_start, config.plan.gate_end).any(axis=1)
    assert found["rows"].tolist() == np.flatnonzero(gate).tolist()
    for name in fit_baselines.NAMES:
        assert found[name].shape == (gate.sum(), 2)
        assert ((found[name] > 0) & (found[name] < 1)).all()


def test_the_simple_baselines_are_what_they_say(tmp_path, world):
    config, packed, found = fitted(tmp_path, world)
    learnt = packed.matured(None, config.plan.gate_start)
    for t, task in enumerate(("click", "buy")):
        rate = packed.labels[learnt[:, t], t].mean()
        np.testing.assert_allclose(found["base_rate"][:, t], rate, rtol=1e-6)
        logits = smoothed_log_odds(
            packed.dense[found["rows"]], packed.spec.dense, config.contract, task
        )
        np.testing.assert_allclose(found["log_odds"][:, t], 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_labels_of_the_gate_window_change_nothing(tmp_path, world):
    _, _, found = fitted(tmp_path / "one", world)
    turned = with_labels(world, "click", lambda y, at: 1 - y if at > samples.GATE_START else y)
    assert not turned.examples.equals(world.examples)
    _, _, again = fitted(tmp_path / "two", turned)
    for name in fit_baselines.NAMES:
        np.testing.assert_array_equal(again[name], found[name])


@pytest.mark.parametrize("label", [0, 1])
def test_a_task_whose_labels_are_all_alike_has_its_base_rate(tmp_path, world, label):
    _, _, found = fitted(tmp_path, with_labels(world, "buy", lambda *_: label))
    for name in ("base_rate", "logistic", "trees"):
        assert (found[name][:, 1] == label).all()
        assert len(np.unique(found["logistic"][:, 0])) > 1
