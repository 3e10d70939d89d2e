"""The producer's client for asyncio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self, Unpack

import grpc
import grpc.aio
from google.protobuf.message import Message

from workerqueue import _channel, _enqueue
from workerqueue._enqueue import BatchResult, EnqueueItem, EnqueueOptions, JsonValue, TaskHandle
from workerqueue._status import from_rpc_error
from workerqueue.v1 import worker_queue_pb2, worker_queue_pb2_grpc


class AsyncClient:
    """Enqueues tasks from asyncio. Belongs to the event loop of its first call.

    Arguments, retries and errors are those of ``Client``.

    Args:
        address: ``host:port`` of the server, or any gRPC target. Default: the environment's
            ``WORKERQUEUE_ADDRESS``, else ``127.0.0.1:50551``.
        credentials: For TLS, such as ``grpc.ssl_channel_credentials()``. Default: none, plain text.
        token: Sent with each call as a bearer token, or a function that gives it. Default: the
            environment's ``WORKERQUEUE_TOKEN``, else none.
        timeout: Seconds one call may take, its repeats included. Default: 30.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: _channel.Token | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._address = _channel.resolve_address(address)
        self._credentials = credentials
        self._token = _channel.resolve_token(token)
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._cached_stub: worker_queue_pb2_grpc.WorkerQueueAsyncStub | None = None

    async def enqueue(self, payload: Message, **options: Unpack[EnqueueOptions]) -> TaskHandle:
        """Stores one task; as ``Client.enqueue``."""
        return await self._enqueue(_enqueue.build_request(payload, options))

    async def enqueue_dynamic(
        self,
        kind: str,
        args: Mapping[str, JsonValue] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> TaskHandle:
        """Stores one task without generated code; as ``Client.enqueue_dynamic``."""
        return await self._enqueue(_enqueue.build_dynamic_request(kind, args, options))

    async def enqueue_batch(
        self, items: Iterable[Message | EnqueueItem], *, all_or_nothing: bool = False
    ) -> list[BatchResult]:
        """Stores many tasks in one transaction; as ``Client.enqueue_batch``."""
        request = _enqueue.build_batch(items, all_or_nothing)
        try:
            response = await self._stub.EnqueueBatch(
                request, timeout=self._timeout, metadata=_channel.call_metadata(self._token)
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return _enqueue.read_batch(request, response)

    async def close(self) -> None:
        """Closes the connection. Calls that still run are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def _stub(self) -> worker_queue_pb2_grpc.WorkerQueueAsyncStub:
        # Opened late because a grpc.aio channel belongs to the loop it is made in, and a client is
        # often made at import time.
        if self._cached_stub is None:
            self._channel = _channel.open_aio_channel(self._address, self._credentials)
            stub: object = worker_queue_pb2_grpc.WorkerQueueStub(self._channel)
            self._cached_stub = stub  # type: ignore[assignment]
        return self._cached_stub  # type: ignore[return-value]

    async def _enqueue(self, request: worker_queue_pb2.EnqueueRequest) -> TaskHandle:
        try:
            response = await self._stub.Enqueue(
                request, timeout=self._timeout, metadata=_channel.call_metadata(self._token)
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return _enqueue.read_response(response)
