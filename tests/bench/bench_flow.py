"""Which way must information flow between a row's features and its user's events (InterFormer)?

Arms, one ranker each, on `world-2`, whose histories are worth more than all else:

- `two_way`: in every layer the sequence reads a summary of the row's features, and these a summary
  of the sequence;
- `s_to_ns`: the features read the sequence; learned tokens stand for what it would read of them;
- `ns_to_s`: the sequence reads the features, which go on alone;
- `separate`: neither reads the other; both summaries meet in the head;
- `single`: no sequence at all, a floor and no part of the order.

One layer around Wukong's, a sequence of the 8 latest events. The downstream, by which a candidate
reads events before the first layer (target attention), puts out zeros in every arm: through it
sequence and features would meet in `separate` too. Tokens, widths, heads and the rows' order are
the same; FLOPs are what a flow costs, and told.

What is learnt is the true probability of a click, not the click: from as many clicks as a core
learns in these minutes no arm learns anything of the events. That is easier than any log is.

Registered before it was run (see RESULTS.md for the run):

- metric: excess NE, E[KL(p* ‖ p)] / H(p̄*), in points (pp, hundredths of NE), of every second row of
  the last day, p* of whoever knows all but the hidden confounder; means over seeds 0 to 4 (initial
  weights; the rows' order is that of time), differences paired, with 95 % intervals over seeds and
  users, both resampled;
- pass, order: two_way minus each one-way arm, and each one-way arm minus separate, has an interval
  wholly below 0;
- pass, size: two_way minus separate is at most −0.3 pp, its interval wholly below 0;
- kill: where two_way is not 0.3 pp better than single, or the interval touches 0, hardly anything
  was learnt of the events, and the cells tell nothing of flows;
- tuning: every arm has the same two pairs of learning rates, tried with seed 0 and chosen by the
  cross-entropy to p* on every fifth row of the last day but one, which no cell learns.

A cell is an arm, a setting and a seed: one line of JSON each in `--out`, its predictions beside it.
Cells that are there are not run again; past `--seconds` none is started, and what has not run reads
*not run*.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_flow --out var/bench/flow
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jobs.scaling import sizes
from jobs.scaling.stream import FIELDS, Stream
from model import downstream, metrics
from model.batch import Batch, Timelines
from model.config import RankerConfig
from model.interaction.config import WukongConfig
from model.ranker import Ranker, flops, num_parameters
from model.sequence_config import InterFormerConfig
from tests.bench.sweep import Cell, Outcome, Sweep, excess_difference
from tests.bench.worlds import (
    Days,
    constant_excess,
    learn,
    on_device,
    open_days,
    points,
    run_bench,
    tell,
)

PRESET, NUM_DAYS, NUM_EVENTS = "world-2", 4, 8
ARMS = ("two_way", "s_to_ns", "ns_to_s", "separate", "single")
COMPARED = (
    ("two_way", "s_to_ns"),
    ("two_way", "ns_to_s"),
    ("s_to_ns", "separate"),
    ("ns_to_s", "separate"),
    ("two_way", "separate"),
    ("two_way", "single"),
)
RATES = ((4e-3, 0.1), (1e-2, 0.1))
"""Learning rates of dense weights and of tables."""
BATCH_ROWS = 256
INTERACTION = WukongConfig(
    num_layers=1, num_fm_tokens=4, num_lcb_tokens=4, rank=4, mlp_hidden=(32,), attentive=False
)


class NoDownstream(nn.Module):
    """Zeros for the tokens by which a candidate reads events: only the flows are left."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens

    def forward(self, tokens: Tensor, events: Tensor, history: Timelines) -> Tensor:
        """As a downstream of a ranker is called."""
        return tokens.new_zeros(len(tokens), self.num_tokens, tokens.shape[2])


