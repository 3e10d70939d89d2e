"""The part of WorkerQueueAdmin that is about tasks."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from workerqueue.v1 import task_admin_pb2 as pb
from workerqueue.v1 import task_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.errors import InvalidTask, Violation
from workerqueue_server.queue.policy import Checker
from workerqueue_server.queue.task_admin import Progress
from workerqueue_server.queue.why import why
from workerqueue_server.rpc.audit import audited, audited_stream
from workerqueue_server.rpc.handlers import Context, server_stream, unary
from workerqueue_server.rpc.pages import make_page_token, read_page_size, read_page_token
from workerqueue_server.rpc.scopes import Scopes, sees, task_not_found
from workerqueue_server.rpc.task_details import task_details
from workerqueue_server.rpc.task_filters import read_filter
from workerqueue_server.rpc.task_ids import read_task_id
from workerqueue_server.rpc.views import task_view

_REASON_BYTES = 1024
# A page's tasks stop short of the largest message by what surrounds them.
_PAGE_BYTES = bounds.MESSAGE_BYTES - 128 * 1024


class TaskAdminMethods:
    """Validates, calls the engine, answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._admin = engine.task_admin
        self._scopes = Scopes(engine)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods' handlers by name."""
        return {
            "GetTask": unary(self.get_task, pb.GetTaskRequest),
            "WatchTask": server_stream(self.watch_task, pb.WatchTaskRequest),
            "ListTasks": unary(self.list_tasks, pb.ListTasksRequest),
            "CancelTask": audited(self.cancel_task, pb.CancelTaskRequest),
            "WhyTask": unary(self.why_task, pb.WhyTaskRequest),
            "RetryTask": audited(self.retry_task, pb.RetryTaskRequest),
            "RescheduleTask": audited(self.reschedule_task, pb.RescheduleTaskRequest),
            "DeleteTask": audited(self.delete_task, pb.DeleteTaskRequest),
            "RemoveByJobKey": audited(self.remove_by_job_key, pb.RemoveByJobKeyRequest),
            "CancelTasks": audited_stream(self.cancel_tasks, pb.CancelTasksRequest),
            "RetryTasks": audited_stream(self.retry_tasks, pb.RetryTasksRequest),
            "DeleteTasks": audited_stream(self.delete_tasks, pb.DeleteTasksRequest),
        }

    async def get_task(self, request: pb.GetTaskRequest, _: Context) -> pb.GetTaskResponse:
        task, omitted = await self._details(read_task_id(request.task_id))
        return pb.GetTaskResponse(task=task, omitted_fields=omitted)

    async def watch_task(
        self, request: pb.WatchTaskRequest, _: Context
    ) -> AsyncGenerator[pb.WatchTaskResponse, None]:
        task_id = read_task_id(request.task_id)
        await self._scopes.require_task(task_id)
        async with aclosing(self._engine.watcher.watch(task_id)) as snapshots:
            async for snapshot in snapshots:
                task, omitted = task_details(snapshot, self._engine.catalog)
                yield pb.WatchTaskResponse(task=task, omitted_fields=omitted)

    async def list_tasks(self, request: pb.ListTasksRequest, _: Context) -> pb.ListTasksResponse:
        task_filter = read_filter(request.filter)
        scope = b"tasks " + request.filter.SerializeToString(deterministic=True)
        before = read_page_token(request.page_token, scope)
        if before is not None and len(before) != 16:
            raise InvalidTask([Violation("page_token", "is no token of this list")])
        full = request.view == pb.TASK_VIEW_FULL
        scan = await self._admin.page(task_filter, before, read_page_size(request.page_size))
        ids = scan.ids[: _fitting(scan.sizes)] if full else scan.ids
        tasks, shown = await self._views(ids, full=full)
        last = scan.last_id if shown == len(scan.ids) else scan.ids[shown - 1]
        return pb.ListTasksResponse(
            tasks=tasks, next_page_token=make_page_token(last, scope) if last is not None else ""
        )

    async def why_task(self, request: pb.WhyTaskRequest, _: Context) -> pb.WhyTaskResponse:
        found = await why(self._engine.reads, read_task_id(request.task_id))
        return pb.WhyTaskResponse(
            explanation=found.sentence,
            reason=int(found.reason),  # type: ignore[arg-type]
            state=f"TASK_STATE_{found.state.upper()}",
            waits_for_task_ids=found.waits_for,
        )

    async def cancel_task(self, request: pb.CancelTaskRequest, _: Context) -> pb.CancelTaskResponse:
        task_id = read_task_id(request.task_id)
        await self._scopes.require_task(task_id)
        await self._admin.cancel(task_id, _reason(request.reason))
        return pb.CancelTaskResponse(task=(await self._details(task_id))[0])

    async def retry_task(self, request: pb.RetryTaskRequest, _: Context) -> pb.RetryTaskResponse:
        task_id = read_task_id(request.task_id)
        await self._admin.retry(task_id, _attempts(request.attempts))
        return pb.RetryTaskResponse(task=(await self._details(task_id))[0])

    async def reschedule_task(
        self, request: pb.RescheduleTaskRequest, _: Context
    ) -> pb.RescheduleTaskResponse:
        task_id = read_task_id(request.task_id)
        check = Checker("")
        priority = (
            check.number("priority", request.priority, bounds.PRIORITY)
            if request.HasField("priority")
            else None
        )
        when = request.WhichOneof("when")
        delay_ms = (
            check.milliseconds("delay", request.delay, bounds.DELAY_MS) if when == "delay" else 0
        )
        run_at = check.time("run_at", request.run_at) if when == "run_at" else None
        if when is None and priority is None:
            check.fail("when", "set a time, a priority or both")
        if check.violations:
            raise InvalidTask(check.violations)
        await self._admin.reschedule(
            task_id, run_at=run_at, delay_ms=delay_ms, priority=priority, move=when is not None
        )
        return pb.RescheduleTaskResponse(task=(await self._details(task_id))[0])

    async def delete_task(self, request: pb.DeleteTaskRequest, _: Context) -> pb.DeleteTaskResponse:
        await self._admin.delete(read_task_id(request.task_id))
        return pb.DeleteTaskResponse()

    async def remove_by_job_key(
        self, request: pb.RemoveByJobKeyRequest, _: Context
    ) -> pb.RemoveByJobKeyResponse:
        if not 1 <= len(request.job_key.encode()) <= bounds.KEY_BYTES or "\x00" in request.job_key:
            raise InvalidTask([Violation("job_key", f"must be 1 to {bounds.KEY_BYTES} bytes")])
        if await self._scopes.has_foreign_job(request.job_key):
            return pb.RemoveByJobKeyResponse()
        cancelled, released = await self._admin.remove_by_job_key(request.job_key)
        return pb.RemoveByJobKeyResponse(
            cancelled_task_id=_text(cancelled), released_task_id=_text(released)
        )

    async def cancel_tasks(
        self, request: pb.CancelTasksRequest, _: Context
    ) -> AsyncGenerator[pb.CancelTasksResponse, None]:
        steps = self._admin.cancel_all(
            read_filter(request.filter), _reason(request.reason), dry_run=request.dry_run
        )
        async with aclosing(steps):
            async for progress in steps:
                yield pb.CancelTasksResponse(progress=progress_view(progress))

    async def retry_tasks(
        self, request: pb.RetryTasksRequest, _: Context
    ) -> AsyncGenerator[pb.RetryTasksResponse, None]:
        steps = self._admin.retry_all(
            read_filter(request.filter), _attempts(request.attempts), dry_run=request.dry_run
        )
        async with aclosing(steps):
            async for progress in steps:
                yield pb.RetryTasksResponse(progress=progress_view(progress))

    async def delete_tasks(
        self, request: pb.DeleteTasksRequest, _: Context
    ) -> AsyncGenerator[pb.DeleteTasksResponse, None]:
        steps = self._admin.delete_all(read_filter(request.filter), dry_run=request.dry_run)
        async with aclosing(steps):
            async for progress in steps:
                yield pb.DeleteTasksResponse(progress=progress_view(progress))

    async def _details(self, task_id: bytes) -> tuple[task_pb2.Task, list[str]]:
        snapshot = (await self._engine.reads.snapshots([task_id])).get(task_id)
        if snapshot is None or not sees(snapshot.task):
            raise task_not_found(task_id)
        return task_details(snapshot, self._engine.catalog)

    async def _views(self, ids: Sequence[bytes], *, full: bool) -> tuple[list[task_pb2.Task], int]:
        """Tasks as long as they fit a message, and how many of the ids they are."""
        if not ids:
            return [], 0
        records = await self._engine.reads.task_rows(ids, full=full)
        views: list[task_pb2.Task] = []
        size = 0
        for place, task_id in enumerate(ids):
            record = records.get(task_id)
            if record is None:
                # Deleted since the scan.
                continue
            view = task_view(record, self._engine.catalog)
            if not full:
                view.ClearField("payload")
            elif view.ByteSize() > _PAGE_BYTES:
                view.ClearField("checkpoint")
            size += view.ByteSize() + 8
            if size > _PAGE_BYTES and place > 0:
                return views, place
            views.append(view)
        return views, len(ids)


def progress_view(progress: Progress) -> pb.BulkProgress:
    """How far a bulk operation is."""
    return pb.BulkProgress(
        examined=progress.examined,
        matched=progress.matched,
        changed=progress.changed,
        done=progress.done,
    )


def _fitting(sizes: Sequence[int]) -> int:
    """How many of the first tasks fit a page, at least one."""
    total = 0
    for place, size in enumerate(sizes):
        total += size
        if total > _PAGE_BYTES and place > 0:
            return place
    return len(sizes)


def _reason(text: str) -> str | None:
    return bounds.shorten(text, _REASON_BYTES) or None


def _attempts(value: int) -> int:
    if not value:
        return 1
    check = Checker("")
    check.number("attempts", value, bounds.MAX_ATTEMPTS)
    if check.violations:
        raise InvalidTask(check.violations)
    return value


def _text(task_id: bytes | None) -> str:
    return str(uuid.UUID(bytes=task_id)) if task_id is not None else ""
