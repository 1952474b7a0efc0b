"""A model on its way: where it starts from, what it carries over, and that nothing else counts."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch

from jobs.errors import ConfigError
from jobs.training import trainee
from jobs.training.checkpoints import load_model, weights_hash
from jobs.training.loop import Progress
from jobs.training.scoring import predict
from jobs.training.segments import Segment
from jobs.training.students import domain_plan, student_reader
from jobs.training.trainee import SegmentResult, recent_ne
from jobs.training_settings import LongSequence, Trial
from model import metrics
from model.sequence_config import InterFormerConfig
from tests.jobs.training import samples

FIRST, SECOND, THIRD = samples.segments(*samples.days(1.5, 2.5, 3.5))


@pytest.fixture(scope="module")
def world():
    return samples.world(500)


@pytest.fixture
def config(tmp_path):
    return samples.config(tmp_path)


@pytest.fixture
def reader(config, world):
    return samples.reader(config, world)


def trained(config, reader, segments, folder=None, parent=None, make=samples.teacher):
    """A model trained over segments and saved: (card, learner, results)."""
    card, learner = make(config, reader, segments, parent)
    card, results = trainee.train(card, learner, reader, segments)
    if folder is not None:
        trainee.save(folder, card, learner)
    return card, learner, results


def taught(config, reader, scores):
    return student_reader(config, domain_plan(config, "blue"), reader.packed, scores)


def assert_same_learner(one, two, atol):
    states = [
        (one.model.state_dict(), two.model.state_dict()),
        (one.average.averages, two.average.averages),
    ]
    for own, other in zip(one.optimizers, two.optimizers, strict=True):
        a, b = own.state_dict(), other.state_dict()
        for index, state in a["state"].items():
            states.append((state, b["state"][index]))
    for own, other in states:
        assert own.keys() == other.keys()
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, other[name], atol=atol, rtol=0.0)
    assert one.num_steps == two.num_steps


def twin(config, reader, segments, parent=None):
    return samples.student(config, reader, segments, parent, distilled=False)


def test_a_chain_of_runs_equals_one_run(config, reader, tmp_path):
    _, whole, results = trained(config, reader, [FIRST, SECOND])
    trained_first = tmp_path / "first"
    # The same warm-up, which is counted over the segments that a new model starts with.
    card, learner = samples.teacher(config, reader, [FIRST, SECOND])
    card, one = trainee.train(card, learner, reader, [FIRST])
    trainee.save(trained_first, card, learner)
    _, chained, two = trained(config, reader, [SECOND], parent=trained_first)
    assert_same_learner(whole, chained, atol=1e-6)
    np.testing.assert_allclose([r.sums for r in one + two], [r.sums for r in results], rtol=1e-6)


def test_a_teacher_that_reads_whole_timelines_learns_and_goes_on(world, tmp_path):
    network = samples.network(
        upstream=LongSequence(windows=(None, 2), num_stages=2, ffn_hidden=8),
        interformer=InterFormerConfig(max_events=4),
    )
    config = samples.config(tmp_path, teacher=samples.training(network=network))
    reader = samples.reader(config, world)
    longest = int(reader.packed.history_end.max())
    assert longest > samples.NUM_EVENTS
    lengths = reader.batch(np.arange(reader.packed.num_rows)).history.offsets.diff()
    assert lengths.max() == longest
    _, learner, results = trained(config, reader, [FIRST, SECOND], tmp_path / "parent")
    assert all(0.5 < ne < 1.5 for ne in results[-1].ne)
    _, resumed = samples.teacher(config, reader, [THIRD], tmp_path / "parent")
    assert_same_learner(learner, resumed, atol=0.0)


@pytest.mark.parametrize("make", [samples.teacher, samples.student, twin])
def test_all_state_survives_a_save(config, reader, tmp_path, make):
    own = reader
    if make is not samples.teacher:
        own = taught(config, reader, np.full((reader.packed.num_rows, 2), 0.3, np.float32))
    card, learner, _ = trained(config, own, [FIRST], tmp_path / "parent", make=make)
    again, resumed = make(config, own, [SECOND], tmp_path / "parent")
    assert_same_learner(learner, resumed, atol=0.0)
    assert again.trained_until == card.trained_until == FIRST.end.isoformat()
    assert (again.num_steps, again.warmup_steps) == (card.num_steps, card.warmup_steps)
    assert again.trial == card.trial


def test_a_warm_start_scores_as_its_parent(config, world, tmp_path):
    reader = samples.reader(config, world)
    trained(config, reader, [FIRST], tmp_path / "parent")
    rows, mask = reader.rows(SECOND)
    expected = predict(load_model(tmp_path / "parent"), reader, rows)
    grown = world.vocabulary(version=1, share=1.0)
    later = samples.reader(config, world, grown)
    added = {
        n: k - reader.packed.spec.table_rows[n] for n, k in later.packed.spec.table_rows.items()
    }
    assert all(count > 0 for count in added.values())
    assert not np.array_equal(later.packed.categorical[rows], reader.packed.categorical[rows])
    card, learner = samples.teacher(config, later, [SECOND], tmp_path / "parent")
    trainee.save(tmp_path / "child", card, learner)
    actual = predict(load_model(tmp_path / "child"), later, rows)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    y = reader.packed.labels[rows]
    for t in range(2):
        at = mask[:, t]
        ne = [metrics.ne(y[at, t], p[at, t]) for p in (expected, actual)]
        assert ne[0] == pytest.approx(ne[1], abs=1e-6)


def test_what_is_scored_is_the_average(config, reader, tmp_path):
    _, learner, _ = trained(config, reader, [FIRST], tmp_path / "model")
    held = load_model(tmp_path / "model").state_dict()
    for name, weight in learner.model.state_dict().items():
        expected = learner.average.averages.get(name, weight)
        assert torch.equal(held[name], expected), name
    name = next(iter(learner.average.averages))
    assert not torch.equal(held[name], learner.model.state_dict()[name])


def test_an_admitted_value_starts_without_optimiser_state(config, world, tmp_path):
    reader = samples.reader(config, world)
    trained(config, reader, [FIRST], tmp_path / "parent")
    later = samples.reader(config, world, world.vocabulary(version=1, share=1.0))
    card, learner = samples.teacher(config, later, [SECOND], tmp_path / "parent")
    old = reader.packed.spec.table_rows["ad_id"]
    names = learner.optimizers.sparse.param_groups[0]["param_names"]
    index = next(i for i, name in enumerate(names) if "ad_id" in name)
    sums = learner.optimizers.sparse.state_dict()["state"][index]["sum"]
    assert (sums[:old] > 0).any()
    assert (sums[old:] == 0).all()
    assert card.vocabulary_version == 1


def ad_state(learner, rows):
    """Weights and sums of squared gradients of ads' rows."""
    names = learner.optimizers.sparse.param_groups[0]["param_names"]
    index = next(i for i, name in enumerate(names) if "ad_id" in name)
    sums = learner.optimizers.sparse.state_dict()["state"][index]["sum"]
    return learner.model.state_dict()[names[index]][rows], sums[rows]