def ranker_config(stream: Stream, arm: str) -> RankerConfig:
    """The ranker of an arm."""
    interformer = InterFormerConfig(
        num_cls_tokens=2,
        num_pma_tokens=1,
        num_recent_tokens=1,
        max_events=NUM_EVENTS,
        flow=arm,  # pyright: ignore[reportArgumentType]
    )
    config = sizes.ranker_config("wukong", 0, FIELDS, stream.table_rows, stream.num_domains)
    assert config.history is not None
    changes = {"num_summary_tokens": 1, "interformer": interformer}
    history = config.history.model_copy(update=changes)
    changed = {"interaction": INTERACTION, "history": history}
    return RankerConfig.model_validate(config.model_copy(update=changed).model_dump())


def build(config: RankerConfig, seed: int) -> Ranker:
    """A ranker whose features and events meet in InterFormer or nowhere before the head."""
    ranker = Ranker(config, seed)
    assert config.history is not None and ranker.history is not None
    # Replaced after it was built, so that all other weights start as they do with one.
    ranker.history.attention = NoDownstream(config.history.num_summary_tokens)  # pyright: ignore[reportAttributeAccessIssue]
    return ranker


def costs(config: RankerConfig) -> dict[str, int]:
    """Forward FLOPs of a row and parameters, without the downstream's."""
    spared = NUM_EVENTS * downstream.flops_per_event(config)
    spared += downstream.flops_per_row(config, NUM_EVENTS)
    return {
        "flops_per_row": round(flops(config, NUM_EVENTS) - spared),
        "num_parameters": num_parameters(config) - downstream.num_parameters(config),
    }


def run_cell(days: Days, cell: Cell, device: str) -> Outcome:
    """Train a cell's ranker, and score the last two days."""
    stream = days.stream
    ranker = build(ranker_config(stream, cell.arm), cell.seed)

    def read(rows: np.ndarray) -> Batch:
        return on_device(stream.batch(rows, NUM_EVENTS), device)

    learn(stream, ranker, days.learnt, RATES[cell.setting], read, BATCH_ROWS, device)
    tuned = metrics.ne(stream.p_star[days.tuned], tell(ranker, days.tuned, read))
    return Outcome(tuned, tell(ranker, days.judged, read)[:, None])


def summary(days: Days, sweep: Sweep) -> Iterator[dict[str, Any]]:
    """A line per arm, then what the rules ask."""
    stream, judged = days.stream, days.judged
    p_star, users = stream.p_star[judged], stream.users[judged]
    told: dict[str, np.ndarray] = {}
    for arm in sweep.arms:
        line: dict[str, Any] = {"arm": arm} | costs(ranker_config(stream, arm))
        own, setting = sweep.judged(arm, sweep.num_seeds()), sweep.setting(arm)
        if own is None or setting is None:
            yield line | {"result": "not run"}
            continue
        told[arm] = each = own[:, :, 0]
        yield line | {
            "rates": RATES[setting],
            "constant_pp": points(constant_excess(p_star)),
            "excess_pp": points(np.mean([metrics.excess_ne(p_star, p) for p in each])),
            "calibration": round(float(each.mean(0).sum() / p_star.sum()), 4),
        }
    for one, other in COMPARED:
        line = {"arm": one, "minus": other}
        if one in told and other in told:
            yield line | excess_difference(p_star, told[one], told[other], users)
        else:
            yield line | {"result": "not run"}
    rows = {"learnt_rows": len(days.learnt), "judged_rows": len(judged)}
    # With fewer seeds than five the rules are not judged.
    yield rows | {"torch": torch.__version__, "num_seeds": sweep.num_seeds()}


def open_truth(num_days: int) -> Days:
    """Days of the world with p* for a label, and every fifth and second row of the last two."""
    days = open_days(PRESET, num_days)
    labels = torch.from_numpy(days.stream.p_star.astype(np.float32))
    return Days(replace(days.stream, labels=labels), days.learnt, days.tuned[::5], days.judged[::2])


def main() -> None:
    """Run what is missing, then tell."""
    run_bench(__doc__, ARMS, len(RATES), NUM_DAYS, open_truth, run_cell, summary)


if __name__ == "__main__":
    main()
