"""The producer's client for code without an event loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any as AnyType
from typing import Self, Unpack

import grpc
from google.protobuf.message import Message

from workerqueue import _channel, _enqueue, _gathering, _loading, _results, _security, _tracing
from workerqueue._enqueue import BatchResult, EnqueueItem, EnqueueOptions, JsonValue
from workerqueue._gatherer import Gatherer, StartedCall
from workerqueue._gathering import Stored
from workerqueue._loading import Chunk, LoadProgress, OnProgress, OnRefused
from workerqueue._outcomes import outcome_of
from workerqueue._results import TaskHandle
from workerqueue._status import from_rpc_error
from workerqueue.v1 import (
    task_pb2,
    worker_queue_admin_pb2_grpc,
    worker_queue_pb2,
    worker_queue_pb2_grpc,
)


class Client:
    """Enqueues tasks. Safe to share between threads; make one per process and keep it.

    ``enqueue`` calls of several threads that come while one is under way travel together; each
    keeps its own time, answer and errors, and none waits for a timer.

    Every call makes its task ids itself, so it is repeated when the server cannot be reached (up to
    5 times in about 3 s) without ever making a second task.

    Args:
        address: ``host:port`` of the server, or any gRPC target. Default: the environment's
            ``WORKERQUEUE_ADDRESS``, else ``127.0.0.1:50551``. Nothing is connected until the
            first call.
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
        address = _channel.resolve_address(address)
        security = _security.resolve(address, tls=tls, credentials=credentials, token=token)
        self._channel = _channel.open_channel(address, security)
        self._stub = worker_queue_pb2_grpc.WorkerQueueStub(self._channel)
        self._admin = worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(self._channel)
        self._token = security.token
        self._timeout = timeout
        self._gatherer = Gatherer(_Calls(self._stub, self._token), timeout)

    def enqueue(self, payload: Message, **options: Unpack[EnqueueOptions]) -> TaskHandle:
        """Stores one task. When it returns, the task is committed and survives any crash.

        Args:
            payload: The kind's message, such as ``StartRun(id="run_1")``.
            **options: See ``EnqueueOptions``.

        Raises:
            InvalidRequestError: The server refuses an option, the kind or the payload.
            UnavailableError, OverloadedError: Try again later, with the same ``task_id``.
            WorkerQueueError: Anything else the server answers with.
            TypeError, ValueError: An option cannot be sent.
        """
        request = _enqueue.build_request(payload, options)
        _tracing.stamp([request], _tracing.current())
        if _gathering.may_gather(payload, options):
            return self._handle(self._gatherer.enqueue(request))
        return self._handle(self._gatherer.enqueue_alone(request))

    def enqueue_dynamic(
        self,
        kind: str,
        args: Mapping[str, JsonValue] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> TaskHandle:
        """Stores one task without generated code.

        Args:
            kind: The kind's name, such as ``startRun``.
            args: The payload's fields, as in its proto3 JSON form. Default: an empty message.
            **options: See ``EnqueueOptions``.

        Raises:
            As ``enqueue``.
        """
        request = _enqueue.build_dynamic_request(kind, args, options)
        _tracing.stamp([request], _tracing.current())
        return self._handle(self._gatherer.enqueue_alone(request))

    def enqueue_batch(
        self, items: Iterable[Message | EnqueueItem], *, all_or_nothing: bool = False
    ) -> list[BatchResult]:
        """Stores up to 10,000 tasks or 4 MiB in one transaction, in this order.

        Args:
            items: Payload messages, or ``EnqueueItem`` for those with options of their own.
            all_or_nothing: Whether one refused item refuses all. Default: False, each for itself.

        Returns:
            One result per item, in order. A refused item does not raise; look at ``error``.

        Raises:
            ValueError: There are no items.
            TooLargeError: More than one call may carry.
            WorkerQueueError: Nothing could be tried.
        """
        request = _enqueue.build_batch(items, all_or_nothing)
        try:
            response = self._stub.EnqueueBatch(
                request, timeout=self._timeout, metadata=_channel.call_metadata(self._token)
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return _enqueue.read_batch(request, response)

    def load(
        self,
        items: Iterable[Message | EnqueueItem],
        *,
        on_progress: OnProgress | None = None,
        on_refused: OnRefused | None = None,
        chunk_size: int = _loading.DEFAULT_CHUNK,
        in_flight: int = _loading.DEFAULT_IN_FLIGHT,
    ) -> LoadProgress:
        """Stores any number of tasks, in this order of chunks, and holds only a few in memory.

        Each chunk is a transaction of its own: when this raises, the chunks before are stored.
        While the server is overloaded or away, a chunk is sent again (its ids make that safe), up
        to 30 times.

        Args:
            items: Payload messages or ``EnqueueItem``; taken from as the load goes on.
            on_progress: Called after each chunk.
            on_refused: Called with the number (from 0) and the error of each refused item.
                Default: the first refusal is raised.
            chunk_size: Items in one chunk, 1 to 10,000; fewer if they are large. Default: 1,000.
            in_flight: Chunks under way at a time; tasks of different chunks may then become
                available in another order. Default: 4.

        Raises:
            WorkerQueueError: An item was refused, or a chunk could not be stored.
        """
        _loading.check_options(chunk_size, in_flight)
        tally = _loading.Tally(on_progress, on_refused)
        under_way: deque[tuple[Chunk, AnyType]] = deque()
        for chunk in _loading.chunks(items, chunk_size):
            if len(under_way) >= in_flight:
                self._finish_chunk(tally, *under_way.popleft())
            under_way.append((chunk, self._send_chunk(chunk)))
        while under_way:
            self._finish_chunk(tally, *under_way.popleft())
        return tally.progress

    def wait(self, task_id: str, timeout: float | None = None) -> task_pb2.Task:
        """Waits until the task has ended, however, and returns it; see ``TaskHandle.result``.

        Raises:
            TimeoutError: It has not ended within ``timeout`` seconds (default: for ever).
            TaskNotFoundError: There is no such task.
        """
        return _results.wait_for_end(self._admin, self._token, task_id, timeout)

    def close(self) -> None:
        """Closes the connection. Calls that still run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _handle(self, stored: Stored) -> TaskHandle:
        return TaskHandle(stored.task.task_id, outcome_of(stored.outcome), stored.task, self.wait)

    def _send_chunk(self, chunk: Chunk) -> AnyType:
        call: AnyType = self._stub.EnqueueBatch
        return call.future(
            chunk.request, timeout=self._timeout, metadata=_channel.call_metadata(self._token)
        )

    def _finish_chunk(self, tally: _loading.Tally, chunk: Chunk, call: AnyType) -> None:
        while True:
            try:
                response = call.result()
            except grpc.RpcError as error:
                time.sleep(tally.pause_before_retry(chunk, from_rpc_error(error)))
                call = self._send_chunk(chunk)
            else:
                tally.take(chunk, response)
                return


class _Calls:
    """The calls of the gatherer."""

    def __init__(
        self, stub: worker_queue_pb2_grpc.WorkerQueueStub, token: Callable[[], str] | None
    ) -> None:
        self._stub: AnyType = stub
        self._token = token

    def enqueue(
        self, request: worker_queue_pb2.EnqueueRequest, timeout: float
    ) -> worker_queue_pb2.EnqueueResponse:
        metadata = _channel.call_metadata(self._token)
        response: worker_queue_pb2.EnqueueResponse = self._stub.Enqueue(
            request, timeout=timeout, metadata=metadata
        )
        return response

    def start_enqueue(
        self, request: worker_queue_pb2.EnqueueRequest, timeout: float
    ) -> StartedCall:
        metadata = _channel.call_metadata(self._token)
        call: StartedCall = self._stub.Enqueue.future(request, timeout=timeout, metadata=metadata)
        return call

    def enqueue_batch(
        self, request: worker_queue_pb2.EnqueueBatchRequest, timeout: float
    ) -> worker_queue_pb2.EnqueueBatchResponse:
        metadata = _channel.call_metadata(self._token)
        response: worker_queue_pb2.EnqueueBatchResponse = self._stub.EnqueueBatch(
            request, timeout=timeout, metadata=metadata
        )
        return response
