"""The part of WorkerQueueAdmin that is about schedules."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from workerqueue.v1 import schedule_pb2 as pb
from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.errors import InvalidTask, Violation
from workerqueue_server.queue.policy import Checker
from workerqueue_server.queue.schedules import next_ticks
from workerqueue_server.rpc.audit import audited
from workerqueue_server.rpc.handlers import Context, unary
from workerqueue_server.rpc.pages import make_page_token, read_page_size, read_page_token
from workerqueue_server.rpc.task_ids import read_task_id
from workerqueue_server.rpc.views import enqueue_outcome, stored_task, task_view
from workerqueue_server.store.schedules import ScheduleRow

_NEXT_TIMES = 5
_MOST_NEXT_TIMES = 100
# A page's schedules stop short of the largest message by what surrounds them.
_PAGE_BYTES = bounds.MESSAGE_BYTES - 128 * 1024


class ScheduleAdminMethods:
    """Validates, calls the engine, answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._schedules = engine.schedules

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods' handlers by name."""
        return {
            "CreateSchedule": audited(self.create_schedule, pb.CreateScheduleRequest),
            "UpdateSchedule": audited(self.update_schedule, pb.UpdateScheduleRequest),
            "GetSchedule": unary(self.get_schedule, pb.GetScheduleRequest),
            "ListSchedules": unary(self.list_schedules, pb.ListSchedulesRequest),
            "DeleteSchedule": audited(self.delete_schedule, pb.DeleteScheduleRequest),
            "PauseSchedule": audited(self.pause_schedule, pb.PauseScheduleRequest),
            "ResumeSchedule": audited(self.resume_schedule, pb.ResumeScheduleRequest),
            "TriggerSchedule": audited(self.trigger_schedule, pb.TriggerScheduleRequest),
        }

    async def create_schedule(
        self, request: pb.CreateScheduleRequest, _: Context
    ) -> pb.CreateScheduleResponse:
        schedule = request.schedule
        if request.validate_only:
            definition, now = await self._schedules.check(schedule)
            checked = pb.Schedule()
            checked.CopyFrom(definition.message)
            checked.next_run_times.extend(_times(definition.rule.first(_NEXT_TIMES, now)))
            return pb.CreateScheduleResponse(schedule=checked)
        await self._schedules.create(schedule)
        return pb.CreateScheduleResponse(schedule=await self._view(schedule.schedule_id))

    async def update_schedule(
        self, request: pb.UpdateScheduleRequest, _: Context
    ) -> pb.UpdateScheduleResponse:
        await self._schedules.update(request.schedule, allow_missing=request.allow_missing)
        return pb.UpdateScheduleResponse(schedule=await self._view(request.schedule.schedule_id))

    async def get_schedule(
        self, request: pb.GetScheduleRequest, _: Context
    ) -> pb.GetScheduleResponse:
        count = request.next_run_times
        if not 0 <= count <= _MOST_NEXT_TIMES:
            raise InvalidTask([Violation("next_run_times", f"must be 0 to {_MOST_NEXT_TIMES}")])
        return pb.GetScheduleResponse(
            schedule=await self._view(_read_id(request.schedule_id), count or _NEXT_TIMES)
        )

    async def list_schedules(
        self, request: pb.ListSchedulesRequest, _: Context
    ) -> pb.ListSchedulesResponse:
        after = read_page_token(request.page_token, b"schedules") or b""
        size = read_page_size(request.page_size)
        rows = await self._schedules.page(after.decode("utf-8", "replace"), size + 1)
        answer = pb.ListSchedulesResponse()
        room = _PAGE_BYTES
        for place, row in enumerate(rows):
            view = self._row_view(row, 1)
            room -= view.ByteSize() + 8
            if place == size or (room < 0 and place > 0):
                last = answer.schedules[-1].schedule_id
                answer.next_page_token = make_page_token(last.encode(), b"schedules")
                break
            answer.schedules.append(view)
        return answer

    async def delete_schedule(
        self, request: pb.DeleteScheduleRequest, _: Context
    ) -> pb.DeleteScheduleResponse:
        await self._schedules.delete(
            _read_id(request.schedule_id), even_if_from_file=request.even_if_from_file
        )
        return pb.DeleteScheduleResponse()

    async def pause_schedule(
        self, request: pb.PauseScheduleRequest, _: Context
    ) -> pb.PauseScheduleResponse:
        await self._schedules.set_paused(_read_id(request.schedule_id), paused=True)
        return pb.PauseScheduleResponse(schedule=await self._view(request.schedule_id))

    async def resume_schedule(
        self, request: pb.ResumeScheduleRequest, _: Context
    ) -> pb.ResumeScheduleResponse:
        await self._schedules.set_paused(_read_id(request.schedule_id), paused=False)
        return pb.ResumeScheduleResponse(schedule=await self._view(request.schedule_id))

    async def trigger_schedule(
        self, request: pb.TriggerScheduleRequest, _: Context
    ) -> pb.TriggerScheduleResponse:
        task_id = read_task_id(request.task_id) if request.task_id else None
        task, result = await self._schedules.trigger(_read_id(request.schedule_id), task_id)
        stored_id = result.task_id or task.task_id
        record = (await self._engine.reads.tasks([stored_id])).get(stored_id)
        catalog = self._engine.catalog
        view = (
            task_view(record, catalog)
            if record is not None
            else stored_task(task._replace(task_id=stored_id), result.stored_at, catalog)
        )
        return pb.TriggerScheduleResponse(
            enqueued=worker_queue_pb2.EnqueueResponse(
                task=view, outcome=enqueue_outcome(result.outcome)
            )
        )

    async def _view(self, schedule_id: str, next_times: int = _NEXT_TIMES) -> pb.Schedule:
        return self._row_view(await self._schedules.get(schedule_id), next_times)

    def _row_view(self, row: ScheduleRow, next_times: int) -> pb.Schedule:
        view = pb.Schedule.FromString(row.definition)
        view.paused = row.paused
        view.source = "api" if row.file_owner is None else f"file:{row.file_owner}"
        view.created_at.FromDatetime(row.created_at)
        view.updated_at.FromDatetime(row.updated_at)
        if row.next_tick is not None:
            view.next_run_at.FromDatetime(row.next_tick)
        if row.last_tick is not None:
            view.last_run_at.FromDatetime(row.last_tick)
        view.next_run_times.extend(_times(next_ticks(row, next_times)))
        if row.task_ids:
            view.last_task_id = str(uuid.UUID(bytes=row.task_ids[-1]))
        view.last_problem = row.last_problem or ""
        if row.kind not in self._engine.catalog.kinds:
            view.last_problem = f"waits: this server does not know the kind {row.kind!r}"
        view.tasks_made = row.tasks_made
        view.ticks_skipped = row.ticks_skipped
        return view


def _read_id(schedule_id: str) -> str:
    check = Checker("")
    check.queue("schedule_id", schedule_id)
    if check.violations:
        raise InvalidTask(check.violations)
    return schedule_id


def _times(moments: Iterable[datetime]) -> Iterable[Timestamp]:
    for moment in moments:
        time = Timestamp()
        time.FromDatetime(moment)
        yield time
