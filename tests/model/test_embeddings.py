"""Embedding tables, bags of values, the scaling of dense columns, and vocabularies that grow."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.embedding_config import BagConfig, FieldConfig, TableConfig
from model.embeddings import (
    Bag,
    DenseNormaliser,
    EmbeddingTables,
    extend_tables,
    forget_rows,
    grow_table,
)
from tests.reference import model_embeddings as reference


def test_fields_that_share_a_table_read_the_same_rows():
    tables = EmbeddingTables((TableConfig(name="item", num_rows=3, dim=2),))
    weight = tables["table_item"].weight
    weight.data = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    fields = (FieldConfig(name="ad", table="item"), FieldConfig(name="last_ad", table="item"))
    ad, last_ad = tables(fields, torch.tensor([[1, 2], [0, 1]]))
    torch.testing.assert_close(ad, torch.tensor([[2.0, 3.0], [0.0, 1.0]]))
    torch.testing.assert_close(last_ad, torch.tensor([[4.0, 5.0], [2.0, 3.0]]))


def test_gradient_of_a_table_holds_only_the_rows_that_were_read():
    tables = EmbeddingTables((TableConfig(name="item", num_rows=1000, dim=2),))
    field = FieldConfig(name="ad", table="item")
    tables((field,), torch.tensor([[7], [3], [7]]))[0].sum().backward()
    gradient = tables["table_item"].weight.grad.coalesce()
    assert gradient.indices().tolist() == [[3, 7]]
    torch.testing.assert_close(gradient.values(), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))


def one_table(*rows):
    tables = EmbeddingTables((TableConfig(name="item", num_rows=len(rows), dim=len(rows[0])),))
    tables["table_item"].weight.data = torch.tensor(rows)
    return tables


SEEN = BagConfig(name="seen", table="item")
SEEN_MEAN = BagConfig(name="seen_mean", table="item", pooling="mean")


def test_bags_are_summed_or_averaged_and_empty_ones_are_zero():
    tables = one_table([0.0, 9.0], [1.0, 2.0], [3.0, -2.0])
    bag = Bag(torch.tensor([1, 2, 2]), torch.tensor([0, 2, 2, 3]))
    summed, averaged = tables.pool((SEEN, SEEN_MEAN), (bag, bag))
    torch.testing.assert_close(summed, torch.tensor([[4.0, 0.0], [0.0, 0.0], [3.0, -2.0]]))
    torch.testing.assert_close(averaged, torch.tensor([[2.0, 0.0], [0.0, 0.0], [3.0, -2.0]]))


@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_bags_and_their_gradients_equal_the_loop(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 3, generator=generator)
    tables = one_table(*weight.tolist())
    values = torch.randint(6, (sum(lengths),), generator=generator)
    bag = Bag(values, torch.tensor([0, *lengths]).cumsum(0))
    table = tables["table_item"].weight
    weight = table.detach().clone().requires_grad_()
    for config in (SEEN, SEEN_MEAN):
        (pooled,) = tables.pool((config,), (bag,))
        expected = reference.pool(weight, bag.values, bag.offsets, config.pooling) + 0 * weight[0]
        torch.testing.assert_close(pooled, expected)
        pooled.square().sum().backward()
        expected.square().sum().backward()
    assert table.grad.is_sparse
    torch.testing.assert_close(table.grad.to_dense(), weight.grad)


def test_a_bag_of_one_value_equals_a_field():
    tables = one_table([0.0, 9.0], [1.0, 2.0], [3.0, -2.0])
    values = torch.tensor([2, 0, 1])
    (pooled,) = tables.pool((SEEN,), (Bag(values, torch.arange(4)),))
    (looked_up,) = tables((FieldConfig(name="ad", table="item"),), values[:, None])
    assert torch.equal(pooled, looked_up)


def test_poisoned_values_of_one_bag_reach_no_other_row():
    tables = one_table([0.0], [torch.nan], [3.0])
    (pooled,) = tables.pool((SEEN,), (Bag(torch.tensor([2, 1, 2]), torch.tensor([0, 1, 2, 3])),))
    assert pooled.flatten().isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("offsets", [[], [1, 2], [0, 2, 1, 2], [0, 1]])
def test_offsets_that_do_not_cover_the_values_are_refused(offsets):
    with pytest.raises(ValueError, match=r"bag.offsets: offsets must start at 0"):
        Bag(torch.tensor([1, 1]), torch.tensor(offsets, dtype=torch.int64))


@pytest.mark.parametrize("name", ["items", "type", "values", "train"])
def test_tables_may_be_named_like_methods_of_a_module(name):
    tables = EmbeddingTables((TableConfig(name=name, num_rows=2, dim=1),))
    assert tables((FieldConfig(name="x", table=name),), torch.tensor([[1]]))[0].shape == (1, 1)


def test_normaliser_standardises_clips_and_takes_missing_for_the_mean():
    normaliser = DenseNormaliser(2)
    normaliser.fit(torch.tensor([[1.0, 10.0], [3.0, torch.nan], [torch.nan, 30.0]]))
    # Means 2 and 20, deviations 1 and 10.
    outputs = normaliser(torch.tensor([[4.0, torch.nan], [-99.0, 5.0], [torch.inf, 20.0]]))
    torch.testing.assert_close(outputs, torch.tensor([[2.0, 0.0], [-5.0, -1.5], [5.0, 0.0]]))


@given(constant=st.floats(-1e9, 1e9, width=32), count=st.integers(1, 50))
def test_constant_and_empty_columns_become_zero(constant, count):
    normaliser = DenseNormaliser(2)
    dense = torch.tensor([[constant, torch.nan]]).repeat(count, 1)
    normaliser.fit(dense)
    torch.testing.assert_close(
        normaliser(dense), torch.zeros(count, 2), atol=1e-6 * abs(constant), rtol=0.0
    )


def test_constant_column_that_changes_later_keeps_its_unit():
    normaliser = DenseNormaliser(1)
    normaliser.fit(torch.full((3, 1), 0.1))
    torch.testing.assert_close(normaliser(torch.tensor([[2.1]])), torch.tensor([[2.0]]))


def test_fitted_normaliser_is_kept_by_the_checkpoint_and_refuses_another_fit():
    parent, child = DenseNormaliser(1), DenseNormaliser(1)
    parent.fit(torch.tensor([[1.0], [3.0]]))
    child.load_state_dict(parent.state_dict())
    torch.testing.assert_close(child(torch.tensor([[4.0]])), torch.tensor([[2.0]]))
    with pytest.raises(ValueError, match="2 rows fitted before"):
        child.fit(torch.tensor([[5.0]]))


def test_normaliser_refuses_an_empty_sample():
    with pytest.raises(ValueError, match="at least one row"):
        DenseNormaliser(1).fit(torch.empty(0, 1))


def test_new_rows_copy_the_out_of_vocabulary_row_and_old_rows_stay():
    weight = torch.tensor([[0.5, -0.5], [1.0, 2.0]])
    grown = grow_table(weight, 4)
    expected = torch.tensor([[0.5, -0.5], [1.0, 2.0], [0.5, -0.5], [0.5, -0.5]])
    torch.testing.assert_close(grown, expected, atol=0.0, rtol=0.0)


def test_shrinking_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="only grows; found 3 rows to be cut to 2"):
        grow_table(torch.zeros(3, 1), 2)


def test_extending_touches_only_the_tables():
    state = {
        "tables.table_item.weight": torch.tensor([[1.0], [2.0]]),
        "heads.weight": torch.tensor([3.0]),
    }
    extended = extend_tables(state, (TableConfig(name="item", num_rows=3, dim=1),))
    torch.testing.assert_close(
        extended["tables.table_item.weight"], torch.tensor([[1.0], [2.0], [1.0]])
    )
    assert extended["heads.weight"] is state["heads.weight"]
    assert len(state["tables.table_item.weight"]) == 2


def test_forgotten_rows_are_the_out_of_vocabulary_row():
    state = {
        "tables.table_item.weight": torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
        "heads.weight": torch.tensor([3.0]),
    }
    forgotten = forget_rows(state, {"item": [1, 3], "place": [1]})
    torch.testing.assert_close(
        forgotten["tables.table_item.weight"], torch.tensor([[1.0], [1.0], [3.0], [1.0]])
    )
    assert forgotten["heads.weight"] is state["heads.weight"]
    assert state["tables.table_item.weight"][1] == 2.0


def test_table_that_the_checkpoint_lacks_is_refused():
    with pytest.raises(ValueError, match=r"tables.item: .* found \[\]"):
        extend_tables({}, (TableConfig(name="item", num_rows=3, dim=1),))
