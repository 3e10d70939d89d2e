"""Operator commands need the client, click and rich, and nothing of the server."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import pkgutil, sys
from importlib import import_module
from workerqueue_server.cli import remote
for module in pkgutil.iter_modules(remote.__path__):
    import_module(f"{remote.__name__}.{module.name}")
print(*sys.modules)
"""


def test_operator_commands_import_nothing_of_the_server() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
    )
    loaded = set(ended.stdout.split())
    assert "workerqueue_server.cli.remote.bench" in loaded
    inner = {f"workerqueue_server.{layer}" for layer in ("app", "rpc", "queue", "store")}
    assert not loaded & (inner | {"psycopg", "pydantic", "protovalidate"})
