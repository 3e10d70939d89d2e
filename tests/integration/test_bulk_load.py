"""A large load: every task once, and memory that does not grow with it, on either side."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from tests.postgres import Database
from tests.servers import ServerProcess
from workerqueue import Client, EnqueueItem, LoadProgress
from workerqueue.tasks.v1 import tasks_pb2

MEBIBYTE = 1 << 20
# What batches under way, allocators and caches may take, far below what the tasks would.
SLACK = 60 * MEBIBYTE


def peak() -> int:
    """The most memory this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def load(server: ServerProcess, queue: str, count: int) -> LoadProgress:
    """Loads the tasks from a generator."""

    def items() -> Iterator[EnqueueItem]:
        for number in range(count):
            yield EnqueueItem(tasks_pb2.RunFinished(id=f"run-{number:07}"), queue=queue)

    with Client(server.address) as client:
        return client.load(items())


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(100_000, marks=pytest.mark.slow),
        pytest.param(1_000_000, marks=pytest.mark.soak),
    ],
)
def test_a_load_is_complete_and_memory_bounded(
    server: ServerProcess, server_database: Database, queue: str, count: int
) -> None:
    # What a first load costs either side once, such as caches, is no growth.
    load(server, f"{queue}-first", 20_000)
    process = psutil.Process(server.pid)
    client_before, server_before = peak(), process.memory_info().rss

    progress = load(server, queue, count)

    assert progress == LoadProgress(created=count)
    client_growth, server_growth = peak() - client_before, process.memory_info().rss - server_before
    with psycopg.connect(server_database.dsn) as connection:
        row = connection.execute(
            """
            select count(*), count(distinct payload)
              from workerqueue.tasks t join workerqueue.lanes l using (lane_id)
             where l.queue = %s
            """,
            [queue],
        ).fetchone()
    assert row == (count, count)
    assert client_growth < SLACK
    assert server_growth < SLACK
