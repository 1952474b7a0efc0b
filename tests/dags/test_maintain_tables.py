"""Maintenance is one task that runs weekly, parses light, and asks the recipe for its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dags.common import RecipeOperator
from jobs.config import with_overrides
from jobs.recipes import RECIPES, kuairand
from tests.dags.stubs import describe

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the DAG file declares, read in a process of its own."""
    return describe("maintain_tables", tmp_path_factory.mktemp("home"), "SPARK")


def test_the_graph_is_one_task_that_shares_its_pool_with_spark(described):
    assert described["graph"] == [
        "maintain_tables: -; RecipeOperator retries=1 pool=spark; to -",
    ]


def test_parsing_loads_nothing_heavy(described):
    loaded = {module.partition(".")[0] for module in described["loaded"]}
    assert not loaded & {"torch", "pyspark", "mlflow", "deltalake", "pyarrow", "numpy", "pandas"}


def test_it_runs_weekly_and_waits_to_be_switched_on(described):
    assert described["schedule"] == ["30 12 * * 0", "Asia/Shanghai"]
    assert (described["catchup"], described["max_active_runs"], described["paused"]) == (
        False,
        1,
        True,
    )


def test_parameters_match_the_config(described):
    params = described["params"]
    assert list(params) == ["recipe", "overrides", "dry_run"]
    assert params["recipe"]["enum"] == list(RECIPES)
    assert params["dry_run"]["default"] is False
    changed = with_overrides(kuairand(), {"maintenance.retention_days": 14})
    assert changed.maintenance.retention_days == 14


@pytest.mark.parametrize(("dry", "flag"), [(True, ["--dry-run"]), (False, [])])
def test_the_job_is_told_recipe_overrides_and_whether_to_change_anything(dry, flag):
    task = RecipeOperator(task_id="maintain_tables")
    params = {"recipe": "tiny", "overrides": {"a": 1}, "dry_run": dry}
    assert task.arguments({"params": params}) == [
        *("--recipe", "tiny", "--overrides", '{"a": 1}'),
        *flag,
    ]
