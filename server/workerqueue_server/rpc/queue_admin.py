"""The part of WorkerQueueAdmin that is about queues."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal

import grpc

from workerqueue.v1 import queue_admin_pb2 as pb
from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.errors import InvalidTask, Violation
from workerqueue_server.queue.policy import Checker
from workerqueue_server.queue.statistics import QueueFigures
from workerqueue_server.rpc.audit import audited, audited_stream
from workerqueue_server.rpc.frames import milliseconds
from workerqueue_server.rpc.handlers import Context, unary
from workerqueue_server.rpc.pages import NamePages, read_page_size
from workerqueue_server.rpc.task_admin import progress_view
from workerqueue_server.rpc.views import timestamp
from workerqueue_server.store.reads import Record

_PAGES = NamePages(b"queues")


class QueueAdminMethods:
    """Validates, calls the engine, answers."""

    def __init__(self, engine: Engine) -> None:
        self._admin = engine.queue_admin
        self._tasks = engine.task_admin
        self._statistics = engine.statistics

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods' handlers by name."""
        return {
            "ListQueues": unary(self.list_queues, pb.ListQueuesRequest),
            "GetQueue": unary(self.get_queue, pb.GetQueueRequest),
            "UpdateQueue": audited(self.update_queue, pb.UpdateQueueRequest),
            "PauseQueue": audited(self.pause_queue, pb.PauseQueueRequest),
            "ResumeQueue": audited(self.resume_queue, pb.ResumeQueueRequest),
            "PurgeQueue": audited_stream(self.purge_queue, pb.PurgeQueueRequest),
        }

    async def list_queues(self, request: pb.ListQueuesRequest, _: Context) -> pb.ListQueuesResponse:
        size = read_page_size(request.page_size)
        # One more than asked for tells whether there is a next page.
        records = await self._admin.page(_PAGES.after(request.page_token), size + 1)
        shown = records[:size]
        figures = await self._statistics.figures([record["name"] for record in shown])
        return pb.ListQueuesResponse(
            queues=[_queue_view(record, figures[record["name"]]) for record in shown],
            next_page_token=_PAGES.token([record["name"] for record in records], size),
        )

    async def get_queue(self, request: pb.GetQueueRequest, _: Context) -> pb.GetQueueResponse:
        return pb.GetQueueResponse(queue=await self._view(request.queue, by_kind=True))

    async def update_queue(
        self, request: pb.UpdateQueueRequest, _: Context
    ) -> pb.UpdateQueueResponse:
        check = Checker("")
        check.queue("queue", request.queue)
        limits: dict[str, int | None] = {}
        for name, most in _LIMITS.items():
            given = request.HasField(name)
            limits[name] = check.number(name, getattr(request, name), most) if given else None
        given = any(value is not None for value in limits.values())
        if given == request.reset_to_declaration:
            check.fail("max_in_flight", "set a limit, or reset_to_declaration, and not both")
        if check.violations:
            raise InvalidTask(check.violations)
        if request.allow_missing:
            await self._admin.make(request.queue)
        if request.reset_to_declaration:
            await self._admin.reset_limits(request.queue)
        else:
            await self._admin.limit(
                request.queue, limits["max_in_flight_per_worker"], limits["max_in_flight"]
            )
        return pb.UpdateQueueResponse(queue=await self._view(request.queue))

    async def pause_queue(self, request: pb.PauseQueueRequest, _: Context) -> pb.PauseQueueResponse:
        await self._admin.pause(_name(request.queue), paused=True)
        return pb.PauseQueueResponse(queue=await self._view(request.queue))

    async def resume_queue(
        self, request: pb.ResumeQueueRequest, _: Context
    ) -> pb.ResumeQueueResponse:
        await self._admin.pause(_name(request.queue), paused=False)
        return pb.ResumeQueueResponse(queue=await self._view(request.queue))

    async def purge_queue(
        self, request: pb.PurgeQueueRequest, _: Context
    ) -> AsyncGenerator[pb.PurgeQueueResponse, None]:
        await self._admin.get(_name(request.queue))
        async with aclosing(self._tasks.purge(request.queue, dry_run=request.dry_run)) as steps:
            async for progress in steps:
                yield pb.PurgeQueueResponse(progress=progress_view(progress))

    async def _view(self, queue: str, *, by_kind: bool = False) -> pb.Queue:
        record = await self._admin.get(_name(queue))
        figures = (await self._statistics.figures([queue]))[queue]
        return _queue_view(record, figures, by_kind=by_kind)


_LIMITS: Final[dict[Literal["max_in_flight_per_worker", "max_in_flight"], tuple[int, int]]] = {
    "max_in_flight_per_worker": (0, 100_000),
    "max_in_flight": (0, 1_000_000),
}


def _name(queue: str) -> str:
    if not bounds.is_queue_name(queue):
        raise InvalidTask(
            [Violation("queue", "must be 1 to 128 characters: letters, digits and ._:/-")]
        )
    return queue


def _queue_view(record: Record, figures: QueueFigures, *, by_kind: bool = False) -> pb.Queue:
    statistics = pb.QueueStatistics(
        tasks_by_state=figures.states,
        last_minute=_rates(figures.last_minute),
        last_hour=_rates(figures.last_hour),
    )
    if figures.oldest_available_ms is not None:
        statistics.oldest_available_age.CopyFrom(milliseconds(figures.oldest_available_ms))
    if by_kind:
        statistics.kinds.extend(
            pb.KindStatistics(kind=kind, tasks_by_state=states)
            for kind, states in sorted(figures.kinds.items())
        )
    return pb.Queue(
        name=record["name"],
        max_in_flight_per_worker=record["max_in_flight_per_worker"] or 0,
        max_in_flight=record["max_in_flight"] or 0,
        operator_limits=record["operator_limits"],
        paused=record["paused"],
        created_at=timestamp(record["created_at"]),
        statistics=statistics,
    )


def _rates(moves: Mapping[str, float]) -> pb.QueueRates:
    return pb.QueueRates(**moves)
