"""The product's own worker as a process: `python -m tests.chaos.harness.product_worker OPTIONS`.

It writes down when its handler began and ended; what the worker does in between (heartbeats, acks,
reconnects) is what a user gets.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TypedDict

from tests.chaos.harness.history import Recorder
from workerqueue import TaskContext, Worker
from workerqueue.tasks.v1.tasks_pb2 import RunFinished


class Options(TypedDict):
    """How the worker behaves."""

    folder: str
    name: str
    # Any gRPC target, such as several servers: `ipv4:127.0.0.1:1,127.0.0.1:2`.
    target: str
    queues: list[str]
    concurrency: int
    lease_seconds: float
    seed: int


def main() -> None:
    """Runs until SIGTERM. A payload says for how many seconds its handler works."""
    options: Options = json.loads(sys.argv[1])
    recorder = Recorder(Path(options["folder"]), options["name"])
    worker = Worker(
        options["target"],
        queues=options["queues"],
        concurrency=options["concurrency"],
        lease_duration=options["lease_seconds"],
        worker_id=options["name"],
    )

    async def work(payload: RunFinished, context: TaskContext) -> None:
        recorder.write("start", task=context.task_id, attempt=context.attempt)
        await asyncio.sleep(float(payload.id))
        recorder.write("end", task=context.task_id, attempt=context.attempt)

    worker.register(RunFinished, work)
    worker.run()


if __name__ == "__main__":
    main()
