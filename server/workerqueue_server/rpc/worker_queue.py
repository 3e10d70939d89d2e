"""The WorkerQueue service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack

import grpc

from workerqueue.v1 import lease_pb2, worker_queue_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.enqueue import EnqueueResult, NewTask
from workerqueue_server.queue.errors import (
    BatchRefused,
    Draining,
    LeaseLost,
    Overloaded,
    QueueError,
    Refused,
    TooLarge,
)
from workerqueue_server.queue.keyed import is_keyed
from workerqueue_server.queue.leases import LeaseDesk
from workerqueue_server.queue.quota import StreamQuota
from workerqueue_server.queue.scoped_desk import ScopedDesk
from workerqueue_server.rpc.access import current_principal
from workerqueue_server.rpc.answers import read_ack, read_heartbeat, read_nack
from workerqueue_server.rpc.enqueue_answers import EnqueueAnswers
from workerqueue_server.rpc.enqueue_requests import EnqueueReader
from workerqueue_server.rpc.frames import LeaseEncoder
from workerqueue_server.rpc.handlers import Context, refuse_stream, stream, unary
from workerqueue_server.rpc.lease_stream import LeaseStream
from workerqueue_server.rpc.scopes import Scopes
from workerqueue_server.rpc.views import timestamp


class WorkerQueueService:
    """Validates, calls the engine, answers."""

    def __init__(
        self,
        engine: Engine,
        streams_per_principal: int = bounds.LEASE_STREAMS_PER_PRINCIPAL,
    ) -> None:
        self._engine = engine
        self._reader = EnqueueReader(engine.catalog)
        self._answers = EnqueueAnswers(engine.catalog, engine.reads)
        self._scopes = Scopes(engine)
        self._encoder = LeaseEncoder()
        self._streams: set[LeaseStream] = set()
        self._quota = StreamQuota(each=streams_per_principal)
        self._draining: float | None = None
        self._no_streams = asyncio.Event()
        self._no_streams.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's handlers, to register with a server."""
        service = worker_queue_pb2.DESCRIPTOR.services_by_name["WorkerQueue"]
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                "Enqueue": unary(self.enqueue, worker_queue_pb2.EnqueueRequest),
                "EnqueueBatch": unary(self.enqueue_batch, worker_queue_pb2.EnqueueBatchRequest),
                "Lease": stream(self.lease),
                "Ack": unary(self.ack, lease_pb2.AckRequest),
                "Nack": unary(self.nack, lease_pb2.NackRequest),
                "Heartbeat": unary(self.heartbeat, lease_pb2.HeartbeatRequest),
            },
        )

    async def enqueue(self, request: worker_queue_pb2.EnqueueRequest, context: Context) -> bytes:
        """Enqueue."""
        task = self._reading()(request)
        await self._scopes.check_job(task)
        (result,) = await self._trace(context, [task], self._store)
        return await self._answers.one(task, result)

    def _reading(self) -> Callable[[worker_queue_pb2.EnqueueRequest], NewTask]:
        """Reads the requests of this call's principal; what it may not enqueue is refused."""
        principal = current_principal()
        if not principal.scope:
            return self._reader.read

        def read(request: worker_queue_pb2.EnqueueRequest) -> NewTask:
            task = self._reader.read(request)
            principal.check_new_task(task.spec.queue, task.spec.kind)
            return task

        return read

    async def _store(
        self, tasks: Sequence[NewTask], *, all_or_nothing: bool = False
    ) -> Sequence[EnqueueResult]:
        """Stores the tasks of one request in one transaction."""
        if any(map(is_keyed, tasks)):
            stored: Sequence[EnqueueResult] = await self._engine.keyed.enqueue(
                tasks, all_or_nothing=all_or_nothing
            )
        else:
            stored = await self._engine.enqueuer.enqueue(tasks)
        return await self._scopes.hide_foreign(tasks, stored)

    async def _trace(
        self,
        context: Context,
        tasks: Sequence[NewTask],
        store: Callable[[Sequence[NewTask]], Awaitable[Sequence[EnqueueResult]]],
    ) -> Sequence[EnqueueResult]:
        """Stores the tasks, within spans if traces are on."""
        tracing = self._engine.journal.tracing
        if tracing is None:
            return await store(tasks)
        metadata = context.invocation_metadata() or ()
        call = {name: value for name, value in metadata if isinstance(value, str)}
        return await tracing.enqueue(tasks, call, store)

    async def enqueue_batch(
        self, request: worker_queue_pb2.EnqueueBatchRequest, context: Context
    ) -> bytes:
        """EnqueueBatch."""
        if not 1 <= len(request.tasks) <= bounds.BATCH_TASKS:
            raise TooLarge(
                "tasks", f"a batch has 1 to {bounds.BATCH_TASKS} tasks, not {len(request.tasks)}"
            )
        read = self._reading()
        tasks: list[NewTask] = []
        refused: dict[int, QueueError] = {}
        for place, item in enumerate(request.tasks):
            try:
                tasks.append(read(item))
            except Refused as error:
                refused[place] = error
        tasks = await self._scopes.check_jobs(len(request.tasks), tasks, refused)
        if refused and request.all_or_nothing:
            first = min(refused)
            for place in range(len(request.tasks)):
                refused.setdefault(place, BatchRefused(first))
            tasks = []
        results: Sequence[EnqueueResult] = ()
        if tasks:
            results = await self._trace(
                context,
                tasks,
                lambda traced: self._store(traced, all_or_nothing=request.all_or_nothing),
            )
        return await self._answers.many(
            len(request.tasks), tasks, results, refused, include_tasks=request.include_tasks
        )

    async def lease(self, context: Context) -> None:
        """Lease."""
        if self._draining is not None:
            await refuse_stream(context, Draining())
        with ExitStack() as places:
            try:
                places.enter_context(self._quota.stream(current_principal().key))
            except Overloaded as error:
                await refuse_stream(context, error)
            await self._serve(context)

    async def _serve(self, context: Context) -> None:
        served = LeaseStream(self._engine, self._encoder, context)
        self._streams.add(served)
        self._no_streams.clear()
        try:
            await served.serve()
        finally:
            self._streams.discard(served)
            if not self._streams:
                self._no_streams.set()

    def _desk(self) -> LeaseDesk | ScopedDesk:
        return self._engine.desk_of(current_principal())

    async def ack(self, request: lease_pb2.AckRequest, _: Context) -> lease_pb2.AckResponse:
        """Ack."""
        (alive,) = await self._desk().finish([read_ack(request)])
        if not alive:
            raise LeaseLost
        return lease_pb2.AckResponse()

    async def nack(self, request: lease_pb2.NackRequest, _: Context) -> lease_pb2.NackResponse:
        """Nack."""
        (alive,) = await self._desk().take_back([read_nack(request)])
        if not alive:
            raise LeaseLost
        return lease_pb2.NackResponse()

    async def heartbeat(
        self, request: lease_pb2.HeartbeatRequest, _: Context
    ) -> lease_pb2.HeartbeatResponse:
        """Heartbeat."""
        (expires_at,) = await self._desk().heartbeat([read_heartbeat(request)])
        if expires_at is None:
            raise LeaseLost
        return lease_pb2.HeartbeatResponse(lease_expires_at=timestamp(expires_at))

    async def drain(self, grace_seconds: float) -> None:
        """Tells every stream to finish; returns when all have ended or the grace is over."""
        self._draining = grace_seconds
        for served in self._streams:
            served.drain(grace_seconds)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._no_streams.wait()
        except TimeoutError:
            pass
