"""Is one ranker of three platforms better than three, and what has to be untied for that?

Arms, all of one network and of equal FLOPs per row, on `world-3` (three platforms; amber is the
smallest). Every row is learnt once by one ranker, so that the arms' total FLOPs are equal too:

- `naive`: one ranker with one head; it knows the platform by the surface alone, a column like any;
- `heads`: one ranker, a head per platform;
- `untied`: besides, the feed-forward layer below the interaction is one per platform (Lattice);
- `separate`: three rankers, each of one platform's rows.

All have that layer; it is one per platform in `untied` alone. A step is 1,024 rows of the log, of
which a ranker of one platform learns its own: it takes as many steps. Click; 16 latest events.

Registered before it was run (see RESULTS.md for the run):

- metric: excess NE, E[KL(p* ‖ p)] / H(p̄*), in points (pp, hundredths of NE), of each platform's
  rows of the last day, p* of whoever knows all but the hidden confounder; means over seeds 0 to 4
  (initial weights; the rows' order is that of time), differences paired, with 95 % intervals over
  seeds and users, both resampled;
- pass, merging: untied minus separate is at most 0 on every platform, and on amber at most −0.2 pp
  with an interval wholly below 0;
- pass, naive: naive minus separate has an interval wholly above 0 on at least one platform;
- pass, calibration: of untied, Σp / Σp* lies within 3 % of 1 on every platform (means over seeds);
- kill: a platform on which separate is not 0.5 pp better than a constant tells nothing, and is
  reported so, neither passed nor failed;
- tuning: every arm, of separate every ranker by itself, has the same three pairs of learning rates,
  tried with seed 0 and chosen by NE of the labels of the last day but one (of merged arms the mean
  over platforms). No cell learns that day.

A cell is an arm, a setting and a seed: one line of JSON each in `--out`, its predictions beside it.
Cells that are there are not run again; past `--seconds` none is started, and what has not run reads
*not run*.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_multi_domain --out var/bench/multi_domain
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from jobs.scaling import sizes
from jobs.scaling.stream import FIELDS, Stream
from jobs.simulation.world import DOMAINS
from model import metrics
from model.batch import Batch
from model.config import RankerConfig
from model.domain_config import DomainFFNConfig
from model.ranker import Ranker, flops, num_parameters
from tests.bench.sweep import Cell, Outcome, Sweep, excess_difference
from tests.bench.worlds import (
    BATCH_ROWS,
    Days,
    constant_excess,
    learn,
    on_device,
    open_days,
    points,
    run_bench,
    tell,
)

PRESET, NUM_DAYS = "world-3", 7
MERGED, SEPARATE = ("naive", "heads", "untied"), "separate"
ARMS = (*MERGED, *(f"{SEPARATE}/{name}" for name in DOMAINS))
RATES = ((4e-3, 0.1), (8e-3, 0.1), (8e-3, 0.3))
"""Learning rates of dense weights and of tables."""
FFN_HIDDEN = 32


def ranker_config(stream: Stream, arm: str) -> RankerConfig:
    """The ranker of an arm: all of one shape but for how many heads and layers there are."""
    several = arm in ("heads", "untied")
    config = sizes.ranker_config("wukong", 0, FIELDS, stream.table_rows, 1)
    changes: dict[str, Any] = {
        "domains": DOMAINS if several else ("all",),
        "domain_ffn": DomainFFNConfig(hidden=FFN_HIDDEN, untied=arm == "untied"),
    }
    return RankerConfig.model_validate(config.model_dump() | changes)


def own_rows(stream: Stream, arm: str, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that an arm's ranker learns and scores."""
    if arm in MERGED:
        return rows
    return rows[stream.domain.numpy()[rows] == DOMAINS.index(arm.split("/")[1])]


def batch_of(stream: Stream, config: RankerConfig, rows: np.ndarray) -> Batch:
    """Rows by number; a ranker of one head is told no platform."""
    batch = stream.batch(rows, sizes.NUM_EVENTS)
    return batch if len(config.domains) > 1 else replace(batch, domain=0 * batch.domain)


