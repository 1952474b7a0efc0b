"""The judged family takes one more pass, over the gate window, every setting unchanged."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from jobs import tracking
from jobs.command import read_summary
from jobs.errors import ConfigError, GateFailed
from jobs.family import TWIN, stage_folder, student_names
from jobs.pack_examples import open_packed
from jobs.training import trainee
from jobs.training.checkpoints import load_checkpoint, read_card
from jobs.training.segments import gate_segment
from jobs.training.students import domain_plan, student_card, student_reader, teacher_scores
from jobs.training.teacher import teacher_reader
from model import metrics
from tests.jobs.training import family, samples

TEACHER = "tiny-teacher"


def folders(config):
    """(judged, final) of every model, twins included."""
    for name in (TEACHER, *student_names(config)):
        for part in [""] if name == TEACHER else ["", TWIN]:
            yield tuple(stage_folder(config, name, s) / part for s in ("judged", "final"))


def test_every_model_has_learnt_the_gate_window(first_run):
    config = first_run[0]
    for judged, final in folders(config):
        before, after = read_card(judged), read_card(final)
        assert before.learnt_until == config.plan.gate_start
        assert after.learnt_until == config.plan.gate_end
        assert after.num_steps > before.num_steps
        same = ("name", "ranker", "trial", "warmup_steps", "distillation", "vocabulary_version")
        assert [getattr(before, f) for f in same] == [getattr(after, f) for f in same]


@pytest.mark.parametrize("distilled", [True, False])
def test_the_pass_is_that_of_training_gone_on(first_run, distilled):
    config = first_run[0]
    packed, plan = open_packed(config), domain_plan(first_run[0], "blue")
    scores, _ = teacher_scores(config, plan, packed)
    reader = student_reader(config, plan, packed, scores)
    judged, final = (stage_folder(config, plan.name, s) for s in ("judged", "final"))
    if not distilled:
        judged, final = judged / TWIN, final / TWIN
    card = student_card(config, plan, reader, family.TRIALS[0], distilled=distilled)
    held = load_checkpoint(judged)
    card, learner = trainee.from_checkpoint(card, plan.settings.training, held, "cpu")
    trainee.train(card, learner, reader, [gate_segment(config.plan)])
    held = load_checkpoint(final)
    for name, tensor in learner.model.state_dict().items():
        torch.testing.assert_close(held.weights[name], tensor)
    for name, tensor in learner.average.averages.items():
        torch.testing.assert_close(held.averages[name], tensor)


def test_the_gate_is_told_of_every_model_and_task(first_run):
    _, _, records = first_run
    domain, vertical = ["click", "buy"], ["click"]
    expected = [(TEACHER, task) for task in domain]
    expected += [(f"tiny-{d}", task) for d in ("blue", "red") for task in domain]
    expected += [
        (f"tiny-{v}", t) for v in ("blue-feed", "blue-video", "red-home") for t in vertical
    ]
    assert [(record["model"], record["task"]) for record in records] == expected
    assert {record["finite_ratio"] for record in records} == {1.0}


def test_calibration_is_of_predictions_made_before_each_update(first_run):
    config, _, records = first_run
    reader = teacher_reader(config, open_packed(config))
    judged = stage_folder(config, TEACHER, "judged")
    _, learner = samples.teacher(config, reader, [gate_segment(config.plan)], judged)
    labels, predicted = [], []
    for piece in reader.pieces(gate_segment(config.plan), 0, 1):
        with torch.no_grad():
            served = functional_call(learner.model, learner.average.averages, (piece.batch,))
        predicted.append(torch.sigmoid(served.logits))
        labels.append(torch.where(piece.mask, piece.labels, torch.nan))
        learner.learn(piece, world=1)
    y, p = torch.cat(labels).numpy(), torch.cat(predicted).numpy()
    for t, record in enumerate(records[:2]):
        at = ~np.isnan(y[:, t])
        expected = metrics.calibration(y[at, t], p[at, t])
        assert record["calibration"] == pytest.approx(expected, rel=1e-5)
        assert (record["rows"], record["positives"]) == (at.sum(), np.nansum(y[:, t]))
        assert record["calibration_low"] < expected < record["calibration_high"]


def test_a_slice_too_small_is_not_judged(first_run):
    config, _, records = first_run
    for record in records:
        enough = record["rows"] >= config.gates.min_slice_rows
        enough &= record["positives"] >= config.gates.min_slice_positives
        assert record["judged"] == enough


def test_calibration_is_logged_with_the_model(first_run):
    config, _, records = first_run
    client = tracking.parent_run(config).client
    run = client.get_run(tracking.find_child(config, TEACHER).id)
    logged = run.data.metrics["progressive/calibration_buy"]
    assert logged == pytest.approx(records[1]["calibration"])


def test_weights_that_are_not_finite_show(first_run, monkeypatch, tmp_path):
    config = first_run[0]
    train = family.train_here

    def poisoned(config, job):
        ((folder, result),) = train(config, job)
        held = load_checkpoint(folder)
        card, learner = trainee.from_checkpoint(held.card, config.teacher, held, "cpu")
        list(learner.average.averages.values())[-1].fill_(torch.nan)
        trainee.save(folder, card, learner)
        return [(folder, result)]

    monkeypatch.setattr(family, "train_here", poisoned)
    records = family.absorb(family.moved(config, tmp_path))
    shares = {record["model"]: record["finite_ratio"] for record in records}
    assert shares.pop(TEACHER) < 1.0
    assert set(shares.values()) == {1.0}


def test_a_gate_that_refuses_fails_the_job(first_run, tmp_path):
    config = family.moved(first_run[0], tmp_path)
    with pytest.raises(GateFailed, match="tiny-red is off"):
        family.absorb(config, family.Result(passed=False, reason="tiny-red is off"))
    with pytest.raises(ConfigError, match="absorb_gate_window has failed"):
        read_summary(config, "absorb_gate_window")