@pytest.fixture
def evicting(config, world, tmp_path):
    """A parent, the readers of it and of later runs that evicted ads and took them back."""
    known, gone = world.vocabulary(), {"ad_id": [2, 5, 7]}
    vocabularies = [known, replace(known, version=1, evicted=gone), replace(known, version=2)]
    readers = []
    for vocabulary in vocabularies:
        home = samples.config(tmp_path / f"home-{vocabulary.version}")
        readers.append(samples.reader(home, world, vocabulary))
    trained(config, readers[0], [FIRST], tmp_path / "parent")
    return tmp_path / "parent", readers, gone["ad_id"]


def test_an_evicted_value_is_unknown_from_then_on_and_known_to_earlier_models(
    config, evicting, tmp_path
):
    folder, (reader, later, _), gone = evicting
    rows, _ = reader.rows(SECOND)
    parent = load_model(folder)
    expected = predict(parent, reader, rows)
    np.testing.assert_array_equal(predict(parent, later, rows), expected)
    card, learner = samples.teacher(config, later, [SECOND], folder)
    trainee.save(tmp_path / "child", card, learner)
    actual = predict(load_model(tmp_path / "child"), later, rows)
    # The parent where every such ad is an unknown one.
    for name in ("categorical", "event_categorical"):
        values = getattr(reader.packed, name).copy()
        column = values[:, reader.packed.spec.categorical.index("ad_id") if name[0] == "c" else 0]
        column[np.isin(column, gone)] = 0
        setattr(reader.packed, name, values)
    unknown = predict(parent, reader, rows)
    np.testing.assert_allclose(actual, unknown, atol=1e-6)
    assert np.abs(unknown - expected).max() > 1e-4


