"""The producer's client for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any as AnyType
from typing import Self, Unpack

import grpc
import grpc.aio
from google.protobuf.message import Message

from workerqueue import _channel, _enqueue, _gathering, _loading, _results, _security, _tracing
from workerqueue._async_gatherer import AsyncGatherer
from workerqueue._enqueue import BatchResult, EnqueueItem, EnqueueOptions, JsonValue
from workerqueue._gathering import Stored
from workerqueue._loading import Chunk, LoadProgress, OnProgress, OnRefused
from workerqueue._outcomes import outcome_of
from workerqueue._results import AsyncTaskHandle
from workerqueue._status import from_rpc_error
from workerqueue.v1 import (
    task_pb2,
    worker_queue_admin_pb2_grpc,
    worker_queue_pb2,
    worker_queue_pb2_grpc,
)


class AsyncClient:
    """Enqueues tasks from asyncio. Belongs to the event loop of its first call.

    Concurrent ``enqueue`` calls that come while one is under way travel together; each keeps its
    own time, answer, errors and cancellation, and none waits for a timer.

    Arguments, retries and errors are those of ``Client``.

    Args:
        address: ``host:port`` of the server, or any gRPC target. Default: the environment's
            ``WORKERQUEUE_ADDRESS``, else ``127.0.0.1:50551``.
        tls: ``True``, or a ``Tls`` with files and names; ``False``: plain text. Default: what the
            environment says (``WORKERQUEUE_TLS``, ``_CACERT``, ``_CERT``, ``_KEY``,
            ``_SERVERNAME``, ``_PLAINTEXT``), else plain text.
        credentials: gRPC's own, instead of ``tls``.
        token: Sent with each call as a bearer token: the text, a ``Path`` to a file with it, or a
            function that gives it; file and function are asked again, so the token may change.
            Default: the environment's ``WORKERQUEUE_TOKEN``, or the file that
            ``WORKERQUEUE_TOKEN_FILE`` names, else none.
        timeout: Seconds one call may take, its repeats included. Default: 30.

    Raises:
        ValueError: Arguments contradict each other, or a token would travel in plain text beyond
            this machine and nobody said ``tls=False``.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tls: _security.Tls | bool | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: _security.Token | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._address = _channel.resolve_address(address)
        self._security = _security.resolve(
            self._address, tls=tls, credentials=credentials, token=token
        )
        self._token = self._security.token
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._cached_stub: worker_queue_pb2_grpc.WorkerQueueAsyncStub | None = None
        self._gatherer = AsyncGatherer(self._send, self._send_batch, timeout)

    async def enqueue(self, payload: Message, **options: Unpack[EnqueueOptions]) -> AsyncTaskHandle:
        """Stores one task; as ``Client.enqueue``."""
        request = _enqueue.build_request(payload, options)
        _tracing.stamp([request], _tracing.current())
        if _gathering.may_gather(payload, options):
            return self._handle(await self._gatherer.enqueue(request))
        return self._handle(await self._gatherer.enqueue_alone(request))

    async def enqueue_dynamic(
        self,
        kind: str,
        args: Mapping[str, JsonValue] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> AsyncTaskHandle:
        """Stores one task without generated code; as ``Client.enqueue_dynamic``."""
        request = _enqueue.build_dynamic_request(kind, args, options)
        _tracing.stamp([request], _tracing.current())
        return self._handle(await self._gatherer.enqueue_alone(request))

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

    async def load(
        self,
        items: Iterable[Message | EnqueueItem] | AsyncIterable[Message | EnqueueItem],
        *,
        on_progress: OnProgress | None = None,
        on_refused: OnRefused | None = None,
        chunk_size: int = _loading.DEFAULT_CHUNK,
        in_flight: int = _loading.DEFAULT_IN_FLIGHT,
    ) -> LoadProgress:
        """Stores any number of tasks; as ``Client.load``, from a plain or an async iterable."""
        _loading.check_options(chunk_size, in_flight)
        tally = _loading.Tally(on_progress, on_refused)
        under_way: deque[asyncio.Task[None]] = deque()
        try:
            async for chunk in _chunks(items, chunk_size):
                if len(under_way) >= in_flight:
                    await under_way.popleft()
                under_way.append(asyncio.create_task(self._store_chunk(tally, chunk)))
            while under_way:
                await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return tally.progress

    async def wait(
        self,
        task_id: str,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Client
    ) -> task_pb2.Task:
        """Waits until the task has ended, however, and returns it; as ``Client.wait``."""
        return await _results.wait_for_end_async(self._admin, self._token, task_id, timeout)

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
    def _opened(self) -> grpc.aio.Channel:
        # Opened late because a grpc.aio channel belongs to the loop it is made in, and a client is
        # often made at import time.
        if self._channel is None:
            self._channel = _channel.open_aio_channel(self._address, self._security)
        return self._channel

    @property
    def _stub(self) -> worker_queue_pb2_grpc.WorkerQueueAsyncStub:
        if self._cached_stub is None:
            stub: object = worker_queue_pb2_grpc.WorkerQueueStub(self._opened)
            self._cached_stub = stub  # type: ignore[assignment]
        return self._cached_stub  # type: ignore[return-value]

    def _handle(self, stored: Stored) -> AsyncTaskHandle:
        return AsyncTaskHandle(
            stored.task.task_id, outcome_of(stored.outcome), stored.task, self.wait
        )

    async def _send(
        self, request: worker_queue_pb2.EnqueueRequest, seconds: float
    ) -> worker_queue_pb2.EnqueueResponse:
        return await self._stub.Enqueue(
            request, timeout=seconds, metadata=_channel.call_metadata(self._token)
        )

    async def _send_batch(
        self, request: worker_queue_pb2.EnqueueBatchRequest, seconds: float
    ) -> worker_queue_pb2.EnqueueBatchResponse:
        return await self._stub.EnqueueBatch(
            request, timeout=seconds, metadata=_channel.call_metadata(self._token)
        )

    @property
    def _admin(self) -> AnyType:
        return worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(self._opened)

    async def _store_chunk(self, tally: _loading.Tally, chunk: Chunk) -> None:
        while True:
            try:
                response = await self._stub.EnqueueBatch(
                    chunk.request,
                    timeout=self._timeout,
                    metadata=_channel.call_metadata(self._token),
                )
            except grpc.RpcError as error:
                await asyncio.sleep(tally.pause_before_retry(chunk, from_rpc_error(error)))
            else:
                tally.take(chunk, response)
                return


async def _chunks(
    items: Iterable[Message | EnqueueItem] | AsyncIterable[Message | EnqueueItem], size: int
) -> AsyncIterator[Chunk]:
    if isinstance(items, Iterable):
        for chunk in _loading.chunks(items, size):
            yield chunk
        return
    chunker = _loading.Chunker(size)
    async for item in items:
        full = chunker.add(item)
        if full is not None:
            yield full
    last = chunker.rest()
    if last is not None:
        yield last
