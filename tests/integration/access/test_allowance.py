"""What all streams of one token together may hold and have open."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as
from tests.toolkit import refused, request


@pytest.fixture(scope="module")
def server(server_database: Database) -> Iterator[ServerProcess]:
    """A server whose tokens may do little."""
    arguments = ["--auth=tokens", "--max-in-flight-per-token=5", "--max-streams-per-token=3"]
    with ServerProcess(server_database.dsn, arguments=arguments) as process:
        yield process


async def test_two_streams_of_one_token_share_what_it_may_hold(
    server: ServerProcess, tokens: Tokens, queue: str
) -> None:
    one, another = tokens.create("worker", "producer"), tokens.create("worker")
    async with (
        connected_as(server.address, one) as api,
        connected_as(server.address, another) as spare,
        api.worker(queue, window=4) as first,
    ):
        assert (await first.welcome()).max_in_flight == 4
        await api.ids([request(queue=queue) for _ in range(20)])
        held = await first.tasks(4)
        async with api.worker(queue, window=10) as second:
            assert (await second.welcome()).max_in_flight == 5
            await second.task()
            # A third stream, which ends when nothing is available to it.
            assert await api.take(queue) == []
            await first.acked(*(task.lease_token for task in held[:2]))
            # The second has been waiting longer.
            await second.tasks(2)
            assert await api.take(queue) == []
            assert (len(first.received), len(second.received)) == (4, 3)
        # What the second held is no longer counted, and the first takes no more than its window.
        await first.tasks(2)
        # There was work all the time, for others.
        assert len(await spare.take(queue, 5)) == 5


async def test_a_stream_too_many_of_one_token_is_refused(
    server: ServerProcess, tokens: Tokens, queue: str
) -> None:
    one, another = tokens.create("worker"), tokens.create("worker")
    async with (
        connected_as(server.address, one) as api,
        connected_as(server.address, another) as spare,
        api.worker(queue),
        api.worker(queue),
        api.worker(queue),
    ):
        problem = await refused(api.take(queue))
        assert (problem.code, problem.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "OVERLOADED",
        )
        assert await spare.take(queue) == []
