"""Fixtures for the client and the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.unit.client.peer import PATIENCE, Peer
from workerqueue import Worker

Running = Callable[[Worker], AbstractAsyncContextManager["asyncio.Task[None]"]]


@pytest.fixture
def peer() -> Iterator[Peer]:
    server = Peer()
    yield server
    server.stop()


@pytest.fixture
def running() -> Running:
    """Runs a worker for the length of a block, and stops it at the end unless it has stopped."""

    @asynccontextmanager
    async def run(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(worker.run_async())
        try:
            yield task
        finally:
            worker.stop()
        async with asyncio.timeout(PATIENCE):
            await task

    return run
