"""Many cases against one server: what they found, and what the server's process has grown to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random
from threading import Event

import grpc
import psutil
import psycopg

from tests.fuzz.caller import Caller
from tests.fuzz.oddities import Known, Oddities, methods
from tests.postgres import Database
from tests.servers import ServerProcess
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, worker_queue_pb2
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

METHODS = methods()
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
# A case of Lease is many frames, and what follows from them.
_LEASE = next(method for method in METHODS if method.name == "Lease")
_CHOICES = [*METHODS, *[_LEASE] * 6]
_ROUND = 1_000
# More than a lease of a stream that is gone lasts.
_PATIENCE_SECONDS = 120.0
_CALLERS = 16


@dataclass
class Campaign:
    """The cases of one seed. Any of them is made again from the seed and its number."""

    server: ServerProcess
    database: Database
    seed: int
    problems: dict[str, str] = field(default_factory=dict)
    sizes: list[dict[str, int]] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)

    def run(self, cases: int) -> Iterator[int]:
        """Runs the cases; the number done, after every thousand."""
        with grpc.insecure_channel(self.server.address, options=OPTIONS) as channel:
            caller = Caller(channel)
            self.outcomes = caller.outcomes
            for start in range(0, cases, _ROUND):
                oddities = Oddities(known(channel, start // _ROUND))
                done = min(start + _ROUND, cases)
                case = partial(self._case, caller, oddities)
                with ThreadPoolExecutor(_CALLERS) as callers:
                    list(callers.map(case, range(start, done)))
                serves(channel)
                self.sizes.append(self._sizes())
                yield done

    def _case(self, caller: Caller, oddities: Oddities, number: int) -> None:
        dice = Random(f"{self.seed}:{number}")
        method = dice.choice(_CHOICES)
        try:
            one_case(caller, oddities, dice, method.name)
        except (AssertionError, grpc.RpcError) as error:
            found = re.sub(r"[0-9a-f]{32}|\d+", "N", f"{method.name}: {error}"[:200])
            self.problems.setdefault(found, f"case {number} of seed {self.seed}: {error}")

    def _sizes(self) -> dict[str, int]:
        process = psutil.Process(self.server.pid)
        with psycopg.connect(self.database.dsn) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity where application_name like 'workerqueue%'"
            ).fetchone()
        assert row is not None
        return {
            "memory": process.memory_info().rss,
            "files": process.num_fds(),
            "threads": process.num_threads(),
            "connections": row[0],
        }


def one_case(caller: Caller, oddities: Oddities, dice: Random, name: str) -> None:
    """One request, or one stream. Fails if the answer is none that a client can act on."""
    method = next(method for method in METHODS if method.name == name)
    if method.client_streaming:
        frames = oddities.frames(dice)
        caller.lease(method, frames, leave=dice.randrange(5) == 0)
    else:
        caller.call(method, oddities.request(dice, method))


def known(channel: grpc.Channel, number: int) -> Known:
    """Tasks and leases that the cases may name."""
    stub = WorkerQueueStub(channel)
    made = worker_queue_pb2.EnqueueRequest()
    made.payload.Pack(tasks_pb2.RunFinished(id="known"))
    made.options.queue = f"known-{number % 8}"
    made.options.max_attempts = 1_000
    answer = stub.EnqueueBatch(worker_queue_pb2.EnqueueBatchRequest(tasks=[made] * 40))
    subscribe = lease_pb2.Subscribe(
        worker_id="holder", queues=[made.options.queue], max_in_flight=20
    )
    frames = stub.Lease(iter([lease_pb2.LeaseRequest(subscribe=subscribe)]))
    return Known(
        task_ids=[result.task_id for result in answer.results],
        tokens=[task.lease_token for frame in frames for task in frame.tasks],
    )


def serves(channel: grpc.Channel) -> None:
    """A whole life of a task, as if nothing had happened."""
    stub = WorkerQueueStub(channel)
    made = worker_queue_pb2.EnqueueRequest()
    made.payload.Pack(tasks_pb2.RunFinished(id="after"))
    made.options.queue = "after-the-fuzz"
    made.options.lease_duration.FromSeconds(5)
    task = stub.Enqueue(made).task
    subscribe = lease_pb2.Subscribe(worker_id="healthy", queues=["after-the-fuzz"], max_in_flight=1)
    enough = Event()

    def requests() -> Iterator[lease_pb2.LeaseRequest]:
        yield lease_pb2.LeaseRequest(subscribe=subscribe)
        enough.wait()

    frames = stub.Lease(requests(), timeout=_PATIENCE_SECONDS)
    try:
        # A stream that was cut off a moment ago may have been given it: then it comes back.
        leased = next(leased for frame in frames for leased in frame.tasks)
    finally:
        enough.set()
    assert leased.task_id == task.task_id
    stub.Ack(lease_pb2.AckRequest(lease_token=leased.lease_token))
