"""Does content tell which new items a customer takes, and what does a vector cost?

Real descriptions: UCI Online Retail, purchases of a gift wholesaler, in `DATA_DIR`. An item is new
in the week from the day of its first sale. Every basket with some new items, but not all, of a
customer with earlier purchases is a question: which of the new items are in it? Each arm scores
them by what was known before the basket's day alone. The encoder's default settings were chosen on
February to May, after the answers from June on had been seen once with other settings.

    content        mean cosine of the item's description and the 5 nearest of the customer's items
    popularity     pieces of the item sold before that day
    co_purchase    customers who by then had the item and one of the customer's items: ids alone
    both           sum of the ranks by content and by co-purchase
    random         chance

The encoder is fitted on what was known before 1 June 2011 and asked about everything after. Prints
a line of JSON per arm: AUC within baskets, averaged over baskets, with a 95 % interval from
resampled customers, over all new items and over those never sold before the basket's day. Then the
time of the job: cold, from the cache, and one changed text among many.

With `--ray-data ROUNDS` it compares instead the job's loop over batches with Ray Data's
`map_batches`, on the same texts and a Ray that is running already. The rule, set before measuring:
Ray Data enters the job only if, where a cluster is configured, the whole interval of its wall time
over the loop's lies below 1.

    DATA_DIR=<folder with uci_online_retail/> python -m tests.bench.bench_content
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import rankdata

from jobs import delta, embed_content
from jobs.command import run_job
from jobs.config import RunConfig, day_start
from jobs.content import tfidf
from jobs.content.encoders import open_encoder
from jobs.content.settings import Content, TfidfSvd
from jobs.content.texts import open_texts
from jobs.training.content import ItemContent, read_content
from tests.bench import content_arms, harness
from tests.jobs import samples
from tests.jobs.content import catalogue

ZONE = "Europe/London"
NOBODY = 0
"""Who buys without a customer's number: it counts as sold, and makes no history."""
FIRST, CUT_OFF, LAST = date(2010, 12, 1), date(2011, 6, 1), date(2011, 12, 9)
NEW_DAYS = 7
NEAREST = 5
_MICROS = pa.timestamp("us", "UTC")
ARMS = ("content", "popularity", "co_purchase", "both", "random")
DIFFERENCES = (("content", "random"), ("content", "popularity"), ("both", "co_purchase"))


@dataclass(frozen=True)
class Purchase:
    """One line of an invoice."""

    customer: int
    item: str
    invoice: str
    pieces: int


@dataclass
class Answers:
    """AUC within each basket, by arm, and whose basket it was."""

    customers: list[int] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=100_000, help="texts of the timing; 100000")
    parser.add_argument("--ray-data", type=int, metavar="ROUNDS", help="compare with Ray Data")
    options = parser.parse_args()
    log = read_log(Path(os.environ["DATA_DIR"]) / "uci_online_retail" / "transactions.parquet")
    if options.ray_data:
        through_ray(log, options.texts, options.ray_data)
        return
    with tempfile.TemporaryDirectory() as home:
        content = embedded(home, log)
        for line in compared(log, content):
            print(json.dumps(line))
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(timed(home, log, options.texts)))


def read_log(path: Path) -> pa.Table:
    """Sales with a description, without cancellations; the log has no time zone of its own."""
    rows = pq.read_table(path)
    sold = pc.and_(
        pc.greater(rows["Quantity"], 0), pc.invert(pc.starts_with(rows["InvoiceNo"], "C"))
    )
    return rows.filter(pc.and_(sold, pc.is_valid(rows["Description"])))


def embedded(home: str, log: pa.Table) -> ItemContent:
    """Descriptions through the job, in two runs; each is known from the day it is first seen on."""
    states: dict[tuple[str, str], date] = {}
    days = [moment.date() for moment in log["InvoiceDate"].to_pylist()]
    items, texts = log["StockCode"].to_pylist(), log["Description"].to_pylist()
    for item, text, day in zip(items, texts, days, strict=True):
        states.setdefault((item, text), day)
    for run_day in (CUT_OFF, LAST):
        run = config(home, run_day)
        rows = [key for key, day in states.items() if (day < CUT_OFF) == (run_day == CUT_OFF)]
        arrive(run, rows, [states[key] for key in rows], FIRST if run_day == CUT_OFF else LAST)
        run_job(run, embed_content.run)
    examples = pa.table({"ad_id": pa.array(items)})
    return read_content(run, examples, pa.table({"item_id": pa.array([[]], pa.list_(pa.string()))}))


