"""The WorkerQueue service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import grpc

from workerqueue.v1 import lease_pb2, worker_queue_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Spec, held_bytes
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
from workerqueue_server.queue.lanes import LaneName
from workerqueue_server.queue.leases import LeaseDesk
from workerqueue_server.queue.quota import CallQuota, StreamQuota
from workerqueue_server.queue.scoped_desk import ScopedDesk
from workerqueue_server.rpc.access import current_principal
from workerqueue_server.rpc.answers import read_ack, read_heartbeat, read_nack
from workerqueue_server.rpc.batch_requests import BatchReader
from workerqueue_server.rpc.enqueue_answers import EnqueueAnswers
from workerqueue_server.rpc.enqueue_requests import EnqueueReader
from workerqueue_server.rpc.frames import LeaseEncoder
from workerqueue_server.rpc.handlers import (
    Context,
    decode,
    refuse_stream,
    stream,
    unary_of_bytes,
)
from workerqueue_server.rpc.lease_stream import LeaseStream
from workerqueue_server.rpc.scopes import Scopes
from workerqueue_server.rpc.views import timestamp


def _lane_name(spec: Spec) -> LaneName:
    return spec.queue, spec.kind, spec.priority


class _Batch(NamedTuple):
    """An EnqueueBatchRequest, read."""

    size: int
    tasks: list[NewTask]
    # By place; the others are in ``tasks``, in order.
    refused: dict[int, QueueError]
    all_or_nothing: bool
    include_tasks: bool


class WorkerQueueService:
    """Validates, calls the engine, answers."""

    def __init__(
        self,
        engine: Engine,
        streams_per_principal: int = bounds.LEASE_STREAMS_PER_PRINCIPAL,
    ) -> None:
        self._engine = engine
        self._reader = EnqueueReader(engine.catalog)
        self._batches = BatchReader(engine.catalog, self._reader)
        self._answers = EnqueueAnswers(engine.catalog, engine.reads)
        self._scopes = Scopes(engine)
        self._encoder = LeaseEncoder()
        self._streams: set[LeaseStream] = set()
        self._quota = StreamQuota(each=streams_per_principal)
        self._calls = CallQuota()
        self._draining: float | None = None
        self._no_streams = asyncio.Event()
        self._no_streams.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's handlers, to register with a server."""
        service = worker_queue_pb2.DESCRIPTOR.services_by_name["WorkerQueue"]
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                "Enqueue": unary_of_bytes(self.enqueue),
                "EnqueueBatch": unary_of_bytes(self.enqueue_batch),
                "Lease": stream(self.lease),
                "Ack": unary_of_bytes(self.ack),
                "Nack": unary_of_bytes(self.nack),
                "Heartbeat": unary_of_bytes(self.heartbeat),
            },
        )

    async def enqueue(self, data: bytes, context: Context) -> bytes:
        """Enqueue."""
        task = self._reader.read(decode(worker_queue_pb2.EnqueueRequest, data))
        current_principal().check_new_task(task.spec.queue, task.spec.kind)
        for problem in self._engine.lanes.admit([_lane_name(task.spec)]).values():
            raise problem
        await self._scopes.check_job(task)
        store = partial(self._store, held=held_bytes([task], len(data)))
        (result,) = await self._trace(context, [task], store)
        return await self._answers.one(task, result)

    async def _store(
        self, tasks: Sequence[NewTask], *, held: int, all_or_nothing: bool = False
    ) -> Sequence[EnqueueResult]:
        """Stores the tasks of one request, which holds so many bytes, in one transaction."""
        if any(map(is_keyed, tasks)):
            stored: Sequence[EnqueueResult] = await self._engine.keyed.enqueue(
                tasks, held, all_or_nothing=all_or_nothing
            )
        else:
            stored = await self._engine.enqueuer.enqueue(tasks, held)
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

    async def enqueue_batch(self, data: bytes, context: Context) -> bytes:
        """EnqueueBatch."""
        batch = self._read_batch(data)
        tasks = await self._scopes.check_jobs(batch.size, batch.tasks, batch.refused)
        refused = batch.refused
        if refused and batch.all_or_nothing:
            first = min(refused)
            for place in range(batch.size):
                refused.setdefault(place, BatchRefused(first))
            tasks = []
        results: Sequence[EnqueueResult] = ()
        if tasks:
            store = partial(
                self._store,
                held=held_bytes(tasks, len(data)),
                all_or_nothing=batch.all_or_nothing,
            )
            results = await self._trace(context, tasks, store)
        return await self._answers.many(
            batch.size, tasks, results, refused, include_tasks=batch.include_tasks
        )

    def _read_batch(self, data: bytes) -> _Batch:
        request = decode(worker_queue_pb2.EnqueueBatchRequest, data)
        size = len(request.tasks)
        if not 1 <= size <= bounds.BATCH_TASKS:
            raise TooLarge("tasks", f"a batch has 1 to {bounds.BATCH_TASKS} tasks, not {size}")
        tasks: list[NewTask] = []
        refused: dict[int, QueueError] = {}
        for place, task in enumerate(self._batches.read(data, request.tasks)):
            if isinstance(task, Refused):
                refused[place] = task
            else:
                tasks.append(task)
        tasks = self._refuse_specs(size, tasks, refused)
        return _Batch(size, tasks, refused, request.all_or_nothing, request.include_tasks)

    def _refuse_specs(
        self, size: int, tasks: list[NewTask], refused: dict[int, QueueError]
    ) -> list[NewTask]:
        """The tasks but those that the caller may not enqueue, or that would make a lane too many.

        These are added to ``refused``.
        """
        specs = dict.fromkeys([task.spec for task in tasks])
        problems = self._out_of_scope(specs)
        lanes = dict.fromkeys(_lane_name(spec) for spec in specs if spec not in problems)
        too_many = self._engine.lanes.admit(lanes)
        problems |= {
            spec: too_many[name] for spec in specs if (name := _lane_name(spec)) in too_many
        }
        if not problems:
            return tasks
        left = []
        places = [place for place in range(size) if place not in refused]
        for place, task in zip(places, tasks, strict=True):
            if task.spec in problems:
                refused[place] = problems[task.spec]
            else:
                left.append(task)
        return left

    @staticmethod
    def _out_of_scope(specs: Iterable[Spec]) -> dict[Spec, QueueError]:
        """Why the caller may not enqueue with some of these specs."""
        principal = current_principal()
        problems: dict[Spec, QueueError] = {}
        for spec in specs:
            try:
                principal.check_new_task(spec.queue, spec.kind)
            except Refused as error:
                problems[spec] = error
        return problems

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

    async def ack(self, data: bytes, _: Context) -> lease_pb2.AckResponse:
        """Ack."""
        item = read_ack(decode(lease_pb2.AckRequest, data))
        with self._calls.call():
            (alive,) = await self._desk().finish([item])
        if not alive:
            raise LeaseLost
        return lease_pb2.AckResponse()

    async def nack(self, data: bytes, _: Context) -> lease_pb2.NackResponse:
        """Nack."""
        item = read_nack(decode(lease_pb2.NackRequest, data))
        with self._calls.call():
            (alive,) = await self._desk().take_back([item])
        if not alive:
            raise LeaseLost
        return lease_pb2.NackResponse()

    async def heartbeat(self, data: bytes, _: Context) -> lease_pb2.HeartbeatResponse:
        """Heartbeat."""
        item = read_heartbeat(decode(lease_pb2.HeartbeatRequest, data))
        with self._calls.call():
            (expires_at,) = await self._desk().heartbeat([item])
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
