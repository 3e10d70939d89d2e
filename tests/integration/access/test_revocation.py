"""Tokens that are good no more end what was opened with them, on every server."""

from __future__ import annotations

from typing import Any

import grpc

from tests.integration.admin.toolkit import Admin
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as
from tests.toolkit import Refusal, refused, request, within
from workerqueue.v1 import task_admin_pb2


def unauthenticated(ended: Refusal | None, reason: str) -> None:
    """The call ended for want of a token."""
    assert ended is not None
    assert (ended.code, ended.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def read_to_end(call: Any) -> None:
    """Reads on until the server ends the call."""
    while await within(call.read()) is not grpc.aio.EOF:
        pass


async def test_a_revoked_token_ends_its_streams_on_another_server_and_its_lease_stays(
    server: ServerProcess, server_database: Database, tokens: Tokens, queue: str
) -> None:
    first, second = tokens.create("worker", "producer"), tokens.create("worker", "producer")
    with ServerProcess(
        server_database.dsn, arguments=["--auth", "tokens"], name="second server"
    ) as other:
        async with (
            connected_as(other.address, first) as api,
            connected_as(server.address, second) as spare,
            api.worker(queue) as worker,
            spare.worker("elsewhere") as untouched,
        ):
            task = await api.enqueue(queue=queue)
            leased = await worker.task()
            assert leased.task_id == task.task_id
            tokens.revoke(first)
            unauthenticated(await worker.end(), "TOKEN_REVOKED")
            unauthenticated(await refused(api.ack(leased.lease_token)), "TOKEN_REVOKED")
            # Who has a token may still answer for the lease.
            await spare.ack(leased.lease_token)
            assert not untouched.ended


async def test_an_expired_token_ends_its_streams_and_is_refused(
    server: ServerProcess, tokens: Tokens, queue: str
) -> None:
    short = tokens.create("worker", seconds=3)
    async with connected_as(server.address, short) as api, api.worker(queue) as worker:
        unauthenticated(await worker.end(), "TOKEN_EXPIRED")
        unauthenticated(await refused(api.ack(b"0" * 24)), "TOKEN_EXPIRED")


async def test_a_revoked_token_ends_streams_of_answers_and_reflection(
    server: ServerProcess, tokens: Tokens, queue: str
) -> None:
    token = tokens.create("producer")
    async with connected_as(server.address, token) as api:
        task = await api.enqueue(queue=queue)
        watch = Admin(api).stub.WatchTask(task_admin_pb2.WatchTaskRequest(task_id=task.task_id))
        await within(watch.read())
        reflect: Any = api.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )()
        # ServerReflectionRequest.list_services.
        await reflect.write(b"\x3a\x01*")
        assert await within(reflect.read())
        tokens.revoke(token)
        for call in (watch, reflect):
            unauthenticated(await refused(read_to_end(call)), "TOKEN_REVOKED")
        unauthenticated(await refused(api.send(request())), "TOKEN_REVOKED")
