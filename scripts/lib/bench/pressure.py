"""What is present beside the measured work, and what it does to the operator's calls.

A stock of tasks is made from one real task of the kind wanted, which the database multiplies: so it
is what the server itself stores, whatever the tables look like.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import psycopg
from psycopg import sql

from bench.model import BATCH
from bench.running import STOCK_QUEUE
from bench.stage import Stage
from workerqueue import Client, EnqueueItem
from workerqueue.tasks.v1.tasks_pb2 import RunFinished
from workerqueue.v1 import (
    lease_pb2,
    queue_admin_pb2,
    task_admin_pb2,
    worker_queue_admin_pb2_grpc,
    worker_queue_pb2_grpc,
)

_TASKS_PER_KEY = 10

_CALLS = 100
_DAY = 86_400
_READERS = 4
_READER_SNAPSHOT_SECONDS = 5.0
_READER_PAUSE_SECONDS = 1.0

# The stock is not work of the server's: its statements count for themselves, and the statistics are
# made anew at once.
_UNCOUNTED = "set workerqueue.counts_itself = 'yes'"
_RECOUNT = "select workerqueue.recount_tasks()"
# Generated columns take no value.
_COLUMNS = """
  select attname from pg_attribute
   where attrelid = format('workerqueue.%%I', %s::text)::regclass and attnum > 0
     and not attisdropped and attgenerated = ''
"""
_MULTIPLY = """
  insert into workerqueue.{table} ({columns})
  select {made}
    from workerqueue.{table} t
   cross join generate_series(1, {count}) n
   cross join lateral jsonb_populate_record(
     t,
     jsonb_build_object('id', gen_random_uuid(), {number}, t.{column} + n)
       || case when {keys} > 0
               then jsonb_build_object('concurrency_key', 'key-' || n % {keys})
               else '{{}}' end) made
   where t.id = {task_id}
