"""Parse the DAG that is named and print what it is, as JSON: loaded modules, graph, parameters."""

import importlib
import json
import sys


def main() -> None:
    """Import the DAG file as Airflow would, then look at it."""
    name = sys.argv[1]
    module = importlib.import_module(f"dags.{name}")
    loaded = sorted(sys.modules)
    dag = getattr(module, name)()
    graph = []
    for task in dag.tasks:
        marks = [
            task.operator_name,
            *(["mapped"] if task.is_mapped else []),
            *(["teardown"] if task.is_teardown else []),
            f"retries={task.retries}",
            f"pool={task.pool}",
        ]
        group = task.task_group.group_id or "-"
        to = ", ".join(sorted(task.downstream_task_ids)) or "-"
        graph.append(f"{task.task_id}: {group}; {' '.join(marks)}; to {to}")
    timetable = dag.timetable
    timed = hasattr(timetable, "expression")
    told = {
        "loaded": loaded,
        "graph": graph,
        "params": {name: p.schema | {"default": p.value} for name, p in dag.params.items()},
        "schedule": [timetable.expression, str(timetable.timezone)] if timed else None,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "paused": dag.is_paused_upon_creation,
        "doc": dag.doc_md,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