def test_a_value_that_comes_back_starts_as_the_unknown_it_was(config, evicting, tmp_path):
    folder, (_, later, last), gone = evicting
    _, before, _ = trained(config, later, [SECOND], tmp_path / "child", folder)
    weights, sums = ad_state(before, [0, *gone])
    assert sums[0] > 0
    assert not sums[1:].any(), "what is told of an evicted value is told of unknown ones"
    rows, _ = later.rows(THIRD)
    expected = predict(load_model(tmp_path / "child"), later, rows)
    card, learner = samples.teacher(config, last, [THIRD], tmp_path / "child")
    assert card.evicted == {}
    weights, sums = ad_state(learner, [0, *gone])
    assert torch.equal(weights, weights[:1].expand(4, -1))
    assert not sums[1:].any()
    trainee.save(tmp_path / "grandchild", card, learner)
    np.testing.assert_array_equal(
        predict(load_model(tmp_path / "grandchild"), last, rows), expected
    )
    trainee.train(card, learner, last, [THIRD])
    _, sums = ad_state(learner, gone)
    assert (sums > 0).all()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_run_gives_the_same_weights(tmp_path, world, dropout):
    hashes = set()
    for name in ("one", "two"):
        made = samples.training(network=samples.network(dropout=dropout))
        config = samples.config(tmp_path / name, teacher=made)
        trained(config, samples.reader(config, world), [FIRST], tmp_path / name / "model")
        hashes.add(weights_hash(tmp_path / name / "model"))
    assert len(hashes) == 1


def test_another_seed_gives_other_weights(tmp_path, world):
    hashes = set()
    for seed in (0, 1):
        config = samples.config(tmp_path / str(seed), teacher=samples.training(seed=seed))
        trained(config, samples.reader(config, world), [FIRST], tmp_path / f"model-{seed}")
        hashes.add(weights_hash(tmp_path / f"model-{seed}"))
    assert len(hashes) == 2


def test_results_are_of_predictions_before_the_update(config, reader):
    _, _, results = trained(config, reader, [FIRST, SECOND, THIRD])
    _, learner = samples.teacher(config, reader, [FIRST, SECOND, THIRD])
    for segment, result in zip((FIRST, SECOND, THIRD), results, strict=True):
        labels, predicted = [], []
        for piece in reader.pieces(segment, 0, 1):
            with torch.no_grad():
                p = torch.sigmoid(learner.model(piece.batch).logits.double())
            labels.append(torch.where(piece.mask, piece.labels, torch.nan))
            predicted.append(p)
            learner.learn(piece, world=1)
        y, p = torch.cat(labels).numpy(), torch.cat(predicted).numpy()
        for t in range(2):
            at = ~np.isnan(y[:, t])
            assert result.num_labels[t] == at.sum()
            assert result.ne[t] == pytest.approx(metrics.ne(y[at, t], p[at, t]), rel=1e-6)
            assert result.calibration[t] == pytest.approx(
                metrics.calibration(y[at, t], p[at, t]), rel=1e-6
            )


