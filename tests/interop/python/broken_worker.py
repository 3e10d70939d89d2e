"""A worker that never prolongs a lease and acks what it should nack: the kit must notice."""

from __future__ import annotations

import asyncio

from tests.interop.python import worker
from workerqueue.conformance.v1 import conformance_pb2
from workerqueue.v1 import lease_pb2

_answer = worker.answer


def _without_failure(
    task: lease_pb2.LeasedTask, script: conformance_pb2.Script, turn: conformance_pb2.Turn
) -> worker.Answer:
    turn.ClearField("fail")
    return _answer(task, script, turn)


class BrokenWorker(worker.Worker):
    """Never sends a heartbeat."""

    def heartbeat_interval(self, task: lease_pb2.LeasedTask) -> float:
        """Longer than any test."""
        return 1e6


if __name__ == "__main__":
    worker.answer = _without_failure
    asyncio.run(worker.main(BrokenWorker))
