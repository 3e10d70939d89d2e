"""Several server processes of one command each have an endpoint, and together they tell all."""

from __future__ import annotations

import asyncio

from tests.ports import unused_port
from tests.postgres import PostgresCluster
from tests.scraping import endpoints, scrape
from tests.servers import ServerProcess
from tests.toolkit import connected, eventually

_ENQUEUED = "workerqueue_tasks_enqueued_total"
_DEPTH = "workerqueue_queue_depth"
_CONNECTIONS = 200


def _two_ports() -> int:
    """A port of this test's own whose successor is this test's own, too."""
    while True:
        first, second = unused_port(), unused_port()
        if second == first + 1:
            return first


async def test_each_process_has_a_port_of_its_own_for_its_own_figures(
    postgres: PostgresCluster,
) -> None:
    database = postgres.create_database()
    port = _two_ports()
    arguments = ["--processes", "2", "--prometheus", f"127.0.0.1:{port}"]
    with ServerProcess(database.dsn, arguments=arguments) as server:
        urls = [f"http://127.0.0.1:{port + number}/metrics" for number in range(2)]
        await eventually(lambda: len(endpoints(server)) == 2, "both serve figures")
        assert sorted(endpoints(server)) == sorted(urls)
        sent = 0
        counts = [0.0, 0.0]
        # The system spreads connections over the processes, by chance.
        while not all(counts) and sent < _CONNECTIONS:
            async with connected(server.address) as api:
                await api.enqueue(queue="both")
            sent += 1
            told = [await asyncio.to_thread(scrape, url) for url in urls]
            counts = [each.total(_ENQUEUED, queue="both", outcome="created") for each in told]
        assert all(counts)
        # Counters are each process's own: they are summed.
        assert sum(counts) == sent

        async def depths_are_the_same() -> bool:
            told = [await asyncio.to_thread(scrape, url) for url in urls]
            return [each.total(_DEPTH, queue="both") for each in told] == [sent, sent]

        # Depths are the database's: each process tells the whole.
        await eventually(depths_are_the_same, "both tell the depth")
    postgres.drop_database(database)
