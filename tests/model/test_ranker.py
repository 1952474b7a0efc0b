"""The whole ranker, and what must not depend on what."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import ranker
from model.config import TableConfig
from model.domain_config import DomainFFNConfig
from model.embeddings import extend_tables
from model.heads_config import ChainConfig
from model.losses import task_loss
from model.optim import build_optimizers
from model.ranker import Ranker, Student
from model.representations.config import RepresentationHistoryConfig
from model.sequence.config import DinConfig, HstuConfig
from tests.model.samples import (
    config_without_history,
    distillation_config,
    history_config,
    interformer_config,
    make_batch,
    ranker_config,
    rich_config,
    select_rows,
    stored_config,
    upstream_config,
)

LENGTHS = (3, 0, 16, 1, 7, 2)


def gem_config(domain_ffn=None, **changes):
    """Upstream, downstream and InterFormer."""
    parts = {"upstream": upstream_config(), "interformer": interformer_config()}
    return ranker_config(history=history_config(**(parts | changes)), domain_ffn=domain_ffn)


def downstream_config(downstream):
    """Another way to read the latest events, under heads too wide to be dead for a row."""
    return ranker_config(history=history_config(downstream=downstream), head_hidden=(24,))


def earlier_config(pooling):
    """Earlier representations, pooled in either way."""
    return RepresentationHistoryConfig(dim=6, max_length=4, pooling=pooling)


DIN = DinConfig(hidden=(6, 5), activation="prelu")
HSTU = HstuConfig(num_layers=2, num_heads=2, head_dim=4, num_time_buckets=40)
FORMS = [
    pytest.param(ranker_config(), id="target_attention"),
    pytest.param(gem_config(interformer=None), id="upstream"),
    pytest.param(gem_config(upstream=None), id="interformer"),
    pytest.param(gem_config(), id="gem"),
    pytest.param(downstream_config(DIN), id="din"),
    pytest.param(downstream_config(HSTU), id="hstu"),
    pytest.param(gem_config(downstream=HSTU), id="gem_hstu"),
    pytest.param(rich_config(), id="bags_and_content"),
    pytest.param(stored_config(), id="stored_vectors"),
]
"""Every form of the sequence side, and every kind of feature."""


def all_rows_counted(batch):
    mask = torch.ones(batch.num_rows, 3, dtype=torch.bool)
    return mask, torch.full((3,), float(batch.num_rows))


@pytest.mark.parametrize(
    "config",
    [
        ranker_config(),
        config_without_history(),
        gem_config(),
        gem_config(interformer=None),
        downstream_config(DIN),
        downstream_config(HSTU),
        rich_config(),
        stored_config(),
        stored_config(representation_history=earlier_config("mean")),
        ranker_config(num_windows=3),
        ranker_config(domain_ffn=DomainFFNConfig(hidden=5)),
        gem_config(domain_ffn=DomainFFNConfig(hidden=5, untied=False)),
        ranker_config(
            chain=ChainConfig(click="click", conversions=("buy", "like")), imputes_errors=True
        ),
    ],
)
def test_parameters_and_flops_equal_the_closed_forms(config):
    model = Ranker(config)
    assert ranker.num_parameters(config) == sum(p.numel() for p in model.parameters())
    batch = make_batch(config, (6,) * 8)
    # The counter knows the attention of the plain backend alone.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch)
    stored = 0 if batch.representations is None else len(batch.representations.values) / 8
    expected = 8 * ranker.flops(config, num_events=6, num_representations=stored)
    if config.history and config.history.upstream:
        # The counter sees whole squares where a causal layer uses a part of them: in two branches,
        # 6 tokens and then 3, of which the second branch's read at most 2.
        expected += 8 * 4 * config.width * ((36 - 21) + (36 - 11) + (9 - 6) + (9 - 5))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("config", FORMS)
def test_rows_that_share_a_timeline_score_as_with_their_own(config):
    model = Ranker(config)
    rows = ((0, 9), (1, 3), (0, 4), (2, 0), (0, 9), (1, 1))
    batch = make_batch(config, (9, 3, 5), rows=rows)
    own = select_rows(batch, list(range(6)))
    gradients = []
    for given in (batch, own):
        model.zero_grad()
        model(given).logits.square().sum().backward()
        gradients.append([p.grad.to_dense().clone() for p in model.parameters()])
    torch.testing.assert_close(model(batch).logits, model(own).logits, atol=1e-5, rtol=1e-5)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", FORMS)
def test_no_row_sees_an_event_at_or_after_its_cut_off(config):
    model = Ranker(config)
    rows = ((0, 6), (0, 9), (0, 3), (0, 0))
    batch = make_batch(config, (9,), rows=rows)
    clean = model(batch).logits
    history = batch.history
    changes = {
        "categorical": history.categorical * 0,
        "dense": history.dense + 3.0,
        "event_us": history.event_us + 10**12,
    }
    for place in range(9):
        changed = {
            name: torch.cat([getattr(history, name)[:place], values[place:]])
            for name, values in changes.items()
        }
        changed["content"] = tuple(
            torch.cat([vectors[:place], vectors[place:] - 5.0]) for vectors in history.content
        )
        dirty = model(dataclasses.replace(batch, history=dataclasses.replace(history, **changed)))
        blind = [row for row, (_, known) in enumerate(rows) if known <= place]
        assert torch.equal(dirty.logits[blind], clean[blind]), place
        assert not torch.equal(dirty.logits[1], clean[1]), place


def test_a_user_is_represented_without_a_candidate():
    config = gem_config()
    model = Ranker(config)
    batch = make_batch(config, (9, 4), rows=((0, 9), (1, 2), (0, 9), (0, 5)))
    users = model.represent_user(batch.history)
    assert users.shape == (4, 4 * 8)
    assert torch.equal(users[0], users[2])
    assert not torch.equal(users[0], users[3])
    with pytest.raises(ValueError, match="only a ranker with an upstream"):
        Ranker(ranker_config()).represent_user(batch.history)


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    first, second, other = (Ranker(ranker_config(), seed) for seed in (1, 1, 2))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    key = "tables.table_item.weight"
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_building_a_ranker_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Student(ranker_config(), distillation_config(adapter=True), seed=8)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("config", FORMS)
def test_scores_do_not_depend_on_the_order_of_the_batch(config):
    model = Ranker(config)
    batch = make_batch(config, LENGTHS)
    order = [4, 1, 5, 0, 3, 2]
    torch.testing.assert_close(
        model(select_rows(batch, order)).logits, model(batch).logits[order], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("config", FORMS)
def test_appended_rows_change_nothing(config):
    model = Ranker(config)
    batch = make_batch(config, LENGTHS)
    alone = model(select_rows(batch, [0, 1])).logits
    torch.testing.assert_close(model(batch).logits[:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", FORMS)
def test_poisoned_events_of_one_row_reach_no_other_row(config):
    model = Ranker(config)
    batch = make_batch(config, LENGTHS)
    clean = model(batch).logits
    with torch.no_grad():
        model.tables["table_event_type"].weight[3] = torch.nan
    categorical = batch.history.categorical.clone()
    categorical[:, 1] %= 3
    clean = model(
        dataclasses.replace(
            batch, history=dataclasses.replace(batch.history, categorical=categorical)
        )
    ).logits
    start, end = batch.history.offsets[2:4].tolist()
    categorical[start:end, 1] = 3
    poisoned = model(
        dataclasses.replace(
            batch, history=dataclasses.replace(batch.history, categorical=categorical)
        )
    ).logits
    others = [0, 1, 3, 4, 5]
    assert poisoned[2].isnan().all()
    torch.testing.assert_close(poisoned[others], clean[others], atol=0.0, rtol=0.0)


def test_bags_and_content_of_one_row_reach_no_other_row():
    config = rich_config()
    model = Ranker(config)
    batch = make_batch(config, LENGTHS)
    clean = model(batch).logits
    for part, index in (("bags", 0), ("bags", 1), ("content", 0), ("content", 1)):
        changed, row = list(getattr(batch, part)), 2
        if part == "bags":
            bag = changed[index]
            row = int(bag.offsets.diff().argmax())
            start, end = bag.offsets[row : row + 2].tolist()
            values = bag.values.clone()
            values[start:end] = (values[start:end] + 1) % 4
            changed[index] = dataclasses.replace(bag, values=values)
        else:
            changed[index] = changed[index].clone()
            changed[index][row] += 1.0
        others = [other for other in range(6) if other != row]
        dirty = model(dataclasses.replace(batch, **{part: tuple(changed)})).logits
        assert torch.equal(dirty[others], clean[others]), (part, index)
        assert not torch.equal(dirty[row], clean[row]), (part, index)


def test_stored_vectors_of_one_row_reach_no_other_row():
    config = stored_config()
    model = Ranker(config)
    batch = make_batch(config, LENGTHS)
    clean = model(batch).logits
    stored = batch.representations
    start, end = stored.offsets[2:4].tolist()
    values, vector = stored.values.clone(), batch.user_vector.clone()
    values[start:end] += 0.5
    vector[2] += torch.arange(5)
    for changed in (
        {"representations": dataclasses.replace(stored, values=values)},
        {"user_vector": vector},
    ):
        dirty = model(dataclasses.replace(batch, **changed)).logits
        others = [0, 1, 3, 4, 5]
        assert torch.equal(dirty[others], clean[others])
        assert not torch.equal(dirty[2], clean[2])


def test_weights_of_the_same_shape_start_as_in_a_ranker_without_stored_vectors():
    plain = Ranker(ranker_config(head_hidden=(24,)), seed=4).state_dict()
    stored = Ranker(stored_config(), seed=4).state_dict()
    assert torch.equal(stored["tables.table_item.weight"], plain["tables.table_item.weight"])
    assert plain.keys() < stored.keys()


def test_missing_dense_value_scores_as_the_mean():
    model = Ranker(ranker_config())
    sample = torch.tensor([[1.0, 2.0, 3.0], [3.0, 6.0, 9.0]])
    model.fit_normalisers(sample, torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    batch = make_batch(ranker_config(), (2, 2))
    mean = dataclasses.replace(batch, dense=sample.mean(0).repeat(2, 1))
    missing = dataclasses.replace(batch, dense=torch.full((2, 3), torch.nan))
    assert torch.equal(model(missing).logits, model(mean).logits)


def test_normalisers_need_an_event_sample_exactly_with_a_history():
    with pytest.raises(ValueError, match="event_dense goes with a history; found none"):
        Ranker(ranker_config()).fit_normalisers(torch.zeros(1, 3))


def test_grown_vocabulary_leaves_every_score_as_it_was():
    config = ranker_config()
    parent = Ranker(config, seed=1)
    batch = make_batch(config, LENGTHS)
    unseen = dataclasses.replace(batch, categorical=torch.zeros_like(batch.categorical))
    grown_tables = tuple(
        TableConfig(name=table.name, num_rows=table.num_rows + 5, dim=table.dim)
        for table in config.tables
    )
    grown_config = ranker_config(tables=grown_tables)
    child = Ranker(grown_config, seed=2)
    child.load_state_dict(extend_tables(parent.state_dict(), grown_tables))
    assert torch.equal(child(batch).logits, parent(batch).logits)
    admitted = dataclasses.replace(batch, categorical=torch.tensor([[20, 11]]).repeat(6, 1))
    assert torch.equal(child(admitted).logits, parent(unseen).logits)


def train(model, batch, num_steps):
    """Losses of steps on one batch with fixed random labels."""
    labels = torch.randint(0, 2, (6, 3), generator=torch.Generator().manual_seed(0)).float()
    optimizers = build_optimizers(model, lr_dense=1e-2, lr_sparse=5e-2)
    losses = []
    for _ in range(num_steps):
        loss = task_loss(model(batch).logits, labels, *all_rows_counted(batch))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "config",
    [
        ranker_config(),
        gem_config(),
        downstream_config(DIN),
        downstream_config(HSTU),
        rich_config(),
        ranker_config(domain_ffn=DomainFFNConfig(hidden=5)),
    ],
)
def test_one_tiny_batch_overfits(config):
    losses = train(Ranker(config), make_batch(config, LENGTHS), num_steps=150)
    assert losses[0] > 1.5
    assert losses[-1] < 0.01


@pytest.mark.parametrize("config", [ranker_config(), gem_config()])
def test_training_twice_gives_bit_identical_weights(config):
    batch = make_batch(config, LENGTHS)
    first, second = Ranker(config, seed=1), Ranker(config, seed=1)
    assert train(first, batch, num_steps=5) == train(second, batch, num_steps=5)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


@pytest.mark.parametrize("config", FORMS)
def test_every_weight_takes_part_in_the_score(config):
    model = Ranker(config)
    model(make_batch(config, LENGTHS)).logits.square().sum().backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or parameter.grad.to_dense().abs().max() == 0
    ]
    assert idle == []


@pytest.mark.parametrize("config", FORMS)
def test_a_batch_without_any_event_gives_every_weight_a_gradient(config):
    # Workers that wait for one another's gradients would wait for ever for one that is absent.
    model = Ranker(config)
    model(make_batch(config, (0, 0))).logits.sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.to_dense().isfinite().all() for gradient in gradients.values())


def test_dropout_acts_in_training_only():
    config = ranker_config(dropout=0.5)
    model, plain = Ranker(config), Ranker(ranker_config())
    batch = make_batch(config, LENGTHS)
    dropped = (model(batch).representation == 0).float().mean().item()
    assert 0.3 < dropped < 0.7
    assert torch.equal(model.eval()(batch).logits, plain(batch).logits)
