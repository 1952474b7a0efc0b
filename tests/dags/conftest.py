"""Gives these tests an Airflow home of their own, before anything imports Airflow."""

import os
import shutil
import tempfile

_home = tempfile.mkdtemp(prefix="lapidary-airflow-")
os.environ.update(
    AIRFLOW_HOME=_home,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="True",
    AIRFLOW_CONN_FS_DEFAULT="fs://",
)


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(_home, ignore_errors=True)
