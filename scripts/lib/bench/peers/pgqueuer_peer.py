"""pgqueuer under measurement: python pgqueuer_peer.py ACTION DSN TASKS. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

IN_FLIGHT = 64
BATCH = 1_000
CONNECTIONS = 16
# A larger batch of jobs for each fetch than the default of 10.
DEQUEUE_BATCH = 1_000
PAYLOAD = b'{"id": "run_01J9Z3M8V4T6Q2X7C5B1N0K8P9-000001"}'


async def prepare(dsn: str, _tasks: int) -> dict[str, object]:
    """Makes the tables."""
    connection = await asyncpg.connect(dsn)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()
    return {}


async def single(dsn: str, tasks: int) -> dict[str, object]:
    """Enqueues one by one, so many in flight."""
    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        numbers = iter(range(tasks))

        async def call() -> None:
            for _ in numbers:
                await queries.enqueue("noop", PAYLOAD)

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(IN_FLIGHT)))
        return {"seconds": time.perf_counter() - started}


async def bulk(dsn: str, tasks: int) -> dict[str, object]:
    """Enqueues in batches."""
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    started = time.perf_counter()
    for _ in range(tasks // BATCH):
        await queries.enqueue(["noop"] * BATCH, [PAYLOAD] * BATCH, [0] * BATCH)
    seconds = time.perf_counter() - started
    await connection.close()
    return {"seconds": seconds}


async def drain(dsn: str, _tasks: int) -> dict[str, object]:
    """Works until nothing is left."""
    connection = await asyncpg.connect(dsn)
    worker = PgQueuer(AsyncpgDriver(connection))

    @worker.entrypoint("noop")
    async def noop(job: Job) -> None:
        pass

    started = time.perf_counter()
    await worker.run(batch_size=DEQUEUE_BATCH, mode=QueueExecutionMode.drain)
    seconds = time.perf_counter() - started
    await connection.close()
    return {"seconds": seconds}


async def latency(dsn: str, tasks: int) -> dict[str, object]:
    """From the enqueue call to the handler, one at a time."""
    connection, producer = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    worker = PgQueuer(AsyncpgDriver(connection))
    queries = Queries(AsyncpgDriver(producer))
    latencies: list[float] = []
    arrived = asyncio.Event()

    @worker.entrypoint("noop")
    async def noop(job: Job) -> None:
        assert job.payload is not None
        latencies.append((time.perf_counter() - float(job.payload)) * 1000)
        arrived.set()

    working = asyncio.create_task(worker.run(dequeue_timeout=timedelta(seconds=5)))
    await asyncio.sleep(1)
    for _ in range(tasks):
        await asyncio.sleep(random.uniform(0.005, 0.025))
        arrived.clear()
        await queries.enqueue("noop", str(time.perf_counter()).encode())
        await arrived.wait()
    worker.shutdown.set()
    await working
    await producer.close()
    await connection.close()
    return {"latencies": latencies}


if __name__ == "__main__":
    action, dsn, tasks = sys.argv[1:]
    actions = {
        "prepare": prepare,
        "single": single,
        "bulk": bulk,
        "drain": drain,
        "latency": latency,
    }
    sys.stdout.write(json.dumps(asyncio.run(actions[action](dsn, int(tasks)))) + "\n")
