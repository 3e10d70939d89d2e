"""What a server itself tells about its health and its work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc

from workerqueue.v1 import queue_admin_pb2
from workerqueue_server.cli.connection import Remote
from workerqueue_server.cli.failures import from_rpc_error
from workerqueue_server.cli.findings import Finding
from workerqueue_server.cli.remote.workers import all_workers
from workerqueue_server.cli.views import times
from workerqueue_server.cli.views.queues import held

_SLOW_SECONDS = 0.2
_OLD_SECONDS = 300.0


def check_server(remote: Remote) -> Iterator[Finding]:
    """Reachability first; nothing more where nobody answers."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub: Any = health_pb2_grpc.HealthStub(remote.channel)
    try:
        answer = remote.call(stub.Check, health_pb2.HealthCheckRequest(), 5.0)
        started = time.monotonic()
        remote.call(stub.Check, health_pb2.HealthCheckRequest(), 5.0)
        took = time.monotonic() - started
    except grpc.RpcError as error:
        failure = from_rpc_error(error, remote.target.address, tls=not remote.target.plaintext)
        yield Finding("problem", "server", failure.message, failure.hint)
        return
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    told = f"{remote.target.address} says {name}, answers in {times.span(took)}"
    if name != "SERVING":
        yield Finding(
            "problem",
            "server",
            told,
            "its database does not answer, or it is going away; --dsn looks at the database itself",
        )
        return
    if took > _SLOW_SECONDS:
        yield Finding("warning", "server", told, "the network is slow, or the server is overloaded")
    else:
        yield Finding("ok", "server", told)
    yield _reflection(remote)
    yield from _work(remote)


def _reflection(remote: Remote) -> Finding:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(remote.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    try:
        list(remote.stream(stub.ServerReflectionInfo, iter([request]), 5.0))
    except grpc.RpcError:
        return Finding(
            "note",
            "reflection",
            "off: grpcurl needs the .proto files, and payloads of own kinds are shown as bytes",
        )
    return Finding("ok", "reflection", "on")


def _work(remote: Remote) -> Iterator[Finding]:
    request = queue_admin_pb2.ListQueuesRequest(page_size=1_000)
    try:
        queues = list(remote.pages(remote.admin.ListQueues, request, "queues"))
        workers = list(all_workers(remote))
    except grpc.RpcError as error:
        failure = from_rpc_error(error, remote.target.address)
        yield Finding("problem", "queues", f"{failure.code}: {failure.message}", failure.hint)
        return
    yield from _workers(workers)
    troubles = [finding for queue in queues for finding in _queue(queue, workers)]
    yield from troubles or [Finding("ok", "queues", f"{len(queues)}, none stuck")]


def _workers(workers: list[Any]) -> Iterator[Finding]:
    connected = [worker for worker in workers if worker.sessions]
    if connected:
        yield Finding("ok", "workers", f"{len(connected)} connected")
    else:
        yield Finding("warning", "workers", "none is connected", "nothing runs until one is")
    for worker in workers:
        if worker.drained:
            yield Finding(
                "note",
                "workers",
                f"{worker.worker_id} is drained",
                f"`workerqueue workers resume {worker.worker_id}` gives it tasks again",
            )


def _queue(queue: Any, workers: list[Any]) -> Iterator[Finding]:
    statistics = queue.statistics
    available = held(queue, "available")
    age = times.seconds_of(statistics.oldest_available_age)
    if queue.paused and available:
        yield Finding(
            "warning",
            "queues",
            f"{queue.name} is paused with {available:,} tasks available",
            f"`workerqueue queues resume {queue.name}`",
        )
    elif available and not any(_takes(worker, queue.name) for worker in workers):
        yield Finding(
            "warning",
            "queues",
            f"{queue.name} has {available:,} tasks available and no worker takes from it",
            "start a worker that subscribes to it",
        )
    elif available and age > _OLD_SECONDS:
        yield Finding(
            "warning",
            "queues",
            f"{queue.name}: the oldest of {available:,} available tasks is {times.span(age)} late",
            "its workers are too few, too slow or limited; `workerqueue tasks why ID` says which",
        )
    if dead := held(queue, "dead"):
        yield Finding(
            "note",
            "queues",
            f"{queue.name} keeps {dead:,} dead tasks",
            f"`workerqueue dead list --queue {queue.name}` shows them with their errors",
        )


def _takes(worker: Any, queue: str) -> bool:
    return not worker.drained and any(
        not session.queues or queue in session.queues for session in worker.sessions
    )
