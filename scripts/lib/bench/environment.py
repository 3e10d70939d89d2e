"""On what the measurement ran."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import grpc
import psycopg

from workerqueue_server import __version__


def describe(dsn: str) -> dict[str, str]:
    """Machine, database and versions."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select current_setting('server_version'), current_setting('fsync'), "
            "current_setting('synchronous_commit'), current_setting('shared_buffers')"
        ).fetchone()
    assert row is not None
    return {
        "workerqueue": f"{__version__} {_revision()}".strip(),
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "postgresql": f"{row[0]} (fsync {row[1]}, synchronous_commit {row[2]}, "
        f"shared_buffers {row[3]})",
    }


def _revision() -> str:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