def run_cell(days: Days, cell: Cell, device: str) -> Outcome:
    """Train a cell's ranker; rows of the judged day that are not its own stay NaN."""
    stream = days.stream
    config = ranker_config(stream, cell.arm)
    ranker, rates = Ranker(config, cell.seed), RATES[cell.setting]

    def read(rows: np.ndarray) -> Batch:
        return on_device(batch_of(stream, config, rows), device)

    learn(stream, ranker, own_rows(stream, cell.arm, days.learnt), rates, read, device=device)
    tuned = own_rows(stream, cell.arm, days.tuned)
    judged = own_rows(stream, cell.arm, days.judged)
    told = np.full((len(days.judged), 1), np.nan)
    told[np.searchsorted(days.judged, judged), 0] = tell(ranker, judged, read)
    return Outcome(mean_ne(stream, tuned, tell(ranker, tuned, read)), told)


def mean_ne(stream: Stream, rows: np.ndarray, told: np.ndarray) -> float:
    """Mean over platforms of the NE of the labels."""
    labels, domain = stream.labels.numpy()[rows], stream.domain.numpy()[rows]
    return float(np.mean([metrics.ne(labels[domain == d], told[domain == d]) for d in set(domain)]))


def joined(sweep: Sweep) -> dict[str, np.ndarray | None]:
    """Probabilities of each arm, seeds x rows; those of separate from the ranker of each row."""
    # Paired: only seeds that all arms have run.
    found = {arm: sweep.judged(arm, sweep.num_seeds()) for arm in ARMS}
    told: dict[str, np.ndarray | None] = {arm: found[arm] for arm in MERGED}
    parts = [found[arm] for arm in ARMS if arm not in MERGED]
    whole = [part for part in parts if part is not None]
    told[SEPARATE] = np.nansum(whole, axis=0) if len(whole) == len(parts) else None
    return {arm: None if each is None else each[:, :, 0] for arm, each in told.items()}


def summary(days: Days, sweep: Sweep) -> Iterator[dict[str, Any]]:
    """A line per arm and platform, then what the rules ask."""
    stream, told = days.stream, joined(sweep)
    p_star, users = stream.p_star[days.judged], stream.users[days.judged]
    domain = stream.domain.numpy()[days.judged]
    labels = stream.labels.numpy()[days.judged]
    for arm in ARMS:
        config = ranker_config(stream, arm)
        setting = sweep.setting(arm)
        yield {
            "arm": arm,
            "flops_per_row": flops(config, sizes.NUM_EVENTS),
            "num_parameters": num_parameters(config),
            "learnt_rows": len(own_rows(stream, arm, days.learnt)),
            "rates": "not run" if setting is None else RATES[setting],
        }
    for arm, own in told.items():
        for d, name in enumerate(DOMAINS):
            at = domain == d
            line: dict[str, Any] = {"arm": arm, "domain": name}
            if own is None:
                yield line | {"result": "not run"}
                continue
            each, y = own[:, at], labels[at]
            line |= {
                "rows": int(at.sum()),
                "clicks": int(y.sum()),
                "constant_pp": points(constant_excess(p_star[at])),
                "excess_pp": points(np.mean([metrics.excess_ne(p_star[at], p) for p in each])),
                "ne": round(float(np.mean([metrics.ne(y, p) for p in each])), 5),
                "calibration": round(float(each.mean(0).sum() / p_star[at].sum()), 4),
                "calibration_of_labels": round(float(each.mean(0).sum() / y.sum()), 4),
            }
            for other, theirs in told.items():
                if other != arm and theirs is not None:
                    line[f"minus_{other}_pp"] = excess_difference(
                        p_star[at], each, theirs[:, at], users[at]
                    )
            yield line
    # With fewer seeds than five the rules are not judged.
    yield {"batch_rows": BATCH_ROWS, "torch": torch.__version__, "num_seeds": sweep.num_seeds()}


def main() -> None:
    """Run what is missing, then tell."""
    run_bench(__doc__, ARMS, len(RATES), NUM_DAYS, partial(open_days, PRESET), run_cell, summary)


if __name__ == "__main__":
    main()
