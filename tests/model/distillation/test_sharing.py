"""Parts of a scorer in a student: copied whole, grown, frozen, or refused with both shapes."""

import pytest
import torch

from model.config import TableConfig
from model.distillation.sharing import take_over
from model.optim import build_optimizers
from model.ranker import Ranker, Student
from tests.model.samples import (
    distillation_config,
    make_batch,
    ranker_config,
    wukong_config,
)

PARTS = ("tables.item", "history", "interaction.layers.0")


def scorer(**changes):
    """A ranker with scales of its own."""
    ranker = Ranker(ranker_config(**changes), seed=7)
    generator = torch.Generator().manual_seed(0)
    ranker.fit_normalisers(
        torch.randn(9, 3, generator=generator), torch.randn(9, 2, generator=generator)
    )
    return ranker


def state(ranker, *parts):
    names = [part.replace("tables.", "tables.table_") for part in parts]
    return {
        key: value.clone()
        for key, value in ranker.state_dict().items()
        if any(key.startswith(f"{name}.") for name in names)
    }


def test_shared_parts_are_the_scorers_and_all_others_are_untouched():
    theirs, own = scorer(), Ranker(ranker_config(), seed=1)
    before = {key: value.clone() for key, value in own.state_dict().items()}
    take_over(own, theirs.state_dict(), PARTS)
    shared = state(theirs, *PARTS)
    assert "history.events.normaliser.mean" in shared
    for key, value in own.state_dict().items():
        assert torch.equal(value, shared.get(key, before[key])), key
    assert not torch.equal(shared["tables.table_item.weight"], before["tables.table_item.weight"])


def test_a_table_of_an_earlier_vocabulary_is_grown():
    small = ranker_config().tables[0].model_copy(update={"num_rows": 6})
    theirs = scorer(tables=(small, *ranker_config().tables[1:]))
    own = Ranker(ranker_config(), seed=1)
    take_over(own, theirs.state_dict(), ("tables.item",))
    weight = own.state_dict()["tables.table_item.weight"]
    held = theirs.state_dict()["tables.table_item.weight"]
    assert torch.equal(weight[:6], held)
    assert torch.equal(weight[6:], held[:1].expand(14, -1))


def test_another_width_is_refused_with_both_shapes():
    wide = TableConfig(name="item", num_rows=20, dim=9)
    theirs = scorer(tables=(wide, *ranker_config().tables[1:]))
    with pytest.raises(
        ValueError, match=r"tables.item: .* found \(20, 5\) in the student and \(20, 9\) in the"
    ):
        take_over(Ranker(ranker_config()), theirs.state_dict(), ("tables.item",))


def test_another_shape_of_a_block_is_refused():
    theirs = scorer(interaction=wukong_config(rank=3))
    with pytest.raises(ValueError, match=r"interaction.layers.0: .* must be of one shape"):
        take_over(Ranker(ranker_config()), theirs.state_dict(), ("interaction.layers.0",))


def test_a_part_that_the_scorer_lacks_is_refused():
    theirs = scorer(interaction=wukong_config(num_layers=1))
    with pytest.raises(ValueError, match=r"interaction.layers.1: .* found in only one of them"):
        take_over(Ranker(ranker_config()), theirs.state_dict(), ("interaction.layers.1",))


@pytest.mark.parametrize("part", ["tables.price", "hystory", "interaction.layers.9"])
def test_a_part_that_the_student_lacks_is_refused(part):
    with pytest.raises(ValueError, match=f"which has .*'history'.* found '{part}'; correct"):
        take_over(Ranker(ranker_config()), scorer().state_dict(), (part,))
    with pytest.raises(ValueError, match=f"found '{part}'; correct"):
        Student(ranker_config(), distillation_config(frozen=(part,)))


def test_frozen_parts_do_not_move_and_the_others_do():
    config = ranker_config()
    student = Student(config, distillation_config(frozen=PARTS))
    optimizers = build_optimizers(student, 0.1, 0.1, weight_decay=0.5)
    before = {key: value.clone() for key, value in student.ranker.state_dict().items()}
    student.train()
    student(make_batch(config, (4, 2, 5))).logits.square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    frozen = state(student.ranker, *PARTS)
    moved = {k for k, v in student.ranker.state_dict().items() if not torch.equal(v, before[k])}
    assert not moved & frozen.keys()
    assert {"tables.table_user.weight", "heads.domains.0.weights.0"} <= moved


def test_frozen_parts_gather_no_statistics_of_batches():
    student = Student(ranker_config(), distillation_config(frozen=("history",)))
    student.train()
    assert student.ranker.training
    assert not any(module.training for module in student.ranker.history.modules())
