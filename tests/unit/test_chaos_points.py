"""Fault points exist in the tests' own program alone, and at statements that there are."""

from __future__ import annotations

from pathlib import Path

import workerqueue
import workerqueue_server
from tests.chaos.harness import faults, faulty
from workerqueue_server.rpc.worker_queue import WorkerQueueService
from workerqueue_server.store.statements import statement


def test_the_product_knows_no_fault_points() -> None:
    for package in (workerqueue, workerqueue_server):
        (folder,) = package.__path__
        sources = list(Path(folder).rglob("*.py"))
        assert len(sources) > 10
        assert [path for path in sources if faulty.VARIABLE in path.read_text()] == []
        assert [path for path in sources if "tests.chaos" in path.read_text()] == []


def test_every_point_is_at_something_that_exists() -> None:
    for name in (*faults.STATEMENTS, "notify"):
        assert statement(name)
    for name in faults.METHODS:
        assert callable(getattr(WorkerQueueService, name))