def test_what_has_been_learnt_only_grows(config, reader):
    card, learner = samples.teacher(config, reader, [FIRST, SECOND, THIRD])
    cards = []
    trainee.train(
        card, learner, reader, [FIRST, SECOND, THIRD], lambda card, *_: cards.append(card)
    )
    assert [card.learnt_until for card in cards] == [FIRST.end, SECOND.end, THIRD.end]
    steps = [reader.num_steps(segment) for segment in (FIRST, SECOND, THIRD)]
    assert [card.num_steps for card in cards] == np.cumsum(steps).tolist()


def test_a_segment_without_rows_changes_no_weight(config, reader, tmp_path):
    trained(config, reader, [FIRST], tmp_path / "parent")
    empty = Segment(samples.END + timedelta(days=2), samples.END + timedelta(days=3))
    card, _, (result,) = trained(
        config, reader, [empty], tmp_path / "child", parent=tmp_path / "parent"
    )
    assert weights_hash(tmp_path / "child") == weights_hash(tmp_path / "parent")
    assert result.num_labels == [0, 0]
    assert np.isnan(result.ne).all()
    assert card.learnt_until == empty.end


def test_a_new_model_without_any_label_is_refused(config, reader):
    empty = Segment(samples.END + timedelta(days=2), samples.END + timedelta(days=3))
    with pytest.raises(ConfigError, match=r"tiny-teacher: a new model needs labels .* earlier day"):
        samples.teacher(config, reader, [empty])


def test_a_new_model_starts_at_the_base_rates_of_its_first_rows(config, reader):
    empty = Segment(None, samples.START - timedelta(days=1))
    _, learner = samples.teacher(config, reader, [empty, replace(FIRST, start=empty.end), SECOND])
    rows, mask = reader.rows(FIRST)
    for index, heads in enumerate(learner.bare.heads.domains):
        for t in range(2):
            at = mask[:, t] & (reader.packed.domain[rows] == index)
            rate = (reader.packed.labels[rows][at, t].sum() + 1) / (at.sum() + 10)
            assert torch.sigmoid(heads.biases[-1][t]).item() == pytest.approx(rate, rel=1e-5)


def test_a_task_starts_at_the_base_rate_of_the_labels_that_first_teach_it(
    config, reader, monkeypatch
):
    whole = type(reader).rows

    def late(self, segment):
        rows, mask = whole(self, segment)
        return rows, mask & np.array([True, segment != FIRST])

    monkeypatch.setattr(type(reader), "rows", late)
    _, learner = samples.teacher(config, reader, [FIRST, SECOND])
    for t, segment in ((0, FIRST), (1, SECOND)):
        rows, mask = reader.rows(segment)
        for index, heads in enumerate(learner.bare.heads.domains):
            at = mask[:, t] & (reader.packed.domain[rows] == index)
            rate = (reader.packed.labels[rows][at, t].sum() + 1) / (at.sum() + 10)
            assert torch.sigmoid(heads.biases[-1][t]).item() == pytest.approx(rate, rel=1e-5)


def test_scales_are_fitted_on_at_most_so_many_rows(config, reader, monkeypatch):
    monkeypatch.setattr(trainee, "_SCALE_ROWS", 40)
    monkeypatch.setattr(trainee, "_SCALE_HISTORIES", 30)
    _, learner = samples.teacher(config, reader, [FIRST, SECOND])
    rows = np.concatenate([reader.rows(segment)[0] for segment in (FIRST, SECOND)])
    assert len(rows) % 40 and len(rows) > 2 * 40
    normaliser = learner.bare.feature_tokens.normaliser
    assert normaliser.num_fitted_rows == 40
    at = rows[np.linspace(0, len(rows) - 1, 40).astype(int)]
    expected = np.nanmean(reader.packed.dense[at].astype(float), axis=0)
    np.testing.assert_allclose(normaliser.mean, expected, rtol=1e-5)