def config(home: str, day: date) -> RunConfig:
    """A run of the log; its training cut-off is the start of the day."""
    content = Content(feed="ads", fields=["title"], encoder=TfidfSvd()).model_dump(mode="json")
    return catalogue.config(home, day, None, content, time_zone=ZONE, first_day=FIRST)


def arrive(run: RunConfig, texts: list[tuple[str, str]], known: list[date], day: date) -> None:
    """Make the ads' table hold texts of items, under one arrival day."""
    items, titles = zip(*texts, strict=True)
    rows = pa.table(
        {
            "entity_id": pa.array(items),
            "known_ts": pa.array([day_start(d, ZONE) for d in known], _MICROS),
            "ad_title": pa.array(titles),
        }
    )
    order = ["entity_id", "known_ts", "ad_title"]
    delta.write_arrow_day(run.table(catalogue.TABLE), rows, day, order, samples.COMMIT)


def compared(log: pa.Table, content: ItemContent) -> Iterator[dict[str, Any]]:
    """AUC of every arm, over all new items and over those never sold before."""
    everything, unsold = answered(log, content)
    for name, answers in (("all new items", everything), ("never sold before", unsold)):
        for arm in ARMS:
            yield {"items": name, "arm": arm, **interval(answers, arm)}
        for arm, beside in DIFFERENCES:
            values = interval(answers, arm, beside)
            yield {"items": name, "arm": f"{arm} - {beside}", **values}


def answered(log: pa.Table, content: ItemContent) -> tuple[Answers, Answers]:
    """Go through the log day by day; what a day teaches counts from the next one on."""
    by_day = purchases(log)
    first_sold: dict[str, date] = {}
    for day, rows in by_day.items():
        for row in rows:
            first_sold.setdefault(row.item, day)
    owned: dict[int, set[str]] = defaultdict(set)
    buyers: dict[str, set[int]] = defaultdict(set)
    pieces: Counter[str] = Counter()
    draw = np.random.default_rng(0)
    everything, unsold = Answers(), Answers()
    for day, rows in by_day.items():
        oldest = day - timedelta(days=NEW_DAYS - 1)
        new = sorted(i for i, first in first_sold.items() if oldest <= first <= day)
        listed = sorted(i for i, first in first_sold.items() if first <= day)
        vector = vectors_at(content, listed, day)
        baskets: dict[tuple[int, str], set[str]] = defaultdict(set)
        for row in rows:
            if row.customer != NOBODY:
                baskets[row.customer, row.invoice].add(row.item)
        for (customer, _), basket in sorted(baskets.items() if day >= CUT_OFF else []):
            had = sorted(owned[customer])
            asked = [item for item in new if item not in owned[customer]]
            if not had:
                continue
            mine = np.stack([vector[item] for item in had])
            near = np.array([similarity(vector[item], mine) for item in asked])
            others = [buyers[item] for item in had]
            scores = {
                "content": near,
                "popularity": np.array([pieces[item] for item in asked]),
                "co_purchase": np.array([together(buyers[i], others) for i in asked]),
                "random": draw.random(len(asked)),
            }
            scores["both"] = rankdata(near) + rankdata(scores["co_purchase"])
            bought = np.array([item in basket for item in asked], bool)
            fresh = np.array([pieces[item] == 0 for item in asked], bool)
            for answers, kept in ((everything, np.ones(len(asked), bool)), (unsold, fresh)):
                if bought[kept].any() and not bought[kept].all():
                    answers.customers.append(customer)
                    for arm, values in scores.items():
                        answers.scores[arm].append(auc(values[kept], bought[kept]))
        for row in rows:
            if row.customer != NOBODY:
                owned[row.customer].add(row.item)
                buyers[row.item].add(row.customer)
            pieces[row.item] += row.pieces
    return everything, unsold


def purchases(log: pa.Table) -> dict[date, list[Purchase]]:
    """Lines by day, in order."""
    names = ("CustomerID", "StockCode", "InvoiceDate", "InvoiceNo", "Quantity")
    rows = log.select(names).sort_by("InvoiceDate")
    found: dict[date, list[Purchase]] = defaultdict(list)
    rows = rows.set_column(0, "CustomerID", pc.fill_null(rows["CustomerID"], NOBODY))
    columns = (rows[name].to_pylist() for name in names)
    for customer, item, moment, invoice, pieces in zip(*columns, strict=True):
        found[moment.date()].append(Purchase(customer, item, invoice, pieces))
    return found


