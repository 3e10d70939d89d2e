"""Who may call what: every role against every RPC, and callers without a good token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as, sending, token_id
from tests.toolkit import DEADLINE_SECONDS, Refusal, refusal, within
from workerqueue.v1 import worker_queue_admin_pb2, worker_queue_pb2
from workerqueue_server.queue.access import Role
from workerqueue_server.rpc.methods import OPEN, ROLES

_FILES = (worker_queue_pb2, worker_queue_admin_pb2, health_pb2, reflection_pb2)
_SERVICES: list[Any] = [
    service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()
]

# What every role may call, written out once more: a slip in the table must meet a second opinion.
_PRODUCER = {"Enqueue", "EnqueueBatch", "GetTask", "WatchTask", "CancelTask", "RemoveByJobKey"}
_WORKER = {"Lease", "Ack", "Nack", "Heartbeat"}
_EVERYBODY = {"ListKinds", "ServerReflectionInfo"}
_NO_TOKEN = {"Check", "List", "Watch"}


def methods() -> Iterator[str]:
    """Every method of every service that the server registers."""
    for service in _SERVICES:
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}"


def may(role: Role, method: str) -> bool:
    """Whether the role may call the method."""
    name = method.rpartition("/")[2]
    if name in _EVERYBODY | _NO_TOKEN:
        return True
    if role is Role.OPERATOR:
        return "WorkerQueueAdmin" in method
    return name in (_PRODUCER if role is Role.PRODUCER else _WORKER)


# What not every grpcio that is supported knows.
_NEWER = {"/grpc.health.v1.Health/List"}


@pytest.fixture(scope="module")
def by_role(tokens: Tokens) -> dict[Role, str]:
    """A token of each role."""
    return {role: tokens.create(role) for role in Role}


async def ended(channel: grpc.aio.Channel, method: str) -> Refusal | None:
    """How a call with one empty message ends; None: with an answer."""
    # On the wire a request of a unary call and the only one of a stream are the same.
    make: Any = channel.unary_stream(method)
    call = make(b"", timeout=DEADLINE_SECONDS)
    try:
        await within(call.read())
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    finally:
        call.cancel()
    return None


def test_the_table_has_every_method_of_every_service() -> None:
    assert set(methods()) | _NEWER == set(ROLES)


async def test_the_server_offers_no_service_that_the_table_does_not_know(
    server: ServerProcess, by_role: dict[Role, str]
) -> None:
    with grpc.insecure_channel(server.address) as plain:
        metadata = (("authorization", f"Bearer {by_role[Role.OPERATOR]}"),)
        channel = grpc.intercept_channel(plain, _Adds(metadata))
        database: Any = ProtoReflectionDescriptorDatabase(channel)
        offered = set()
        pool = DescriptorPool(database)
        for service in database.get_services():
            for method in pool.FindServiceByName(service).methods:
                offered.add(f"/{service}/{method.name}")
    assert offered | _NEWER == set(ROLES)


class _Adds(grpc.StreamStreamClientInterceptor):
    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_may_call_what_is_its_own_and_nothing_else(
    server: ServerProcess, by_role: dict[Role, str], role: Role
) -> None:
    async with connected_as(server.address, by_role[role]) as api:
        for method in methods():
            answer = await ended(api.channel, method)
            refused = answer is not None and answer.code in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
            )
            assert refused is not may(role, method), f"{method}: {answer}"
            if refused and answer is not None:
                assert answer.reason == "ROLE_MISSING"
                assert f"this token is for {role}" in answer.message


async def test_without_a_token_there_is_health_and_nothing_else(server: ServerProcess) -> None:
    async with connected_as(server.address, None) as api:
        for method in methods():
            answer = await ended(api.channel, method)
            if ROLES[method] == OPEN:
                # The server does not do Health/List.
                assert answer is None or answer.code is grpc.StatusCode.UNIMPLEMENTED
            else:
                assert answer is not None
                assert answer.code is grpc.StatusCode.UNAUTHENTICATED
                assert answer.reason == "TOKEN_MISSING"
                assert "authorization: Bearer" in answer.message


async def test_a_method_that_does_not_exist_is_not_implemented(server: ServerProcess) -> None:
    async with connected_as(server.address, None) as api:
        answer = await ended(api.channel, "/workerqueue.v1.WorkerQueue/Nothing")
        assert answer is not None
        assert answer.code is grpc.StatusCode.UNIMPLEMENTED


async def test_what_is_no_good_token_is_refused_with_one_message(
    server: ServerProcess, tokens: Tokens
) -> None:
    good = tokens.create("operator")
    other = tokens.create("operator")
    secret = good.split("_", 2)[2]
    wrong = [
        "",
        "Bearer",
        f"Basic {good}",
        good,
        f"Bearer {good}x",
        f"Bearer {good[:-1]}",
        f"Bearer {good[:-1]}{'A' if good[-1] != 'A' else 'B'}",
        f"Bearer wq_{token_id(other)}_{secret}",
        f"Bearer wq_{'0' * 16}_{secret}",
        f"Bearer {good} {good}",
        "Bearer " + "x" * 4000,
    ]
    heard = set()
    for value in wrong:
        interceptors = sending(("authorization", value))
        async with grpc.aio.insecure_channel(server.address, interceptors=interceptors) as channel:
            answer = await ended(channel, "/workerqueue.v1.WorkerQueueAdmin/ListQueues")
        assert answer is not None, value
        heard.add((answer.code, answer.reason, answer.message))
    twice = sending(("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}"))
    async with grpc.aio.insecure_channel(server.address, interceptors=twice) as channel:
        answer = await ended(channel, "/workerqueue.v1.WorkerQueueAdmin/ListQueues")
        assert answer is not None
        heard.add((answer.code, answer.reason, answer.message))
    assert heard == {
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "the bearer token is not valid")
    }
    async with connected_as(server.address, good) as api:
        assert await ended(api.channel, "/workerqueue.v1.WorkerQueueAdmin/ListQueues") is None
    lower = sending(("authorization", f"bearer {good}"))
    async with grpc.aio.insecure_channel(server.address, interceptors=lower) as channel:
        assert await ended(channel, "/workerqueue.v1.WorkerQueueAdmin/ListQueues") is None
    log = server.log()
    for text in (good, other, secret):
        assert text not in log