def test_a_student_and_its_twin_start_alike_and_see_the_same_rows(config, reader):
    scores = np.full((reader.packed.num_rows, 2), 0.3, np.float32)
    own = taught(config, reader, scores)
    _, student = samples.student(config, own, [FIRST])
    _, other = twin(config, own, [FIRST])
    weights, twins = student.ranker.state_dict(), other.ranker.state_dict()
    assert weights.keys() == twins.keys()
    assert all(torch.equal(weights[name], twins[name]) for name in weights)
    blue = reader.packed.spec.domains.index("blue")
    assert (reader.packed.domain[own.rows(FIRST)[0]] == blue).all()


def test_without_any_score_a_student_is_its_twin(config, reader):
    own = taught(config, reader, np.full((reader.packed.num_rows, 2), np.nan, np.float32))
    _, student, results = trained(config, own, [FIRST, SECOND], make=samples.student)
    _, other, twins = trained(config, own, [FIRST, SECOND], make=twin)
    weights, served = student.ranker.state_dict(), other.ranker.state_dict()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, served[name], atol=1e-6, rtol=0.0)
    np.testing.assert_allclose([r.sums for r in results], [r.sums for r in twins], rtol=1e-6)


def test_scores_change_a_student(config, reader):
    scores = np.full((reader.packed.num_rows, 2), 0.9, np.float32)
    _, student, _ = trained(config, taught(config, reader, scores), [FIRST], make=samples.student)
    _, other, _ = trained(config, taught(config, reader, scores), [FIRST], make=twin)
    name = "interaction.layers.0.fmb.mlp.0.weight"
    assert not torch.allclose(student.ranker.state_dict()[name], other.ranker.state_dict()[name])


def test_no_step_moves_the_scores(config, reader):
    scores = np.full((reader.packed.num_rows, 2), 0.3, np.float32)
    kept = scores.copy()
    trained(config, taught(config, reader, scores), [FIRST], make=samples.student)
    assert np.array_equal(scores, kept)


def test_a_child_keeps_the_trial_of_its_family(tmp_path, world):
    config = samples.config(tmp_path)
    trained(config, samples.reader(config, world), [FIRST], tmp_path / "parent")
    faster = samples.training(trials=(Trial(lr_dense=0.5, lr_sparse=0.5),))
    later = samples.config(tmp_path, teacher=faster)
    card, learner = samples.teacher(
        later, samples.reader(later, world), [SECOND], tmp_path / "parent"
    )
    assert learner.trial == config.teacher.trials[0]
    assert card.trial == config.teacher.trials[0].model_dump()


def result(hours, rows, positives, loss):
    return SegmentResult(
        samples.START + timedelta(hours=hours), [[rows], [positives], [loss], [positives]]
    )


def test_trials_are_compared_on_the_last_day_not_on_its_last_hours():
    # Of a day in the past, of the last day, and of two hours with next to no rows.
    results = [result(24, 900, 300, 9.0), result(48, 1000, 500, 693.0), result(50, 4, 2, 40.0)]
    pooled = Progress.of([[1004], [502], [733.0], [502]]).ne()[0]
    assert recent_ne(results) == pytest.approx(pooled)


def test_a_task_without_both_outcomes_takes_no_part_in_the_choice():
    both = SegmentResult(samples.START, [[10, 10], [5, 0], [6.0, 1.0], [5, 1]])
    alone = SegmentResult(samples.START, [[10], [5], [6.0], [5]])
    assert recent_ne([both]) == recent_ne([alone])


def test_an_undefined_trial_is_never_the_best():
    nothing = SegmentResult(samples.START, [[0, 3], [0, 0], [0.0, 1.0], [0, 1]])
    assert recent_ne([nothing]) == float("inf")
