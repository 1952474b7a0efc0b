"""Row-wise AdaGrad against plain numbers and torch, and states that grow with the vocabulary."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import TableConfig
from model.embeddings import grow_table
from model.optim import (
    EPSILON,
    RowWiseAdagrad,
    WeightAverage,
    build_optimizers,
    extend_optimizer_state,
    forget_optimizer_state,
)
from model.ranker import Ranker, Student
from tests.model.samples import distillation_config, make_batch, ranker_config
from tests.reference import model_optim as reference


def take_steps(table, gradients, lr=0.1):
    table = torch.nn.Parameter(table.clone())
    optimizer = RowWiseAdagrad([("table_item.weight", table)], lr=lr)
    for gradient in gradients:
        table.grad = gradient
        optimizer.step()
    return table.detach(), optimizer


def make_gradients(count, rows, dim):
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(rows, dim, generator=generator) for _ in range(count)]


def test_steps_equal_plain_numbers():
    table, gradients = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), make_gradients(3, 2, 2)
    expected = reference.rowwise_adagrad(table.tolist(), [g.tolist() for g in gradients], lr=0.1)
    torch.testing.assert_close(take_steps(table, gradients)[0], torch.tensor(expected))


def test_rows_of_width_one_equal_torch_adagrad():
    table, gradients = torch.tensor([[1.0], [2.0], [3.0]]), make_gradients(5, 3, 1)
    parameter = torch.nn.Parameter(table.clone())
    optimizer = torch.optim.Adagrad([parameter], lr=0.1, eps=1e-8)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(take_steps(table, gradients)[0], parameter.detach())


@settings(deadline=None)
@given(rows=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_sparse_gradient_with_repeated_rows_equals_the_dense_one(rows):
    values = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(0))
    with torch.sparse.check_sparse_tensor_invariants():
        sparse = torch.sparse_coo_tensor(torch.tensor([rows]), values, (5, 3))
    table = torch.ones(5, 3)
    actual, _ = take_steps(table, [sparse, sparse])
    expected, _ = take_steps(table, [sparse.to_dense(), sparse.to_dense()])
    torch.testing.assert_close(actual, expected)
    unread = [row for row in range(5) if row not in rows]
    assert torch.equal(actual[unread], table[unread])


def test_gradients_of_a_repeated_row_are_summed_in_the_order_of_the_batch():
    rows = torch.tensor([[3, 1, 3, 1, 3, 1]])
    # In single precision 1e8 + 1 is 1e8, so that only this order leaves a 1, and a 0.
    values = torch.tensor([[1e8], [1e8], [-1e8], [1.0], [1.0], [-1e8]])
    with torch.sparse.check_sparse_tensor_invariants():
        gradient = torch.sparse_coo_tensor(rows, values, (5, 1))
    table, _ = take_steps(torch.zeros(5, 1), [gradient])
    torch.testing.assert_close(table.flatten(), torch.tensor([0.0, 0.0, 0.0, -0.1, 0.0]))


def test_a_sparse_gradient_of_no_rows_moves_nothing():
    with torch.sparse.check_sparse_tensor_invariants():
        gradient = torch.sparse_coo_tensor(torch.zeros(1, 0).long(), torch.zeros(0, 2), (3, 2))
    table, _ = take_steps(torch.ones(3, 2), [gradient])
    assert torch.equal(table, torch.ones(3, 2))


def test_a_sparse_step_moves_rows_as_adding_them_one_by_one_does():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 300, (1, 1000), generator=generator)
    values, table = (torch.randn(n, 16, generator=generator) for n in (1000, 300))
    with torch.sparse.check_sparse_tensor_invariants():
        gradient = torch.sparse_coo_tensor(rows, values, (300, 16))
    actual, optimizer = take_steps(table, [gradient])
    summed = torch.zeros(300, 16)
    for row, value in zip(rows[0], values, strict=True):
        summed[row] += value
    sums = summed.square().mean(1)
    steps = summed / (sums.sqrt() + EPSILON)[:, None]
    expected = table.index_add(0, torch.arange(300), steps, alpha=-0.1)
    assert torch.equal(actual, expected)
    (state,) = optimizer.state.values()
    assert torch.equal(state["sum"], sums)


def test_first_step_has_the_length_of_the_learning_rate():
    table, _ = take_steps(torch.zeros(1, 4), [torch.full((1, 4), 1e-3)], lr=0.1)
    torch.testing.assert_close(table, torch.full((1, 4), -0.1), atol=1e-5, rtol=0.0)


def test_state_survives_a_checkpoint():
    gradients = make_gradients(4, 2, 2)
    whole, _ = take_steps(torch.ones(2, 2), gradients)
    half, optimizer = take_steps(torch.ones(2, 2), gradients[:2])
    resumed = torch.nn.Parameter(half)
    restored = RowWiseAdagrad([("table_item.weight", resumed)], lr=0.1)
    restored.load_state_dict(optimizer.state_dict())
    for gradient in gradients[2:]:
        resumed.grad = gradient
        restored.step()
    assert torch.equal(resumed.detach(), whole)


def test_extended_state_keeps_old_sums_and_starts_new_rows_at_zero():
    table, optimizer = take_steps(torch.ones(2, 2), [torch.tensor([[3.0, 4.0], [1.0, 1.0]])])
    tables = (TableConfig(name="item", num_rows=4, dim=2),)
    extended = extend_optimizer_state(optimizer.state_dict(), tables)
    grown = torch.nn.Parameter(grow_table(table, 4))
    restored = RowWiseAdagrad([("table_item.weight", grown)], lr=0.1)
    restored.load_state_dict(extended)
    assert restored.state[grown]["sum"].tolist() == [12.5, 1.0, 0.0, 0.0]
    # A new row's first step has full length; an old row's is damped by its past.
    grown.grad = torch.ones(4, 2)
    before = grown.detach().clone()
    restored.step()
    steps = (before - grown.detach())[:, 0]
    torch.testing.assert_close(steps, torch.tensor([0.1 / 13.5**0.5, 0.1 / 2**0.5, 0.1, 0.1]))


def test_extension_does_not_change_the_state_it_was_given():
    _, optimizer = take_steps(torch.ones(2, 2), [torch.ones(2, 2)])
    state = optimizer.state_dict()
    extend_optimizer_state(state, (TableConfig(name="item", num_rows=4, dim=2),))
    assert state["state"][0]["sum"].tolist() == [1.0, 1.0]


def test_forgotten_rows_have_no_state():
    _, optimizer = take_steps(torch.ones(3, 2), [torch.ones(3, 2)])
    state = optimizer.state_dict()
    forgotten = forget_optimizer_state(state, {"item": [0, 2], "place": [1]})
    assert forgotten["state"][0]["sum"].tolist() == [0.0, 1.0, 0.0]
    assert forgotten["param_groups"] == state["param_groups"]
    assert state["state"][0]["sum"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (TableConfig(name="item", num_rows=1, dim=2), r"found tables of \[2\] rows"),
        (TableConfig(name="user", num_rows=9, dim=2), r"found tables of \[\] rows"),
    ],
)
def test_state_that_does_not_fit_the_tables_is_refused(table, found):
    _, optimizer = take_steps(torch.ones(2, 2), [torch.ones(2, 2)])
    with pytest.raises(ValueError, match=found):
        extend_optimizer_state(optimizer.state_dict(), (table,))


def test_every_parameter_belongs_to_exactly_one_optimiser():
    model = Student(ranker_config(), distillation_config(adapter=True))
    optimizers = build_optimizers(model, lr_dense=1e-3, lr_sparse=1e-2, weight_decay=0.1)
    owned = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    tables = {name for group in optimizers.sparse.param_groups for name in group["param_names"]}
    assert tables == {
        "ranker.tables.table_item.weight",
        "ranker.tables.table_user.weight",
        "ranker.tables.table_event_type.weight",
    }


def test_biases_and_norms_do_not_decay():
    model = Student(ranker_config(), distillation_config())
    optimizers = build_optimizers(model, lr_dense=1e-3, lr_sparse=1e-2, weight_decay=0.1)
    decay = {
        name: group["weight_decay"]
        for group in optimizers.dense.param_groups
        for name in group["param_names"]
    }
    exempt = {name for name, value in decay.items() if value == 0.0}
    assert exempt == {name for name in decay if "bias" in name or ".norm." in name}
    assert decay["ranker.heads.domains.0.weights.0"] == 0.1


def test_step_leaves_unread_rows_bit_identical():
    model = Ranker(ranker_config())
    batch = make_batch(ranker_config(), (2, 3))
    before = model.tables["table_user"].weight.detach().clone()
    optimizers = build_optimizers(model, lr_dense=1e-3, lr_sparse=1e-2, weight_decay=0.1)
    model(batch).logits.sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    changed = (model.tables["table_user"].weight != before).any(1).nonzero().flatten()
    assert set(changed.tolist()) == set(batch.categorical[:, 1].tolist())


def test_weight_average_follows_its_formula_and_leaves_tables_alone():
    model = Ranker(ranker_config(), seed=1)
    average = WeightAverage(model, horizon_steps=2.0)
    names = {name for name, _ in model.named_parameters() if not name.startswith("tables.")}
    assert set(average.averages) == names
    name = next(iter(sorted(names)))
    weight = dict(model.named_parameters())[name]
    expected = weight.detach().clone()
    for step in range(40):
        with torch.no_grad():
            weight.add_(1.0)
        decay = min(math.exp(-0.5), (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
        average.update(step)
    torch.testing.assert_close(average.averages[name], expected)
