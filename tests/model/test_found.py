"""Histories that searches found, each with what was wrong: with the server, or with the test."""

from __future__ import annotations

import threading
import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.model.clock import Clock
from tests.model.directed import DirectedContract
from tests.model.records import SECOND, Ask
from tests.model.system import System
from workerqueue.v1 import lease_pb2

pytestmark = pytest.mark.slow


class Found(DirectedContract):
    """Steps without chance."""

    def lent_lease(self) -> None:
        """A worker brings another one's lease along; then a lease of its own runs out.

        The server counted the lent one in the limit of both, and gave it nothing meanwhile.
        """
        self._limit(self.queues[0], 0, 1)
        for _ in range(3):
            self._send_plain(0)
        self.take(1, "w2", 9 * SECOND, [0], [])
        (lent,) = self._leased(0)
        assert lent.lease is not None
        self._tick()
        self._open("w1", 1, [0], [])
        self._tick()
        self._open("w1", 0, [0], [lent.lease.token])
        self.let_time_pass(4 * SECOND)


def test_a_worker_brings_another_ones_lease_along(system: System, clock: Clock) -> None:
    clock.make_room()
    machine = Found(system, clock)
    try:
        machine.lent_lease()
    finally:
        machine.teardown()


def test_what_arrives_on_two_streams_is_taken_in_the_order_of_the_grants() -> None:
    """A test's fault: it took the second task in line for a wrong one, if it read that one first.

    The queue is limited for each worker, so a worker may get the head of the line and no other.
    """
    news = SimpleNamespace(news=threading.Condition())
    machine = DirectedContract(cast(Any, news), cast(Any, SimpleNamespace(now=1_000 * SECOND)))
    name = machine.queues[0]
    machine.model.queues[name].per_worker = 1
    first, second = (Ask(str(uuid.uuid4()), name) for _ in range(2))
    machine.model.enqueue([first, second])
    w1, w2 = (SimpleNamespace(queues=[name], worker=w, window=1, tasks=[]) for w in ("w1", "w2"))
    machine.streams = cast(Any, {1: w1, 2: w2})
    w1.tasks.append(leased(second, 2))
    assert machine._read_streams().startswith("not for worker w1")  # noqa: SLF001
    w2.tasks.append(leased(first, 1))
    assert machine._read_streams() == ""  # noqa: SLF001
    held = {t.task_id: t.worker for t in machine.model.tasks.values()}
    assert held == {first.task_id: "w2", second.task_id: "w1"}
    assert w1.tasks == w2.tasks == []


def leased(ask: Ask, lease: int) -> lease_pb2.LeasedTask:
    """The task's first lease, with a number."""
    return lease_pb2.LeasedTask(
        task_id=ask.task_id,
        lease_token=uuid.UUID(ask.task_id).bytes + lease.to_bytes(8, "big"),
        kind=ask.kind,
        queue=ask.queue,
        priority=ask.priority,
        attempt=1,
        max_attempts=ask.max_attempts,
    )
