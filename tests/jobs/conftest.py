"""One Spark session for all tests of jobs, set up for small frames."""

import logging
import os

import pytest

from jobs.config import Resources
from jobs.spark.session import spark_session

os.environ.setdefault(
    "_JAVA_OPTIONS",
    # A short-lived JVM: the quick compiler alone, with room for what it compiles.
    "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m",
)

# At the interpreter's end it would log to a stream that is closed by then.
logging.getLogger("py4j").setLevel(logging.WARNING)

SMALL_FRAMES = {
    # Planning and compiling would take longer than the few rows do.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """A session as the jobs open it, on two cores."""
    resources = Resources(spark_shuffle_partitions=2, spark_driver_memory="1g")
    home = tmp_path_factory.mktemp("spark")
    with spark_session(resources, str(home), "tests") as session:
        for key, value in SMALL_FRAMES.items():
            session.conf.set(key, value)
        yield session
