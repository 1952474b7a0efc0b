"""What every component of a frozen world is worth: the most that any model may claim.

    python -m tests.bench.bench_world --preset world-3

Prints one JSON line: by task and domain, on the preset's last day, the mean true rate, the NE of p*
(the Bayes floor), and by how much forgetting each component raises NE, both in expectation over
labels. A conversion's rows are weighted by their probability of a click.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from jobs import simulation
from jobs.simulation import COMPONENTS, DOMAINS, PRESETS

TASKS = {"click": "p_click", "conversion": "p_conversion_given_click"}


def describe(name: str) -> dict[str, dict[str, float]]:
    """Worth of a preset's components, in units of NE."""
    preset = PRESETS[name]
    day = simulation.whole_day(preset.world, preset.num_days - 1)
    truth, told = day.truth, {}
    for task, p_name in TASKS.items():
        for domain in range(preset.world.num_domains):
            rows = day.impressions["domain"] == domain
            p = truth[p_name][rows]
            weight = truth["p_click"][rows] if task == "conversion" else np.ones(len(p))
            rate = np.average(p, weights=weight)
            background = _entropy(rate, rate)
            floor = np.average(_entropy(p, p), weights=weight)
            figures = {"rate": rate, "floor": floor / background}
            for component in COMPONENTS:
                without = truth[f"{p_name}_without_{component}"][rows]
                raised = np.average(_entropy(p, without), weights=weight) - floor
                figures[component] = raised / background
            told[f"{task}/{DOMAINS[domain]}"] = {k: round(float(v), 5) for k, v in figures.items()}
    return told


def _entropy(p: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Expected log loss of a prediction where the truth is p."""
    return -p * np.log(told) - (1 - p) * np.log1p(-told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="world-3", help="world-3")
    print(json.dumps(describe(parser.parse_args().preset)))


if __name__ == "__main__":
    main()
