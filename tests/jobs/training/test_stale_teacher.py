"""A student of a teacher that has not learnt for two weeks is refused; one of a fresh one is not.

Ads drift from day to day. The teacher knows every ad's rate exactly, but as it was some days ago.
Student and twin are trained by the jobs' own learner, compared as `judge_family` compares them, and
judged by the gate's own suite.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.config import Gates
from jobs.training.evaluation import GateRows, compare_twin, with_joint_bounds
from jobs.training.inputs import input_spec
from jobs.training.loop import Learner
from jobs.training.reader import Piece
from jobs.training_settings import Trial
from model.batch import Batch
from model.config import FieldConfig, RankerConfig, TableConfig
from model.distillation.config import DistillationConfig, SoftLabel
from model.interaction.config import MlpConfig
from model.optim import WeightAverage, build_optimizers
from model.ranker import Ranker, Student
from tests.jobs.training import samples
from tests.validation.samples import all_suites, good_frames
from validation.frames import TWINS
from validation.gates import paired, run_gate

NUM_ADS, NUM_USERS, ROWS_PER_DAY = 40, 300, 800
FIRST_DAY, LAST_DAY = 15, 24
"""Days that students learn; they are judged on the one after."""
DRIFT = 0.35
"""Deviation of an ad's log-odds from one day to the next."""
BATCH = 100
RANKER = RankerConfig(
    width=4,
    tables=(TableConfig(name="ad", num_rows=NUM_ADS, dim=4),),
    fields=(FieldConfig(name="ad", table="ad"),),
    num_dense=0,
    num_dense_tokens=0,
    dense_hidden=None,
    interaction=MlpConfig(hidden=(8,)),
    history=None,
    domains=("feed",),
    tasks=("click",),
    head_hidden=(),
)


@pytest.fixture(scope="module")
def odds():
    """Log-odds of every ad on every day, days x ads."""
    draw = np.random.default_rng(0)
    walk = draw.normal(0.0, DRIFT, (LAST_DAY + 2, NUM_ADS)).cumsum(0)
    return walk + draw.normal(0.0, 0.5, NUM_ADS) - 1.0


def shown(odds, day, number):
    """Ads and clicks of a day."""
    draw = np.random.default_rng(day)
    ads = draw.integers(0, NUM_ADS, number)
    clicks = draw.random(number) < 1 / (1 + np.exp(-odds[day, ads]))
    return torch.from_numpy(ads), torch.from_numpy(clicks.astype(np.float32))[:, None]


def batch_of(ads):
    none = torch.empty(len(ads), 0)
    return Batch(ads[:, None], none, torch.zeros(len(ads), dtype=torch.int64))


def trained(odds, model, age):
    """A model after its days, taught by a teacher of an age in days."""
    model.set_prior(torch.tensor([[0.27]]))
    trial = Trial(lr_dense=1e-2, lr_sparse=1e-1)
    learner = Learner(
        model=model,
        optimizers=build_optimizers(model, trial.lr_dense, trial.lr_sparse),
        trial=trial,
        warmup_steps=0,
        average=WeightAverage(model, 10.0),
        clip_norm=1.0,
        num_tasks=1,
        seed=0,
    )
    for day in range(FIRST_DAY, LAST_DAY + 1):
        ads, clicks = shown(odds, day, ROWS_PER_DAY)
        for low in range(0, ROWS_PER_DAY, BATCH):
            part = slice(low, low + BATCH)
            known = torch.from_numpy(odds[day - age, ads[part].numpy()]).float()
            count = torch.tensor([float(BATCH)])
            learner.learn(
                Piece(
                    rows=np.arange(low, low + BATCH),
                    batch=batch_of(ads[part]),
                    labels=clicks[part],
                    mask=torch.ones(BATCH, 1, dtype=torch.bool),
                    num_labels=count,
                    teacher=torch.sigmoid(known)[:, None],
                    num_scores=count,
                    users=torch.arange(BATCH),
                ),
                world=1,
            )
    return model.eval()


def verdict(odds, age, folder):
    """What gate 4 says of a student of a teacher of an age."""
    soft_label = SoftLabel(task="click", weight=3.0, prediction="serving")
    student = trained(odds, Student(RANKER, DistillationConfig(soft_labels=(soft_label,))), age)
    twin = trained(odds, Ranker(RANKER), age)
    number, day = 20_000, LAST_DAY + 1
    ads, clicks = shown(odds, day, number)
    batch = batch_of(ads)
    with torch.no_grad():
        predictions = {
            "model": torch.sigmoid(student.ranker(batch).logits).numpy(),
            "twin": torch.sigmoid(twin(batch).logits).numpy(),
            "teacher": 1 / (1 + np.exp(-odds[day - age, ads.numpy()]))[:, None],
        }
    gate = GateRows(
        spec=input_spec(samples.contract(), samples.world(30).vocabulary()),
        rows=np.arange(number),
        mask=np.ones((number, 1), bool),
        labels=clicks.numpy().astype(np.float64),
        users=np.arange(number) % NUM_USERS,
        domain=np.zeros(number, np.int8),
        vertical=np.zeros(number, np.int16),
    )
    twins = with_joint_bounds(compare_twin("shop-feed", ["click"], gate, predictions, Gates()))
    frames = {**good_frames()["family"], "twins": pd.DataFrame(twins, columns=pd.Index(TWINS))}
    parts = paired("family", all_suites()["family"], frames)
    return run_gate("family", 4, parts, folder=folder, run_id="day-1", disabled=())


def test_a_student_of_a_teacher_two_weeks_old_is_refused(odds, tmp_path):
    result = verdict(odds, 14, tmp_path / "gx")
    assert not result.passed
    assert [check.check for check in result.checks if not check.passed] == [
        "family.twins.twin_joint_low"
    ]
    assert "certain to be worse than its twin" in result.reason


def test_a_student_of_yesterdays_teacher_is_not(odds, tmp_path):
    result = verdict(odds, 1, tmp_path / "gx")
    assert result.passed, result.reason