"""


def _multiply(
    stage: Stage, task_id: str, count: int, *, finished: bool = False, keys: int = 0
) -> None:
    """More tasks like this one, in the order they are made; with keys, spread over so many."""
    table, number = ("history", "lease_id") if finished else ("tasks", "position")
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        names = [name for (name,) in connection.execute(_COLUMNS, [table]).fetchall()]
    statement = sql.SQL(_MULTIPLY).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, names)),
        made=sql.SQL(", ").join(sql.Identifier("made", name) for name in names),
        number=sql.Literal(number),
        column=sql.Identifier(number),
        keys=sql.Literal(keys),
        count=sql.Literal(count),
        task_id=sql.Literal(task_id),
    )
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        connection.execute(_UNCOUNTED)
        connection.execute(statement)
        connection.execute(_RECOUNT)
        connection.execute(sql.SQL("vacuum analyze workerqueue.{}").format(sql.Identifier(table)))
    stage.settle()


def _pause(stage: Stage) -> None:
    with grpc.insecure_channel(stage.target) as channel:
        admin = worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(channel)
        admin.PauseQueue(queue_admin_pb2.PauseQueueRequest(queue=STOCK_QUEUE), timeout=60)


def _run(number: int = 0) -> RunFinished:
    return RunFinished(id=f"run_01J9Z3M8V4T6Q2X7C5B1N0K8P9-{number:06}")


@contextlib.contextmanager
def scheduled(stage: Stage, stock: int) -> Iterator[None]:
    """Tasks that are due in days."""
    with Client(stage.target) as client:
        task = client.enqueue(_run(), queue=STOCK_QUEUE, delay=20 * _DAY)
    _multiply(stage, task.task_id, stock)
    yield


@contextlib.contextmanager
def finished(stage: Stage, stock: int) -> Iterator[None]:
    """Tasks in history."""
    with Client(stage.target) as client:
        task = client.enqueue(_run(), queue=f"{STOCK_QUEUE}-finished")
    _finish_one(stage, f"{STOCK_QUEUE}-finished")
    _multiply(stage, task.task_id, stock, finished=True)
    yield


def _finish_one(stage: Stage, queue: str) -> None:
    with grpc.insecure_channel(stage.target) as channel:
        stub = worker_queue_pb2_grpc.WorkerQueueStub(channel)
        subscribe = lease_pb2.Subscribe(worker_id="bench-stock", queues=[queue], max_in_flight=1)
        # The stream ends by itself once what is available was delivered.
        for frame in stub.Lease(iter([lease_pb2.LeaseRequest(subscribe=subscribe)]), timeout=60):
            for task in frame.tasks:
                stub.Ack(lease_pb2.AckRequest(lease_token=task.lease_token), timeout=60)


@contextlib.contextmanager
def scheduled_and_finished(stage: Stage, stock: int) -> Iterator[None]:
    """Both of the above."""
    with scheduled(stage, stock), finished(stage, stock):
        yield


@contextlib.contextmanager
def paused(stage: Stage, stock: int) -> Iterator[None]:
    """Available tasks in a paused queue, which the measured worker asks for."""
    with Client(stage.target) as client:
        task = client.enqueue(_run(), queue=STOCK_QUEUE)
    _pause(stage)
    _multiply(stage, task.task_id, stock)
    yield


@contextlib.contextmanager
def blocked(stage: Stage, stock: int) -> Iterator[None]:
    """A tenth of them, behind one key whose holder waits in a paused queue."""
    with Client(stage.target) as client:
        client.enqueue(_run(), queue=STOCK_QUEUE, concurrency_key="one")
        waiting = client.enqueue(_run(), queue=STOCK_QUEUE, concurrency_key="one")
    _pause(stage)
    _multiply(stage, waiting.task_id, stock // 10)
    yield


@contextlib.contextmanager
def keys(stage: Stage, stock: int) -> Iterator[None]:
    """A tenth of them, ten for each key: one available in a paused queue, nine blocked."""
    with Client(stage.target) as client:
        first = client.enqueue(_run(), queue=STOCK_QUEUE, concurrency_key="key-0")
        waiting = client.enqueue(_run(), queue=STOCK_QUEUE, concurrency_key="key-0")
    _pause(stage)
    count = stock // 100
    # The two that were enqueued share a key with others, and no server hears of it.
    _multiply(stage, first.task_id, count - 1, keys=count)
    _multiply(stage, waiting.task_id, count * (_TASKS_PER_KEY - 1), keys=count)
    yield


def fill_with_keys(stage: Stage, queue: str, tasks: int, keys: int) -> None:
    """Tasks to drain, spread over keys."""
    with Client(stage.target) as client:
        client.load(
            (
                EnqueueItem(_run(number), queue=queue, concurrency_key=f"{queue}-{number % keys}")
                for number in range(tasks)
            ),
            chunk_size=BATCH,
        )
    stage.settle()


@contextlib.contextmanager
def open_transaction(stage: Stage, _stock: int) -> Iterator[None]:
    """A transaction that has a snapshot and a transaction id, and does nothing."""
    with psycopg.connect(stage.dsn) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select pg_current_xact_id(), count(*) from workerqueue.tasks")
        yield
        connection.rollback()


@contextlib.contextmanager
def readers(stage: Stage, _stock: int) -> Iterator[None]:
    """Transactions of some seconds that count live and finished tasks about once a second."""
    over = threading.Event()
    threads = [threading.Thread(target=_read, args=(stage, over)) for _ in range(_READERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _read(stage: Stage, over: threading.Event) -> None:
    with psycopg.connect(stage.dsn) as connection:
        while not over.is_set():
            connection.execute("set transaction isolation level repeatable read")
            until = time.monotonic() + _READER_SNAPSHOT_SECONDS
            while time.monotonic() < until and not over.is_set():
                connection.execute("select count(*) from workerqueue.tasks")
                connection.execute("select count(*) from workerqueue.history")
                over.wait(_READER_PAUSE_SECONDS)
            connection.rollback()


def operator_calls_ms(stage: Stage) -> dict[str, float]:
    """Median milliseconds of the operator's reading calls."""
    with grpc.insecure_channel(stage.target) as channel:
        admin = worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(channel)
        get_queue = queue_admin_pb2.GetQueueRequest(queue="bench-operated")
        with Client(stage.target) as client:
            client.enqueue(_run(), queue=get_queue.queue)
        calls: dict[str, Callable[[], object]] = {
            "ListQueues": lambda: admin.ListQueues(queue_admin_pb2.ListQueuesRequest()),
            "GetQueue": lambda: admin.GetQueue(get_queue),
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
