"""The Spark session that every Spark job uses."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import REPOSITORY

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.config import Resources


@contextmanager
def spark_session(resources: Resources, home: str, name: str) -> Iterator[SparkSession]:
    """Start a session, and stop it with its JVM at the end.

    Args:
        resources: Where Spark runs.
        home: Root of all state; Spark's scratch space lies below it.
        name: Application name.

    Yields:
        A session in UTC that writes Parquet as the tables expect it.
    """
    from pyspark.sql import SparkSession

    if resources.spark_master.startswith("sc://"):
        session = SparkSession.builder.remote(resources.spark_master).appName(name).getOrCreate()
        for key, value in _sql_settings(resources).items():
            session.conf.set(key, value)
        yield session
        session.stop()
        return
    is_local = resources.spark_master.startswith("local")
    # Workers must run this interpreter; "python3" from the path need not have pyarrow. On machines
    # of their own they may have it elsewhere.
    given = dict(setting.split("=", 1) for setting in resources.spark_conf)
    if is_local or "spark.pyspark.python" not in given:
        os.environ["PYSPARK_PYTHON"] = sys.executable
    if is_local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    scratch = Path(home) / "cache" / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    builder = (
        SparkSession.builder.master(resources.spark_master)
        .appName(name)
        .config("spark.driver.memory", resources.spark_driver_memory)
        .config("spark.driver.extraJavaOptions", resources.spark_java_options)
        .config("spark.local.dir", str(scratch))
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        # Over TCP every task's small first messages wait 40 ms for each other's receipts.
        .config("spark.python.unix.domain.socket.enabled", "true")
    )
    if is_local:
        # A driver that others have to reach finds its own address, or is given `spark.driver.host`.
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
    for key, value in {**_sql_settings(resources), **given}.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    if not is_local:
        session.sparkContext.addPyFile(str(_zipped_code(scratch)))
    try:
        yield session
    finally:
        session.stop()


def _zipped_code(scratch: Path) -> Path:
    """What executors import of ours: they run functions of modules and need not have them."""
    target = scratch / f"lapidary-{os.getpid()}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for package in ("jobs", "validation"):
            for path in sorted((REPOSITORY / package).rglob("*.py")):
                archive.write(path, path.relative_to(REPOSITORY))
    return target


def _sql_settings(resources: Resources) -> dict[str, str]:
    return {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(resources.spark_shuffle_partitions),
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
        # Column names come from contracts and rows from logs: a bad cast must not pass silently.
        "spark.sql.ansi.enabled": "true",
    }
