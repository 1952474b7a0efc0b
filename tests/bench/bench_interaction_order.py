"""Does a Wukong of l layers reach interactions of order 2^l, and which of its parts does that?

A row has eight unit vectors x_1 … x_8 of the plane, given as 16 dense columns. For r of 2, 4 or 8

    I_r = √2^(r/2) Π_{j ≤ r/2} x_{2j−1} · x_{2j}      z = 3 I_r      p* = σ(z)

I_r is a sum of products of r numbers, one of each of the first r vectors; it has mean 0, variance 1
and is uncorrelated with every function of fewer than r of them, so no lower order tells anything
of it. A product of vectors by coordinates, as the simulated world has, is no sum of dot products,
which are all that a factorization machine sees. Unit vectors bound I_r: with normal ones I_8 would
be nearly always 0. The ranker is the system's own: a linear map makes eight tokens of the columns,
the layers of Wukong follow, and a linear head. Y is fixed and the MLP of the FMB has one layer, so
a layer without its norms doubles the degree and no more (an attentive Y would triple it). Arms of
one order differ in depth alone: the shallower ones have as many more tokens as make up for their
parameters. Zero layers are the logistic stack. Rows are fresh in every step; arms of a seed see the
same ones.

Registered before it was run (metric, seeds, rules; see RESULTS.md):

- metric: excess NE, E[KL(p* ‖ p)] / H(p̄*), in points (pp, hundredths of NE), on 20,000 rows of a
  generator that training never draws from; per cell the mean over seeds 0 to 4, with the 95 %
  interval of the mean over resampled seeds;
- pass, order: at l = log2 r the upper end is below 0.5 pp, and at l = log2 r − 1 the excess is
  above three times that at l = log2 r, the interval of paired seeds excluding three;
- pass, parts: at r = 4 and l = 2, zeroing the FMB raises excess NE at least five times as much as
  zeroing the LCB, and as zeroing the residual, by the means over seeds;
- kill: where l = log2 r is not below half of the excess of a constant prediction, that r tells
  nothing of depth (nothing was learnt at all) and is reported so, neither passed nor failed;
- tuning: the learning rate, one for all arms, is 1e-2 of 3e-3, 1e-2 and 3e-2, tried at r = 4,
  l = 2, seed 1000 and 1,200 steps (0.54, 0.33 and 0.33 pp): the lower of two equal ones.

Added after that run, to see why one layer had sufficed for r = 4, and no part of any rule: the arms
without norms, on two seeds.

A cell is r, l, an ablation and a seed: one line of JSON each, appended to `--cells`; cells that are
there with the same settings are not run again. Past `--budget` CPU seconds the rest are printed as
not run.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_interaction_order \\
        --cells var/bench/interaction_order.jsonl --budget 450
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from model import metrics
from model.batch import Batch
from model.config import RankerConfig
from model.interaction.config import Interaction, LogisticConfig, WukongConfig
from model.interaction.wukong import Wukong, WukongLayer
from model.ranker import Ranker, num_parameters

ORDERS, NUM_VECTORS, SCALE = (2, 4, 8), 8, 3.0
WIDTH, RANK, NUM_TOKENS = 8, 8, 8
BATCH_SIZE, NUM_STEPS, LEARNING_RATE = 256, 1_600, 1e-2
NUM_TEST_ROWS, SEEDS = 20_000, (0, 1, 2, 3, 4)
PARTS = ("fmb", "lcb", "residual")
NORMS = "norms"


def draw(rng: np.random.Generator, rows: int, order: int) -> tuple[Tensor, np.ndarray]:
    """Rows as dense columns, and their true probabilities."""
    angle = rng.uniform(0.0, 2 * math.pi, (rows, NUM_VECTORS))
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    dots = (vectors[:, 0:order:2] * vectors[:, 1:order:2]).sum(axis=-1)
    z = SCALE * np.prod(math.sqrt(2) * dots, axis=1)
    columns = torch.from_numpy(vectors.reshape(rows, -1).astype(np.float32))
    return columns, 1 / (1 + np.exp(-z))


def make_config(interaction: Interaction) -> RankerConfig:
    """A ranker of the dense columns alone, linear before and after its stack."""
    return RankerConfig(
        width=WIDTH,
        tables=(),
        fields=(),
        num_dense=2 * NUM_VECTORS,
        num_dense_tokens=NUM_VECTORS,
        dense_hidden=None,
        interaction=interaction,
        history=None,
        domains=("all",),
        tasks=("label",),
        head_hidden=(),
    )


def stack(num_layers: int, tokens: int = NUM_TOKENS) -> Interaction:
    """Wukong of so many layers with `tokens` out of each block; the logistic stack for none."""
    if num_layers == 0:
        return LogisticConfig()
    return WukongConfig(
        num_layers=num_layers,
        num_fm_tokens=tokens,
        num_lcb_tokens=tokens,
        rank=RANK,
        mlp_hidden=(),
        attentive=False,
    )


def matched(order: int, num_layers: int) -> RankerConfig:
    """The ranker of l layers with about the parameters of the one of log2 r layers."""
    wanted = num_parameters(make_config(stack(order.bit_length() - 1)))
    if num_layers == 0:
        return make_config(stack(0))
    sizes = [make_config(stack(num_layers, tokens)) for tokens in range(1, 101)]
    return min(sizes, key=lambda config: abs(num_parameters(config) - wanted))


def ablate(wukong: nn.Module | None, part: str) -> None:
    """Let a part of every layer put out zeros, or its norms what they are given."""
    assert isinstance(wukong, Wukong)
    for layer in wukong.layers:
        assert isinstance(layer, WukongLayer)
        if part == NORMS:
            layer.norm = layer.fmb.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        else:
            getattr(layer, part).register_forward_hook(_zero)


def _zero(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def batch_of(columns: Tensor) -> Batch:
    """Rows of the one domain."""
    rows = len(columns)
    none = torch.empty(rows, 0, dtype=torch.int64)
    return Batch(none, columns, torch.zeros(rows, dtype=torch.int64))


def run_cell(
    order: int, num_layers: int, without: str | None, seed: int, lr: float = LEARNING_RATE
) -> dict[str, Any]:
    """Train one ranker on fresh rows and hold it against the truth."""
    cpu = time.process_time()
    test_columns, p_star = draw(np.random.default_rng([seed, order, 1]), NUM_TEST_ROWS, order)
    rng = np.random.default_rng([seed, order, 0])
    config = matched(order, num_layers)
    ranker = Ranker(config, seed)
    ranker.fit_normalisers(test_columns)  # Their distribution is known, and holds no label.
    if without:
        ablate(ranker.interaction, without)
    optimizer = torch.optim.Adam(ranker.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100) * (1 - step / NUM_STEPS)
    )
    for _ in range(NUM_STEPS):
        columns, p = draw(rng, BATCH_SIZE, order)
        labels = torch.from_numpy((rng.random(BATCH_SIZE) < p).astype(np.float32))
        logits = ranker(batch_of(columns)).logits[:, 0]
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        told = ranker.eval()(batch_of(test_columns)).logits[:, 0].double().sigmoid().numpy()
    constant = np.full(len(p_star), p_star.mean())
    return {
        "excess_ne": metrics.excess_ne(p_star, told),
        "excess_ne_of_a_constant": metrics.excess_ne(p_star, constant),
        "num_parameters": num_parameters(config),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "torch": torch.__version__,
    }


def cells() -> list[dict[str, Any]]:
    """Every cell, those that the rules need first; all arms of a seed stand together."""
    needed = [(r, r.bit_length() - 1 - less, None) for less in (0, 1) for r in ORDERS]
    needed += [(4, 2, part) for part in PARTS]
    deeper = [(r, r.bit_length(), None) for r in ORDERS[:2]]
    added = [(4, 1, NORMS), (4, 2, NORMS)]
    settings = {"num_steps": NUM_STEPS, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
    return [
        {"order": r, "num_layers": layers, "without": part, "seed": seed, **settings}
        for arms, seeds in ((needed, SEEDS), (added, SEEDS[:2]), (deeper, SEEDS))
        for seed in seeds
        for r, layers, part in arms
    ]


def summarise(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds of each arm, in points of NE, with its interval."""
    arms: dict[tuple[Any, ...], list[float]] = {}
    constants: dict[tuple[Any, ...], list[float]] = {}
    for cell in done:
        arm = (cell["order"], cell["num_layers"], cell["without"])
        arms.setdefault(arm, []).append(100 * cell["excess_ne"])
        constants.setdefault(arm, []).append(100 * cell["excess_ne_of_a_constant"])
    told = []
    for arm, values in arms.items():
        drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        figures = (np.mean(values), low, high, np.mean(constants[arm]))
        names = ("mean_pp", "low_pp", "high_pp", "constant_pp")
        told.append(
            dict(zip(("order", "num_layers", "without"), arm, strict=True))
            | {name: round(float(x), 3) for name, x in zip(names, figures, strict=True)}
            | {"num_seeds": len(values)}
        )
    return told


def main() -> None:
    """Run the cells that are not in the file yet, as long as the budget lasts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=math.inf, help="CPU seconds of this run")
    arguments = parser.parse_args()
    arguments.cells.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.cells.read_text().splitlines() if arguments.cells.exists() else []
    held = [json.loads(line) for line in lines]
    done, not_run = [], []
    for key in cells():
        found = next((cell for cell in held if cell.items() >= key.items()), None)
        if found is None and time.process_time() < arguments.budget:
            arm = (key["order"], key["num_layers"], key["without"], key["seed"])
            found = key | run_cell(*arm)
            with arguments.cells.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(*arm, round(100 * found["excess_ne"], 3), found["cpu_seconds"], flush=True)
        (not_run if found is None else done).append(found or key)
    for arm in summarise(done):
        print(json.dumps(arm))
    for key in not_run:
        print("not run", json.dumps(key))


if __name__ == "__main__":
    main()
