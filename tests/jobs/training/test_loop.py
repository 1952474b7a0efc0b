"""Learning a batch: what is summed, what is stepped, and when it stops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.errors import ConfigError
from jobs.training import trainee
from jobs.training.checkpoints import load_checkpoint, load_model
from jobs.training.distillation import distillation_terms as distillation
from jobs.training.loop import Progress
from jobs.training.segments import Segment
from jobs.training.students import domain_plan, student_reader
from jobs.training_settings import Debiasing, Student, Trial
from model import losses, metrics
from model.heads_config import ChainConfig
from tests.jobs.training import samples

ALL = [Segment(None, samples.END)]


@pytest.fixture(scope="module")
def world():
    return samples.world(300)


@pytest.fixture
def config(tmp_path):
    return samples.config(tmp_path)


@pytest.fixture
def reader(config, world):
    return samples.reader(config, world)


@pytest.fixture
def taught(config, reader):
    """The reader of `blue`, with a score for two rows of three."""
    teacher = np.random.default_rng(0).uniform(0.05, 0.9, (reader.packed.num_rows, 2))
    teacher[::3] = np.nan
    plan = domain_plan(config, "blue")
    return student_reader(config, plan, reader.packed, teacher.astype(np.float32))


def snapshot(learner):
    """Everything that a step changes."""
    tensors = [*learner.model.state_dict().values(), *learner.average.averages.values()]
    for optimizer in learner.optimizers:
        tensors += [x for state in optimizer.state_dict()["state"].values() for x in state.values()]
    return [tensor.clone() for tensor in [*tensors, learner.progress.stacked()]]


def gradients(learner, pieces):
    """Summed over workers, as DDP would hand them over."""
    learner.model.zero_grad(set_to_none=True)
    for piece in pieces:
        output = learner.model(piece.batch)
        loss = losses.task_loss(output.logits, piece.labels, piece.mask, piece.num_labels)
        if piece.teacher is not None:
            loss = loss + distillation(learner.bare, output, piece)
        loss.backward()
    return {n: p.grad.to_dense() for n, p in learner.model.named_parameters()}


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_gradients_of_workers_add_up_to_those_of_one(config, reader, taught, kind, world_size):
    own, make = (reader, samples.teacher) if kind == "teacher" else (taught, samples.student)
    _, learner = make(config, own, ALL)
    # The third batch of a segment whose last rows lack the label that takes a day.
    segment = Segment(*samples.days(1, 3.5))
    alone = gradients(learner, [list(own.pieces(segment, 0, 1))[2]])
    ranks = range(world_size)
    parts = [list(own.pieces(segment, rank, world_size))[2] for rank in ranks]
    together = gradients(learner, parts)
    assert any(gradient.abs().max() > 1e-3 for gradient in alone.values())
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, atol=1e-6, rtol=1e-5)


def test_progress_equals_the_metrics_of_its_rows():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(-1, 1, (50, 2)), draw.integers(0, 2, (50, 2)).astype(float)
    mask = draw.random((50, 2)) < 0.7
    labels[~mask] = np.nan
    progress = Progress.none(2)
    for part in (slice(0, 20), slice(20, 50)):
        values = (torch.from_numpy(x[part]) for x in (logits, labels, mask))
        progress.add(*values)
    p = 1 / (1 + np.exp(-logits))
    for t in range(2):
        y, q = labels[mask[:, t], t], p[mask[:, t], t]
        assert progress.ne()[t] == pytest.approx(metrics.ne(y, q), rel=1e-12)
        assert progress.calibration()[t] == pytest.approx(metrics.calibration(y, q), rel=1e-12)
    assert progress.num_rows.tolist() == mask.sum(0).tolist()


def test_progress_survives_as_plain_numbers():
    progress = Progress.none(2)
    progress.add(
        torch.tensor([[0.1, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[True, True]])
    )
    again = Progress.of(progress.stacked().tolist())
    assert torch.equal(again.stacked(), progress.stacked())


def test_undefined_figures_are_nan():
    progress = Progress.none(2)
    # The first task has rows of one class, the second has none.
    mask = torch.tensor([[True, False], [True, False]])
    progress.add(torch.zeros(2, 2), torch.zeros(2, 2), mask)
    assert all(math.isnan(value) for value in progress.ne() + progress.calibration())


def test_a_label_is_predicted_before_it_is_learnt(config, reader):
    _, learner = samples.teacher(config, reader, ALL)
    piece = next(reader.pieces(ALL[0], 0, 1))
    with torch.no_grad():
        expected = torch.sigmoid(learner.model(piece.batch).logits.double())
    learner.learn(piece, world=1)
    torch.testing.assert_close(learner.progress.predicted, (expected * piece.mask).sum(0))


def test_learning_rates_rise_to_the_trials(tmp_path, world):
    trial = Trial(lr_dense=0.01, lr_sparse=0.2)
    config = samples.config(
        tmp_path, teacher=samples.training(trials=(trial,), warmup_ratio=0.5, batch_size=50)
    )
    reader = samples.reader(config, world)
    card, learner = samples.teacher(config, reader, ALL)
    assert card.warmup_steps == reader.num_steps(ALL[0]) // 2 == 3
    rates = []
    for piece in reader.pieces(ALL[0], 0, 1):
        learner.learn(piece, world=1)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in learner.optimizers])
    warm = [1 / 3, 2 / 3, 1, 1, 1, 1]
    assert rates == [pytest.approx([0.01 * share, 0.2 * share]) for share in warm]


def test_weight_decay_is_the_trials(tmp_path, world):
    trial = Trial(lr_dense=0.01, lr_sparse=0.2, weight_decay=0.3)
    config = samples.config(tmp_path, teacher=samples.training(trials=(trial,)))
    _, learner = samples.teacher(config, samples.reader(config, world), ALL)
    decays = [group["weight_decay"] for group in learner.optimizers.dense.param_groups]
    assert decays == [0.3, 0.0]


def test_precision_is_the_trainings_and_survives_a_checkpoint(tmp_path, world):
    learnt = {}
    for precision in ("float32", "bfloat16"):
        config = samples.config(tmp_path, teacher=samples.training(precision=precision))
        reader = samples.reader(config, world)
        card, learner = samples.teacher(config, reader, ALL)
        first, second, *_ = reader.pieces(ALL[0], 0, 1)
        learner.learn(first, world=1)
        card = replace(card, num_steps=learner.num_steps)
        trainee.save(tmp_path / precision, card, learner)
        held = load_checkpoint(tmp_path / precision)
        _, resumed = trainee.from_checkpoint(card, config.teacher, held, "cpu")
        for one in (learner, resumed):
            assert one.ranker.training_precision == getattr(torch, precision)
            one.learn(second, world=1)
        weights = resumed.model.state_dict()
        for name, weight in learner.model.state_dict().items():
            assert torch.equal(weight, weights[name]), name
        learnt[precision] = snapshot(learner)
    assert all(x.dtype == y.dtype for x, y in zip(*learnt.values(), strict=True))
    assert not all(map(torch.equal, *learnt.values()))


def test_a_loss_that_is_not_finite_stops_with_its_rows_and_learns_nothing(config, reader):
    _, learner = samples.teacher(config, reader, ALL)
    good, bad, *_ = reader.pieces(ALL[0], 0, 1)
    learner.learn(good, world=1)
    before = snapshot(learner)
    bad = replace(bad, labels=torch.full_like(bad.labels, math.inf))
    with pytest.raises(ConfigError, match=r"the loss is .* at step 1, rows \[32, 33, 34, 35, 36\]"):
        learner.learn(bad, world=1)
    assert all(torch.equal(x, y) for x, y in zip(snapshot(learner), before, strict=True))
    assert learner.num_steps == 1


def test_a_batch_that_cannot_be_learnt_is_kept(config, reader, monkeypatch):
    card, learner = samples.teacher(config, reader, ALL)
    _, bad, *_ = reader.pieces(ALL[0], 0, 1)
    labels = np.full_like(reader.packed.labels[bad.rows], np.inf)
    pieces = type(reader).pieces

    def broken(*given, **named):
        for piece in pieces(*given, **named):
            is_bad = np.array_equal(piece.rows, bad.rows)
            yield replace(piece, labels=torch.from_numpy(labels)) if is_bad else piece

    monkeypatch.setattr(type(reader), "pieces", broken)
    with pytest.raises(
        ConfigError, match=r"at step 1, rows .*; the batch is kept in .*\.npz"
    ) as told:
        trainee.train(card, learner, reader, ALL)
    with np.load(str(told.value).rpartition(" ")[2]) as kept:
        assert kept["rows"].tolist() == bad.rows.tolist()
        assert np.array_equal(kept["labels"], labels)
        assert np.array_equal(kept["dense"], reader.packed.dense[bad.rows], equal_nan=True)
        ids = reader.packed.impression_ids().to_pylist()
        assert kept["impression_id"].tolist() == [ids[row] for row in bad.rows]


def test_a_gradient_that_is_not_finite_learns_nothing(config, reader):
    _, learner = samples.teacher(config, reader, ALL)
    before = snapshot(learner)
    bias = learner.bare.heads.domains[0].biases[0]
    bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ConfigError, match=r"the gradient's norm is .* at step 0"):
        learner.learn(next(reader.pieces(ALL[0], 0, 1)), world=1)
    assert all(torch.equal(x, y) for x, y in zip(snapshot(learner), before, strict=True))


def test_a_missing_score_adds_no_loss(config, taught):
    _, learner = samples.student(config, taught, ALL)
    piece = next(taught.pieces(ALL[0], 0, 1))
    known = ~piece.teacher.isnan()
    assert 0 < known.sum() < known.numel()
    output = learner.model(piece.batch)
    masked = replace(piece, teacher=piece.teacher.nan_to_num(0.5), mask=piece.mask & known)
    expected = distillation(learner.bare, output, masked)
    torch.testing.assert_close(distillation(learner.bare, output, piece), expected)


def test_without_any_score_distillation_is_zero(config, taught):
    nothing = replace(taught, teacher=np.full_like(taught.teacher, np.nan))
    _, learner = samples.student(config, nothing, ALL)
    piece = next(nothing.pieces(ALL[0], 0, 1))
    assert distillation(learner.bare, learner.model(piece.batch), piece) == 0


def test_what_dropout_drops_depends_on_the_step_and_the_seed(tmp_path, world):
    def learnt(seed, state):
        network = samples.network(dropout=0.5)
        config = samples.config(tmp_path, teacher=samples.training(network=network, seed=seed))
        reader = samples.reader(config, world)
        _, learner = samples.teacher(config, reader, ALL)
        torch.manual_seed(state)
        for piece in reader.pieces(ALL[0], 0, 1):
            learner.learn(piece, world=1)
        return learner.progress.loss.tolist()

    assert learnt(0, state=1) == learnt(0, state=2)
    assert learnt(0, state=1) != learnt(1, state=1)


CHAIN = ChainConfig(click="click", conversions=("buy",))


def cross_entropy(z, y):
    return math.log1p(math.exp(z)) - y * z


@pytest.mark.parametrize("kind", ["ips", "dr"])
def test_a_step_on_a_chain_learns_clicks_and_what_followed_them(tmp_path, world, kind):
    network = samples.network(chain=CHAIN)
    settings = samples.training(
        network=network, debiasing=Debiasing(kind=kind, weight=0.5, max_weight=3.0)
    )
    config = samples.config(tmp_path, teacher=settings)
    reader = samples.reader(config, world)
    _, learner = samples.teacher(config, reader, ALL)
    assert learner.debiasing == settings.debiasing
    piece = next(reader.pieces(ALL[0], 0, 1))
    # The click of the first row was learnt before, when its own window had closed.
    piece.mask[0, 0] = False
    with torch.no_grad():
        output = learner.model.train()(piece.batch)
    a, b = output.tower_logits.double().unbind(1)
    imputed = [0.0] * len(a) if kind == "ips" else output.imputed_errors[:, 0].tolist()
    label, chained, debiased = 0.0, 0.0, 0.0
    for row, (y, z) in enumerate(piece.labels.tolist()):
        p = 1 / (1 + math.exp(-a[row])) / (1 + math.exp(-b[row]))
        if piece.mask[row, 0]:
            label += cross_entropy(a[row].item(), y) / piece.num_labels[0].item()
        if piece.mask[row, 1]:
            n = piece.num_labels[1].item()
            chained -= math.log(p if z else 1 - p) / n
            weight = min(3.0, 1 + math.exp(-a[row])) if y else 0.0
            gap = cross_entropy(b[row].item(), z) - imputed[row]
            own = gap if kind == "ips" else gap + gap**2
            debiased += (imputed[row] + weight * own) / n
    assert min(label, chained, debiased) > 0
    found = []
    finite = learner._check_finite
    learner._check_finite = lambda what, value, piece: (
        found.append(value.item()),
        finite(what, value, piece),
    )
    before = learner.ranker.heads.domains[0].weights[0].detach().clone()
    learner.learn(piece, world=1)
    assert found[0] == pytest.approx(label + chained + 0.5 * debiased, rel=1e-4)
    assert not torch.equal(learner.ranker.heads.domains[0].weights[0], before)
    # The figures are those of what is served: a click and a conversion.
    expected = (torch.sigmoid(a) * torch.sigmoid(b) * piece.mask[:, 1]).sum()
    assert learner.progress.predicted[1].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_chain_is_refused_where_a_model_lacks_its_tasks(tmp_path):
    # Buying is a task of domains, so vertical students do not have it.
    chained = Student(training=samples.training(network=samples.network(chain=CHAIN)))
    samples.config(tmp_path, domain_student=chained)
    with pytest.raises(ValueError, match=r"different tasks of \['click'\]; found 'click' and"):
        samples.config(tmp_path, vertical_student=chained)


def test_a_chain_is_refused_where_a_click_is_known_after_its_conversion(tmp_path):
    backwards = samples.network(chain=ChainConfig(click="buy", conversions=("click",)))
    with pytest.raises(ValueError, match=r"found \['click'\] with shorter windows than 'buy'"):
        samples.config(tmp_path, teacher=samples.training(network=backwards))


def test_expected_errors_are_learnt_and_survive_in_a_checkpoint(tmp_path, world):
    network = samples.network(chain=CHAIN)
    settings = samples.training(network=network, debiasing=Debiasing(kind="dr", weight=0.5))
    config = samples.config(tmp_path, teacher=settings)
    reader = samples.reader(config, world)
    card, learner = samples.teacher(config, reader, ALL)
    heads = learner.ranker.imputation
    before = [parameter.detach().clone() for parameter in heads.parameters()]
    card, _ = trainee.train(card, learner, reader, ALL)
    for old, new in zip(before, heads.parameters(), strict=True):
        assert not torch.equal(old, new)
    trainee.save(tmp_path / "checkpoint", card, learner)
    held = load_model(tmp_path / "checkpoint")
    assert held.imputation is not None
    piece = next(reader.pieces(ALL[0], 0, 1))
    assert held(piece.batch).imputed_errors is None


def test_debiasing_without_a_chain_is_refused():
    with pytest.raises(ValueError, match=r"debiasing: .* found no chain"):
        samples.training(debiasing=Debiasing(weight=1.0))


def test_a_student_is_served_by_its_ranker(config, taught):
    _, learner = samples.student(config, taught, ALL)
    assert isinstance(config.domain_student, Student)
    assert learner.ranker is learner.bare.ranker