def vectors_at(content: ItemContent, items: list[str], day: date) -> dict[str, np.ndarray]:
    """Items' vectors as known just after the start of a day: texts of the day are listed then."""
    at = np.full(len(items), round(day_start(day, ZONE).timestamp() * 1e6) + 1, np.int64)
    rows = content.rows_at(pa.chunked_array([items]), at)
    padded = np.concatenate([np.zeros((1, content.vectors.shape[1]), np.float32), content.vectors])
    return dict(zip(items, padded[rows], strict=True))


def similarity(vector: np.ndarray, others: np.ndarray) -> float:
    """Mean cosine with the nearest of the others."""
    return float(np.sort(others @ vector)[-NEAREST:].mean())


def together(buyers: set[int], others: list[set[int]]) -> int:
    """Customers who had the item and one of the others, counted once per other."""
    return sum(len(buyers & other) for other in others) if buyers else 0


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs in which the positive one has the greater score; ties count half."""
    above = scores[positive][:, None] - scores[~positive][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def interval(answers: Answers, arm: str, beside: str | None = None) -> dict[str, Any]:
    """Mean over baskets with a 95 % interval; of the difference where another arm is given."""
    values = np.array(answers.scores[arm])
    if beside is not None:
        values = values - np.array(answers.scores[beside])
    customers, of = np.unique(answers.customers, return_inverse=True)
    sums, counts = np.bincount(of, values), np.bincount(of)
    draw = np.random.default_rng(0).integers(len(customers), size=(2000, len(customers)))
    means = sums[draw].sum(axis=1) / counts[draw].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "auc": round(float(values.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "baskets": len(values),
        "customers": len(customers),
    }


def pairs_of(log: pa.Table, count: int) -> list[str]:
    """Pairs of real descriptions, each text once."""
    titles = sorted(set(log["Description"].to_pylist()))
    draw = np.random.default_rng(0).integers(len(titles), size=(2 * count, 2))
    return list(dict.fromkeys(f"{titles[a]} {titles[b]}" for a, b in draw.tolist()))[:count]


def through_ray(log: pa.Table, count: int, num_rounds: int) -> None:
    """Time the job's loop and Ray Data on the same texts; neither starts an engine meanwhile."""
    import ray

    texts, cores = pairs_of(log, count), len(os.sched_getaffinity(0))
    encoder = tfidf.fit(TfidfSvd(), texts[:20_000], "bench", {})
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    arms: dict[str, Callable[[], tuple[np.ndarray, float]]] = {
        "loop": lambda: content_arms.loop_arm(encoder, texts),
        "ray_data": lambda: content_arms.ray_arm(encoder, texts, cores),
    }
    try:
        one, other = (run()[0] for run in arms.values())
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        timings = harness.rounds_elsewhere(arms, num_rounds)
    finally:
        ray.shutdown()
    figures = harness.compared(timings, "ray_data", "loop")
    harness.report("content_ray_data", texts=len(texts), **figures, arms=harness.samples(timings))


def timed(home: str, log: pa.Table, count: int) -> dict[str, Any]:
    """Seconds of the job on many texts."""
    texts = pairs_of(log, count)
    rows = [(f"item-{n}", text) for n, text in enumerate(texts)]
    run = config(home, CUT_OFF)
    arrive(run, rows, [FIRST] * len(rows), FIRST)
    seconds, cpu_seconds = {}, {}
    for name, day in (("cold", CUT_OFF), ("cached", CUT_OFF), ("one_changed", LAST)):
        run = config(home, day)
        if name == "one_changed":
            arrive(run, [("item-0", "A text of its own")], [LAST], LAST)
        started, busy = time.perf_counter(), time.process_time()
        done = run_job(run, embed_content.run)
        seconds[name] = round(time.perf_counter() - started, 3)
        cpu_seconds[name] = round(time.process_time() - busy, 3)
        expected = {"cold": len(rows), "cached": 0, "one_changed": 1}[name]
        assert done.details["texts_encoded"] == expected, done.details
    assert run.contract.content is not None
    known = open_texts(run, run.contract.content)
    encoder = open_encoder(run, run.contract.content, known)
    assert encoder is not None
    busy = time.process_time()
    encoder.encode(texts)
    cpu_seconds["encoding_alone"] = round(time.process_time() - busy, 3)
    return {
        "texts": len(rows),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "cold_items_per_second": round(len(rows) / seconds["cold"]),
        "encoded_per_cpu_second": round(len(rows) / cpu_seconds["encoding_alone"]),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "at": datetime.now().isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
