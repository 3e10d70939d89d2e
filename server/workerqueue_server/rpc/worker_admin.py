"""The part of WorkerQueueAdmin that is about workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from workerqueue.v1 import worker_admin_pb2 as pb
from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.errors import InvalidTask
from workerqueue_server.queue.policy import Checker
from workerqueue_server.rpc.audit import audited
from workerqueue_server.rpc.handlers import Context, unary
from workerqueue_server.rpc.pages import NamePages, read_page_size
from workerqueue_server.rpc.views import timestamp
from workerqueue_server.store.reads import ReadStore, Record

_PAGES = NamePages(b"workers")
_GRACE_MS = (0, 3600 * bounds.SECOND)
_DURATION_MS = (bounds.SECOND, 30 * bounds.DAY)
_DEFAULT_GRACE_MS = 60 * bounds.SECOND
_DEFAULT_DURATION_MS = bounds.DAY


class WorkerAdminMethods:
    """Validates, calls the engine, answers."""

    def __init__(self, engine: Engine) -> None:
        self._reads: ReadStore = engine.reads
        self._presence = engine.presence

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods' handlers by name."""
        return {
            "ListWorkers": unary(self.list_workers, pb.ListWorkersRequest),
            "DrainWorker": audited(self.drain_worker, pb.DrainWorkerRequest),
            "ResumeWorker": audited(self.resume_worker, pb.ResumeWorkerRequest),
        }

    async def list_workers(
        self, request: pb.ListWorkersRequest, _: Context
    ) -> pb.ListWorkersResponse:
        size = read_page_size(request.page_size)
        # One more than asked for tells whether there is a next page.
        records = await self._reads.fetch(
            "list_workers",
            {"after": _PAGES.after(request.page_token), "names": None, "limit": size + 1},
        )
        return pb.ListWorkersResponse(
            workers=await self._views(records[:size]),
            next_page_token=_PAGES.token([record["worker_id"] for record in records], size),
        )

    async def drain_worker(
        self, request: pb.DrainWorkerRequest, _: Context
    ) -> pb.DrainWorkerResponse:
        check = Checker("")
        check.worker("worker_id", request.worker_id)
        grace_ms = (
            check.milliseconds("grace", request.grace, _GRACE_MS)
            if request.HasField("grace")
            else _DEFAULT_GRACE_MS
        )
        duration_ms = (
            check.milliseconds("duration", request.duration, _DURATION_MS)
            if request.HasField("duration")
            else _DEFAULT_DURATION_MS
        )
        if check.violations:
            raise InvalidTask(check.violations)
        await self._presence.drain(request.worker_id, grace_ms, duration_ms)
        return pb.DrainWorkerResponse(worker=await self._view(request.worker_id))

    async def resume_worker(
        self, request: pb.ResumeWorkerRequest, _: Context
    ) -> pb.ResumeWorkerResponse:
        check = Checker("")
        check.worker("worker_id", request.worker_id)
        if check.violations:
            raise InvalidTask(check.violations)
        await self._presence.resume(request.worker_id)
        return pb.ResumeWorkerResponse(worker=await self._view(request.worker_id))

    async def _view(self, worker_id: str) -> pb.Worker:
        records = await self._reads.fetch(
            "list_workers", {"after": None, "names": [worker_id], "limit": 1}
        )
        views = await self._views(records)
        return views[0] if views else pb.Worker(worker_id=worker_id)

    async def _views(self, records: Sequence[Record]) -> list[pb.Worker]:
        views = {record["worker_id"]: _worker_view(record) for record in records}
        if views:
            for session in await self._reads.fetch("worker_sessions", {"worker_ids": list(views)}):
                views[session["worker_id"]].sessions.append(_session_view(session))
        return list(views.values())


def _worker_view(record: Record) -> pb.Worker:
    view = pb.Worker(
        worker_id=record["worker_id"],
        held_tasks=record["held"],
        held_by_queue=record["by_queue"] or {},
        drained=record["drained_until"] is not None,
    )
    if record["oldest_lease_at"] is not None:
        view.oldest_lease_at.CopyFrom(timestamp(record["oldest_lease_at"]))
    if record["drained_until"] is not None:
        view.drained_until.CopyFrom(timestamp(record["drained_until"]))
    return view


def _session_view(record: Record) -> pb.WorkerSession:
    return pb.WorkerSession(
        session_id=record["session_id"],
        server_id=record["server_id"],
        queues=record["queues"],
        kinds=record["kinds"],
        max_in_flight=record["max_in_flight"],
        connected_at=timestamp(record["connected_at"]),
        draining=record["draining"],
    )
