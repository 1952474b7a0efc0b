"""The newest event is foretold from what was known before it, and from nothing else."""

import dataclasses
import math

import pytest
import torch

from model import ranker
from model.embeddings import EmbeddingTables
from model.next_event import NextEventHead, NextEvents
from model.optim import build_optimizers
from model.ranker import Ranker
from tests.model.samples import history_config, make_batch, ranker_config, upstream_config

CONFIG = ranker_config(
    history=history_config(upstream=upstream_config(num_stages=1), next_event="item_id")
)
ROWS = ((0, 6), (0, 9), (0, 3), (1, 0), (1, 1))


def next_events(target, negatives, num_values=20):
    """Every value drawn as often as its number says, so that shares differ."""
    shares = torch.arange(1.0, num_values + 1).div(num_values * (num_values + 1) / 2).log()
    return NextEvents(
        torch.tensor(target), shares[target], torch.tensor(negatives), shares[negatives]
    )


def batch(targets=(3, 4, 5, 0, 7), negatives=(1, 4, 4, 9)):
    made = make_batch(CONFIG, (9, 2), rows=ROWS)
    return dataclasses.replace(made, next_events=next_events(list(targets), list(negatives)))


def test_errors_equal_the_sum_over_candidates():
    torch.manual_seed(0)
    head, tables = NextEventHead(CONFIG), EmbeddingTables(CONFIG.tables)
    events = next_events([3, 4], [1, 4, 4, 9])
    summary = torch.randn(2, 4, 8)
    found = head(summary, tables, events)
    items = tables["table_item"].weight.detach().double()
    users = head.projection(head.norm(summary.flatten(1))).detach().double()
    for row, target in enumerate((3, 4)):
        scores = {"own": users[row] @ items[target] - events.target_log_share[row]}
        for place, value in enumerate((1, 4, 4, 9)):
            if value != target:
                scores[place] = users[row] @ items[value] - events.negative_log_share[place]
        total = sum(math.exp(score) for score in scores.values())
        assert found[row].item() == pytest.approx(math.log(total) - scores["own"].item(), rel=1e-5)


def test_an_event_that_is_drawn_more_often_is_corrected_for():
    head, tables = NextEventHead(CONFIG), EmbeddingTables(CONFIG.tables)
    torch.nn.init.zeros_(head.projection.weight)
    # Without any preference a value is foretold by its share among target and negatives' inverse.
    found = head(torch.randn(1, 4, 8), tables, next_events([3], [19]))
    inverse = [1 / 4, 1 / 20]
    assert found.item() == pytest.approx(-math.log(inverse[0] / sum(inverse)), rel=1e-5)


def test_nothing_from_the_newest_event_on_changes_how_it_is_foretold():
    model = Ranker(CONFIG)
    clean = model(batch()).next_event_errors
    history = batch().history
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
        dirty = model(
            dataclasses.replace(batch(), history=dataclasses.replace(history, **changed))
        ).next_event_errors
        blind = [row for row, (user, known) in enumerate(ROWS) if user == 0 and known <= place + 1]
        assert torch.equal(dirty[blind], clean[blind]), place
        seen = [row for row, (user, known) in enumerate(ROWS) if user == 0 and known > place + 1]
        assert (dirty[seen] != clean[seen]).all(), place


def test_it_teaches_the_long_sequence_and_the_table_and_no_head():
    model = Ranker(CONFIG)
    model(batch()).next_event_errors.sum().backward()
    taught = {
        name.split(".")[0] if not name.startswith("history") else ".".join(name.split(".")[:2])
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.to_dense().abs().max() > 0
    }
    assert taught == {"tables", "history.events", "history.upstream", "history.next_event"}


def test_it_changes_no_score_and_is_counted():
    model, plain = (
        Ranker(CONFIG),
        Ranker(ranker_config(history=history_config(upstream=upstream_config(num_stages=1)))),
    )
    assert ranker.num_parameters(CONFIG) == sum(p.numel() for p in model.parameters())
    shared = {k: v for k, v in model.state_dict().items() if "next_event" not in k}
    plain.load_state_dict(shared)
    rows = batch()
    assert torch.equal(
        model(rows).logits, plain(dataclasses.replace(rows, next_events=None)).logits
    )
    assert plain(dataclasses.replace(rows, next_events=None)).next_event_errors is None


def test_what_comes_next_is_learnt_by_heart():
    model, rows = Ranker(CONFIG), batch()
    optimizers = build_optimizers(model, lr_dense=2e-2, lr_sparse=3e-1)
    losses = []
    for _ in range(60):
        loss = model(rows).next_event_errors[[0, 1, 2]].mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.1


@pytest.mark.parametrize(
    ("upstream", "field", "found"),
    [(None, "item_id", "'item_id' without"), (upstream_config(), "colour", "'colour' with ")],
)
def test_a_field_that_no_upstream_reads_is_refused(upstream, field, found):
    with pytest.raises(ValueError, match=rf"history.next_event: .* found {found}"):
        history_config(upstream=upstream, next_event=field)
