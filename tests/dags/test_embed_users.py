"""The graph is what the listing says, parses light, and hands the job its recipe."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dags.common import RecipeOperator
from jobs.config import with_overrides
from jobs.recipes import RECIPES, kuairand
from tests.dags.stubs import describe

HERE = Path(__file__).parent
LISTING = HERE / "embed_users.txt"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the DAG file declares, read in a process of its own."""
    return describe("embed_users", tmp_path_factory.mktemp("home"), "RAY")


def test_parsing_loads_nothing_heavy(described):
    loaded = {module.partition(".")[0] for module in described["loaded"]}
    assert not loaded & {"torch", "pyspark", "ray", "mlflow", "pandas", "pyarrow", "deltalake"}


def test_graph_equals_the_listing(described):
    if os.environ.get("UPDATE_LISTING"):
        LISTING.write_text("\n".join(described["graph"]) + "\n", encoding="utf-8")
    assert described["graph"] == LISTING.read_text(encoding="utf-8").splitlines()


def test_it_runs_daily_once_at_a_time_and_paused_at_creation(described):
    assert described["schedule"] == ["0 9 * * *", "Asia/Shanghai"]
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


def test_the_job_gets_the_recipe_and_the_overrides_of_the_run():
    params = {"recipe": "tiny", "overrides": {"windows.max_late_days": 2}}
    context: Any = SimpleNamespace(params=params).__dict__
    assert RecipeOperator(task_id="embed_users").arguments(context) == [
        "--recipe",
        "tiny",
        "--overrides",
        '{"windows.max_late_days": 2}',
    ]
