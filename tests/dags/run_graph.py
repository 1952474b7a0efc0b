"""Run `daily_retrain` once per line of rules on stdin; print how each run ended, as JSON.

A program of its own, so that the fakes' repository is the import root and Airflow's database is
nobody else's.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import stubs
from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb


def main() -> None:
    """Initialise the database, then run."""
    root = Path(sys.argv[1])
    pause = time.sleep
    time.sleep = lambda seconds: pause(min(seconds, 0.05))  # dag.test() waits a second per level
    initdb()
    bag = DagBag(root / "dags")
    assert bag.import_errors == {}, bag.import_errors
    dag = bag.dags["daily_retrain"]
    for task in dag.tasks:
        if not task.is_mapped:
            task.retry_delay = timedelta(0)
    for line in sys.stdin:
        stubs.control(root, **json.loads(line))
        run = dag.test(run_conf={"day": "2022-05-03"})
        tasks = {
            f"{ti.task_id}[{ti.map_index}]" if ti.map_index >= 0 else ti.task_id: str(ti.state)
            for ti in run.get_task_instances()
        }
        told = {"state": str(run.state), "tasks": tasks, "calls": stubs.calls(root)}
        print("RUN " + json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
