"""procrastinate under measurement: python procrastinate_peer.py ACTION DSN TASKS. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time

from procrastinate import App, PsycopgConnector

IN_FLIGHT = 64
BATCH = 1_000
CONNECTIONS = 16
# More jobs at once than the default of 1.
CONCURRENCY = 100
ID = "run_01J9Z3M8V4T6Q2X7C5B1N0K8P9-000001"


def _app(dsn: str) -> App:
    logging.disable(logging.CRITICAL)
    return App(connector=PsycopgConnector(conninfo=dsn, min_size=CONNECTIONS, max_size=CONNECTIONS))


async def prepare(dsn: str, _tasks: int) -> dict[str, object]:
    """Makes the tables."""
    async with _app(dsn).open_async() as app:
        await app.schema_manager.apply_schema_async()
    return {}


async def single(dsn: str, tasks: int) -> dict[str, object]:
    """Enqueues one by one, so many in flight."""
    app = _app(dsn)
    noop = app.task(name="noop")(_noop)
    async with app.open_async():
        numbers = iter(range(tasks))

        async def call() -> None:
            for _ in numbers:
                await noop.defer_async(run=ID)

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(IN_FLIGHT)))
        return {"seconds": time.perf_counter() - started}


async def bulk(dsn: str, tasks: int) -> dict[str, object]:
    """Enqueues in batches."""
    app = _app(dsn)
    noop = app.task(name="noop")(_noop)
    async with app.open_async():
        started = time.perf_counter()
        for _ in range(tasks // BATCH):
            await noop.batch_defer_async(*({"run": ID} for _ in range(BATCH)))
        return {"seconds": time.perf_counter() - started}


async def drain(dsn: str, _tasks: int) -> dict[str, object]:
    """Works until nothing is left."""
    app = _app(dsn)
    app.task(name="noop")(_noop)
    async with app.open_async():
        started = time.perf_counter()
        await app.run_worker_async(
            concurrency=CONCURRENCY, wait=False, install_signal_handlers=False
        )
        return {"seconds": time.perf_counter() - started}


async def latency(dsn: str, tasks: int) -> dict[str, object]:
    """From the enqueue call to the handler, one at a time."""
    app = _app(dsn)
    latencies: list[float] = []
    arrived = asyncio.Event()

    @app.task(name="timed")
    async def timed(started: float) -> None:
        latencies.append((time.perf_counter() - started) * 1000)
        arrived.set()

    async with app.open_async():
        working = asyncio.create_task(
            app.run_worker_async(concurrency=10, install_signal_handlers=False)
        )
        await asyncio.sleep(1)
        for _ in range(tasks):
            await asyncio.sleep(random.uniform(0.005, 0.025))
            arrived.clear()
            await timed.defer_async(started=time.perf_counter())
            await arrived.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return {"latencies": latencies}


async def _noop(run: str) -> None:
    pass


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
