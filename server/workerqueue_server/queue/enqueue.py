"""Storing tasks: concurrent calls share one write."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from random import Random, SystemRandom
from typing import NamedTuple

from workerqueue_server.queue import bounds
from workerqueue_server.queue.batcher import Batcher
from workerqueue_server.queue.dispatcher import Dispatcher
from workerqueue_server.queue.errors import QueueError
from workerqueue_server.queue.journal import Journal
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.store.records import NewTasks, Stored
from workerqueue_server.store.tasks import TaskStore

_MAX_BATCH = 10_000
_MAX_WAITING = 40_000

# Ids must be unique, not secret: a generator of our own spares a system call per task.
_random = Random()
_VERSION_BITS = 7 << 76 | 2 << 62
_RANDOM_BITS = (1 << 80) - 1 & ~(0xF << 76 | 3 << 62)


def _seed() -> None:
    """Makes this process's ids others than those of the process that it was forked from."""
    _random.seed(SystemRandom().getrandbits(256))


_seed()
os.register_at_fork(after_in_child=_seed)


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """What tasks may share: lane and options. Compared by identity; kinds keep a default one."""

    queue: str
    kind: str
    priority: int
    max_attempts: int
    timeout_ms: int
    lease_duration_ms: int
    concurrency_limit: int
    # More fields of the JSON that enqueue_tasks takes, such as run_at.
    fields: dict[str, object]
    # About how many bytes of memory these fields take.
    size: int = 0

    def as_json(self, lane_id: int) -> dict[str, object]:
        """An element of the list of specs that the SQL functions take."""
        return {
            "lane_id": lane_id,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "timeout_ms": self.timeout_ms,
            "lease_duration_ms": self.lease_duration_ms,
            "concurrency_limit": self.concurrency_limit,
            **self.fields,
        }


class NewTask(NamedTuple):
    """A checked task, ready to be stored."""

    task_id: bytes
    # Whether a client made the id, so that it may be a repeat.
    client_id: bool
    spec: Spec
    payload: bytes
    concurrency_key: str | None
    job_key: str | None = None
    # A hash of what must be unique, without the period.
    unique_key: bytes | None = None


class Outcome(Enum):
    """What an enqueue did."""

    CREATED = auto()
    # The id was known.
    EXISTED = auto()
    # A waiting task with the job key took what the new one says.
    REPLACED = auto()
    # A task with the job key, or the same task, stays as it is.
    KEPT = auto()


class EnqueueResult(NamedTuple):
    """What became of a task."""

    stored_at: int
    outcome: Outcome
    # The task that stands for it, where that is not the task itself.
    task_id: bytes | None = None
    # Why it was refused; the outcome then says nothing.
    error: QueueError | None = None


def new_task_id() -> bytes:
    """A UUID version 7 (RFC 9562): ids made later sort later, which keeps the index compact."""
    return (
        (time.time_ns() // 1_000_000) << 80 | _random.getrandbits(80) & _RANDOM_BITS | _VERSION_BITS
    ).to_bytes(16, "big")


def held_bytes(tasks: Sequence[NewTask], received: int) -> int:
    """About what a call with these tasks holds until it is answered.

    The ``received`` bytes count twice: gRPC keeps them, and the tasks hold what was in them.
    """
    specs = {task.spec for task in tasks}
    return (
        bounds.CALL_BYTES
        + 2 * received
        + bounds.TASK_BYTES * len(tasks)
        + sum([spec.size for spec in specs])
    )


class Enqueuer:
    """Gathers tasks and stores them."""

    def __init__(
        self,
        store: TaskStore,
        lanes: LaneTable,
        wakeups: Wakeups,
        dispatcher: Dispatcher,
        journal: Journal,
    ) -> None:
        self._store = store
        self._journal = journal
        self._dispatcher = dispatcher
        self._lanes = lanes
        self._wakeups = wakeups
        self._batcher = Batcher[NewTask, EnqueueResult](
            "enqueue",
            self._flush,
            max_batch=_MAX_BATCH,
            max_waiting=_MAX_WAITING,
            max_wait_seconds=bounds.ENQUEUE_WAIT_SECONDS,
            drop_abandoned=True,
        )

    @property
    def waiting(self) -> int:
        """How many tasks wait to be stored."""
        return self._batcher.waiting

    async def run(self) -> None:
        """Stores until cancelled."""
        await self._batcher.run()

    async def settle(self) -> None:
        """Returns when the batch that is being stored now, if any, has been handed over."""
        await self._batcher.settle()

    async def enqueue(self, tasks: Sequence[NewTask], held: int) -> Sequence[EnqueueResult]:
        """Stores the tasks of a call that holds so many bytes; returns when they are committed.

        They are stored in one transaction.
        """
        return await self._batcher.submit(tasks, held)

    async def _store_and_hand_over(self, batch: NewTasks, lane_ids: list[int]) -> Stored:
        """Stores the batch; a stream that waits for it gets tasks in the same transaction."""
        requests = self._dispatcher.offer(set(lane_ids), len(batch.ids))
        try:
            stored = await self._store.enqueue(batch, [request.grant for request in requests])
        except BaseException:
            self._dispatcher.withdraw(requests)
            raise
        self._dispatcher.hand_over(requests, stored.grants)
        first = min((position for _, position in stored.woken.lanes), default=0)
        handed_over = sum(len(run.tokens) for run in stored.grants if run.first_position >= first)
        if handed_over < len(batch.ids):
            self._wakeups.announce(stored.woken)
        return stored

    async def _flush(self, tasks: list[NewTask]) -> list[EnqueueResult]:
        # The first of a repeated id is stored; the others are told that it exists.
        first_of: dict[bytes, NewTask] = {}
        for task in tasks:
            first_of.setdefault(task.task_id, task)
        batch, specs = _gather(list(first_of.values()))
        lane_ids = await self._lanes.ids([(s.queue, s.kind, s.priority) for s in specs])
        batch.specs = [spec.as_json(lane_id) for spec, lane_id in zip(specs, lane_ids, strict=True)]
        stored = await self._store_and_hand_over(batch, lane_ids)
        if not stored.existed and len(first_of) == len(tasks):
            self._journal.created(tasks, specs, batch.spec_nos)
            return [EnqueueResult(stored.stored_at, Outcome.CREATED)] * len(tasks)
        results = [
            EnqueueResult(
                stored.stored_at,
                Outcome.EXISTED
                if first_of[task.task_id] is not task or task.task_id in stored.existed
                else Outcome.CREATED,
            )
            for task in tasks
        ]
        self._journal.enqueued(tasks, results)
        return results


def _gather(tasks: Sequence[NewTask]) -> tuple[NewTasks, list[Spec]]:
    """The tasks as columns, and their specs in the order of the numbers that they have there."""
    ids, client_ids, specs, payloads, keys, *_ = zip(*tasks, strict=True)
    numbers = {spec: number for number, spec in enumerate(dict.fromkeys(specs))}
    batch = NewTasks(
        ids=list(ids),
        payloads=list(payloads),
        keys=list(keys),
        spec_nos=list(map(numbers.__getitem__, specs)),
        client_ids=any(client_ids),
    )
    return batch, list(numbers)
