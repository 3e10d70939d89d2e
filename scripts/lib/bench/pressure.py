"""What a large stock of other tasks does to the hot path and to the operator's calls.

The yardstick is the same work just before, on the same database, without the stock.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import grpc
import psycopg

from bench.stage import Stage
from workerqueue.v1 import (
    queue_admin_pb2,
    task_admin_pb2,
    worker_queue_admin_pb2_grpc,
)

STOCK = 1_000_000
_CALLS = 100
_QUEUE = "stock"

# The stock is not work of the server's: its statements count for themselves, and the statistics are
# made anew at once.
_UNCOUNTED = "set workerqueue.counts_itself = 'yes'"
_LANE = "select lane_id from workerqueue.ensure_lanes(array['stock'], array['startRun'], '{0}')"
_SCHEDULED = f"""
    insert into workerqueue.tasks (
      id, position, created_at, run_at, lane_id, timeout_ms, lease_duration_ms, state, priority,
      max_attempts, payload)
    select gen_random_uuid(), n, now(), now() + interval '1 day' + n * interval '1 millisecond',
           ({_LANE}), 60000, 30000, 'scheduled', 0, 3, convert_to(repeat('x', 50), 'UTF8')
      from generate_series(1, %s) n"""
_FINISHED = f"""
    insert into workerqueue.history (
      id, lease_id, created_at, run_at, started_at, finished_at, retain_until, lane_id, timeout_ms,
      lease_duration_ms, state, attempt, max_attempts, concurrency_limit, payload)
    select gen_random_uuid(), n, now(), now(), now(), now(), now() + interval '1 day', ({_LANE}),
           60000, 30000, 'succeeded', 1, 3, 1, convert_to(repeat('x', 50), 'UTF8')
      from generate_series(1, %s) n"""


@contextlib.contextmanager
def stock(stage: Stage, *, scheduled: int = 0, finished: int = 0) -> Iterator[None]:
    """So many scheduled and finished tasks beside the measured ones."""
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        connection.execute(_UNCOUNTED)
        connection.execute(_LANE)
        connection.execute(_SCHEDULED.encode(), (scheduled,))
        connection.execute(_FINISHED.encode(), (finished,))
        connection.execute("select workerqueue.recount_tasks()")
    stage.settle()
    try:
        yield
    finally:
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            connection.execute(_UNCOUNTED)
            for table in ("tasks", "history"):
                connection.execute(
                    f"delete from workerqueue.{table} where lane_id = ({_LANE})".encode()
                )
                connection.execute(f"vacuum workerqueue.{table}".encode())
            connection.execute("select workerqueue.recount_tasks()")


def operator_calls_ms(stage: Stage) -> dict[str, float]:
    """Median milliseconds of the operator's reading calls."""
    with grpc.insecure_channel(stage.target) as channel:
        admin = worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(channel)
        calls: dict[str, Callable[[], object]] = {
            "ListQueues": lambda: admin.ListQueues(queue_admin_pb2.ListQueuesRequest()),
            "GetQueue": lambda: admin.GetQueue(queue_admin_pb2.GetQueueRequest(queue=_QUEUE)),
            "ListTasks": lambda: admin.ListTasks(task_admin_pb2.ListTasksRequest(page_size=50)),
        }
        return {name: _median_ms(call) for name, call in calls.items()}


def _median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)
