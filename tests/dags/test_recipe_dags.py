"""DAGs of one task that takes a recipe: each is its listing, parses light, hands the job its own.

`UPDATE_LISTING=1` writes the listings anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from dags.common import RecipeOperator
from jobs.config import with_overrides
from jobs.recipes import RECIPES, kuairand
from tests.dags.stubs import describe

HERE = Path(__file__).parent


class Declared(NamedTuple):
    """What a DAG of the name is to be."""

    name: str
    pool: str
    schedule: list[str] | None
    """Cron and time zone; None where it runs on demand."""


DAGS = (
    Declared("repair_labels", "SPARK", ["0 12 * * *", "Asia/Shanghai"]),
    Declared("embed_users", "RAY", ["0 9 * * *", "Asia/Shanghai"]),
    Declared("fit_scaling_law", "RAY", None),
)


@pytest.fixture(scope="module", params=DAGS, ids=lambda declared: declared.name)
def declared(request: pytest.FixtureRequest) -> Declared:
    """One of the DAGs."""
    return request.param


@pytest.fixture(scope="module")
def described(declared: Declared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What its file declares, read in a process of its own."""
    return describe(declared.name, tmp_path_factory.mktemp("home"), declared.pool)


def test_parsing_loads_nothing_heavy(described):
    loaded = {module.partition(".")[0] for module in described["loaded"]}
    assert not loaded & {"torch", "pyspark", "ray", "mlflow", "pandas", "pyarrow", "deltalake"}


def test_graph_equals_the_listing(declared, described):
    listing = HERE / f"{declared.name}.txt"
    if os.environ.get("UPDATE_LISTING"):
        listing.write_text("\n".join(described["graph"]) + "\n", encoding="utf-8")
    assert described["graph"] == listing.read_text(encoding="utf-8").splitlines()


def test_it_runs_when_it_should_once_at_a_time_and_paused_at_creation(declared, described):
    assert described["schedule"] == declared.schedule
    assert (described["catchup"], described["max_active_runs"], described["paused"]) == (
        False,
        1,
        True,
    )


def test_parameters_match_the_config(described):
    params = described["params"]
    assert list(params) == ["recipe", "overrides"]
    assert params["recipe"]["enum"] == list(RECIPES)
    assert params["recipe"]["default"] == "kuairand"
    assert with_overrides(kuairand(), params["overrides"]["default"]) == kuairand()


def test_the_job_gets_the_recipe_and_the_overrides_of_the_run(declared):
    params = {"recipe": "tiny", "overrides": {"windows.max_late_days": 2}}
    context: Any = SimpleNamespace(params=params).__dict__
    assert RecipeOperator(task_id=declared.name).arguments(context) == [
        "--recipe",
        "tiny",
        "--overrides",
        '{"windows.max_late_days": 2}',
    ]
