"""All wiring of the gRPC server: options, services, health, reflection."""

from __future__ import annotations

import asyncio
import logging

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.rpc.access import AccessInterceptor
from workerqueue_server.rpc.error_interceptor import ErrorInterceptor
from workerqueue_server.rpc.worker_queue import WorkerQueueService
from workerqueue_server.rpc.worker_queue_admin import WorkerQueueAdminService

_log = logging.getLogger(__name__)

_SERVICES = ("workerqueue.v1.WorkerQueue", "workerqueue.v1.WorkerQueueAdmin")
_HEALTH_SECONDS = 1.0

# A frozen peer is noticed after keepalive time + timeout. The ping timeout is set as well: its own
# default of 60 s would win. Clients may ping every 5 s, also while nothing else is sent.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    # gRPC's own refusal has neither reason nor field; what is a little too large is refused by us.
    ("grpc.max_receive_message_length", 2 * bounds.MESSAGE_BYTES),
    ("grpc.max_send_message_length", bounds.MESSAGE_BYTES),
)


class RpcServer:
    """The gRPC server of one engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        reflection_enabled: bool,
        share_port: bool = False,
        tokens_required: bool = False,
        credentials: grpc.ServerCredentials | None = None,
        streams_per_principal: int = bounds.LEASE_STREAMS_PER_PRINCIPAL,
    ) -> None:
        """Without ``credentials`` the server speaks plain text."""
        self._engine = engine
        self._credentials = credentials
        interceptors: list[grpc.aio.ServerInterceptor] = [ErrorInterceptor(frozenset(_SERVICES))]
        if tokens_required:
            interceptors.append(AccessInterceptor(engine.tokens))
        self._server = grpc.aio.server(
            interceptors=interceptors,
            options=(*_OPTIONS, ("grpc.so_reuseport", int(share_port))),
        )
        self._health = health.aio.HealthServicer()
        self._service = WorkerQueueService(engine, streams_per_principal)
        self._admin = WorkerQueueAdminService(engine)
        self._server.add_generic_rpc_handlers((self._service.handler(), self._admin.handler()))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflection_enabled:
            self._reflect()
        self._watch: asyncio.Task[None] | None = None

    def _reflect(self) -> None:
        # A client that lists services resolves every name it is given (buf does).
        pool = self._engine.catalog.pool
        for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            pool.AddSerializedFile(file.serialized_pb)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=pool)

    def bind(self, address: str) -> int:
        """Listens on host:port; the bound port. Raises OSError with the reason."""
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        if port == 0:
            raise OSError(f"cannot listen on {address}")
        return port

    async def start(self) -> None:
        """Serves; health follows the database."""
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_health(), name="health")

    async def stop(self, grace_seconds: float) -> None:
        """Drains: health turns first, then the streams are told, then calls get their time."""
        if self._watch is not None:
            self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        self._admin.drain()
        await self._service.drain(grace_seconds)
        await self._server.stop(grace=min(grace_seconds, 2.0))

    async def _watch_health(self) -> None:
        serving: bool | None = None
        while True:
            healthy = await self._engine.is_healthy()
            if healthy != serving:
                serving = healthy
                _log.info("health: %s", "serving" if healthy else "not serving")
                status = (
                    health_pb2.HealthCheckResponse.SERVING
                    if healthy
                    else health_pb2.HealthCheckResponse.NOT_SERVING
                )
                for name in ("", *_SERVICES):
                    await self._health.set(name, status)
            await asyncio.sleep(_HEALTH_SECONDS)
