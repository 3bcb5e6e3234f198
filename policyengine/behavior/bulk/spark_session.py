"""Opens a session of Spark, on this machine or on the master that the variable MASTER names."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from policyengine.behavior.bulk.bulk_error import BulkError
from policyengine.install_hints import install_command

EXTRA: Final = "spark"
JAVA_HINT: Final = "install Java 17 or newer (on Debian: `apt install openjdk-17-jre-headless`), or set JAVA_HOME"
LOCAL: Final = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
}
SETTINGS: Final = {
    "spark.log.level": "ERROR",
    "spark.sql.adaptive.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
MAX_ERROR_LENGTH: Final = 300
FAILURE_HINT: Final = "the logs and the policies must be at the same paths on all machines of Spark"
STDERR: Final = 2


def check_spark() -> None:
    """Check that Spark can be started. Raises BulkError."""
    if find_spec("pyspark") is None or find_spec("pyarrow") is None:
        raise BulkError("pyspark and pyarrow are not installed", install_command(EXTRA))
    if find_java() is None:
        raise BulkError("Spark needs Java, which was not found", JAVA_HINT)


def find_java() -> str | None:
    """Return the program that runs Java, or None."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(str(Path(home) / "bin" / "java")) if home else shutil.which("java")


@contextmanager
def open_session() -> Iterator[Any]:
    """Open a session, which ends with the block unless it was open before. The master is this machine, unless MASTER
    names another master or a session is already open. Raises BulkError."""
    check_spark()
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    active = SparkSession.getActiveSession()
    with tempfile.TemporaryFile() as log:
        try:
            session = active or build_session(log.fileno())
        except (PySparkException, RuntimeError) as error:
            raise BulkError(f"Spark did not start: {last_line(error)}", JAVA_HINT) from None
        try:
            yield session
        except Exception as error:
            if isinstance(error, PySparkException) or type(error).__module__.startswith("py4j"):
                raise BulkError(f"Spark failed: {last_line(error)}", FAILURE_HINT) from None
            raise
        finally:
            if active is None:
                session.stop()


def build_session(log: int) -> Any:
    """Start Spark. Its Java process writes its messages to the file `log`, not between those of the command."""
    from pyspark.sql import SparkSession

    builder, master = SparkSession.builder.appName("policyengine behavior learn"), os.environ.get("MASTER", "local[*]")
    for name, value in {**SETTINGS, **(LOCAL if master.startswith("local") else {})}.items():
        builder = builder.config(name, value)
    stderr = os.dup(STDERR)
    os.dup2(log, STDERR)
    try:
        return builder.master(master).getOrCreate()
    finally:
        os.dup2(stderr, STDERR)
        os.close(stderr)


def last_line(error: Exception) -> str:
    """Return the line of an error that says what happened: the last line before the frames of Java."""
    text = str(error).partition("\n\nJVM stacktrace")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\tat ")]
    return (lines[-1] if lines else type(error).__name__)[:MAX_ERROR_LENGTH]
