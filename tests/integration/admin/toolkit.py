"""An operator on nothing but the stubs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.toolkit import DEADLINE_SECONDS, Api, within
from workerqueue.v1 import queue_admin_pb2, task_admin_pb2, task_pb2
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

SCHEDULED = task_pb2.TASK_STATE_SCHEDULED
AVAILABLE = task_pb2.TASK_STATE_AVAILABLE
BLOCKED = task_pb2.TASK_STATE_BLOCKED
LEASED = task_pb2.TASK_STATE_LEASED
RETRYING = task_pb2.TASK_STATE_RETRYING
SUCCEEDED = task_pb2.TASK_STATE_SUCCEEDED
DEAD = task_pb2.TASK_STATE_DEAD
CANCELLED = task_pb2.TASK_STATE_CANCELLED
EXPIRED = task_pb2.TASK_STATE_EXPIRED


class Admin:
    """The calls of WorkerQueueAdmin."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.stub = WorkerQueueAdminStub(api.channel)

    async def get(self, task_id: str) -> task_pb2.Task:
        """A task with its attempts."""
        request = task_admin_pb2.GetTaskRequest(task_id=task_id)
        return (await self.stub.GetTask(request, timeout=DEADLINE_SECONDS)).task

    async def state(self, task_id: str) -> task_pb2.TaskState:
        """A task's state."""
        return (await self.get(task_id)).state

    async def cancel(self, task_id: str, reason: str = "") -> task_pb2.Task:
        """Cancels."""
        request = task_admin_pb2.CancelTaskRequest(task_id=task_id, reason=reason)
        return (await self.stub.CancelTask(request, timeout=DEADLINE_SECONDS)).task

    async def retry(self, task_id: str, attempts: int = 0) -> task_pb2.Task:
        """Retries."""
        request = task_admin_pb2.RetryTaskRequest(task_id=task_id, attempts=attempts)
        return (await self.stub.RetryTask(request, timeout=DEADLINE_SECONDS)).task

    async def delete(self, task_id: str) -> None:
        """Deletes."""
        request = task_admin_pb2.DeleteTaskRequest(task_id=task_id)
        await self.stub.DeleteTask(request, timeout=DEADLINE_SECONDS)

    async def reschedule(self, task_id: str, **fields: Any) -> task_pb2.Task:
        """Reschedules."""
        request = task_admin_pb2.RescheduleTaskRequest(task_id=task_id, **fields)
        return (await self.stub.RescheduleTask(request, timeout=DEADLINE_SECONDS)).task

    async def why(self, task_id: str) -> task_admin_pb2.WhyTaskResponse:
        """Why a task does not run."""
        request = task_admin_pb2.WhyTaskRequest(task_id=task_id)
        return await self.stub.WhyTask(request, timeout=DEADLINE_SECONDS)

    async def page(
        self, *, size: int = 0, token: str = "", view: int = 0, **task_filter: Any
    ) -> task_admin_pb2.ListTasksResponse:
        """One page of tasks."""
        request = task_admin_pb2.ListTasksRequest(
            filter=task_admin_pb2.TaskFilter(**task_filter),
            page_size=size,
            page_token=token,
            view=view,  # type: ignore[arg-type]
        )
        return await self.stub.ListTasks(request, timeout=DEADLINE_SECONDS)

    async def pages(
        self, *, size: int = 0, view: int = 0, **task_filter: Any
    ) -> AsyncIterator[list[task_pb2.Task]]:
        """All pages."""
        token = ""
        while True:
            page = await self.page(size=size, token=token, view=view, **task_filter)
            yield list(page.tasks)
            token = page.next_page_token
            if not token:
                return

    async def ids(self, *, size: int = 0, **task_filter: Any) -> list[str]:
        """Ids of all tasks that fit, in the order of the list."""
        pages = self.pages(size=size, **task_filter)
        return [task.task_id async for page in pages for task in page]

    async def bulk(self, call: Any) -> task_admin_pb2.BulkProgress:
        """The last progress of a bulk operation."""
        steps: list[task_admin_pb2.BulkProgress] = [answer.progress async for answer in call]
        assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
        for name in ("examined", "matched", "changed"):
            counts = [getattr(step, name) for step in steps]
            assert counts == sorted(counts)
        return steps[-1]

    async def queue(self, name: str) -> queue_admin_pb2.Queue:
        """A queue."""
        request = queue_admin_pb2.GetQueueRequest(queue=name)
        return (await self.stub.GetQueue(request, timeout=DEADLINE_SECONDS)).queue

    async def depths(self, name: str) -> dict[str, int]:
        """A queue's tasks by state."""
        return dict((await self.queue(name)).statistics.tasks_by_state)

    async def update_queue(self, name: str, **fields: Any) -> queue_admin_pb2.Queue:
        """Changes a queue's limits."""
        request = queue_admin_pb2.UpdateQueueRequest(queue=name, **fields)
        return (await self.stub.UpdateQueue(request, timeout=DEADLINE_SECONDS)).queue

    async def die(self, queue: str, **options: Any) -> str:
        """Enqueues a task that dies at its only attempt; its id."""
        task = await self.api.enqueue(queue=queue, **options)
        (leased,) = await self.api.take(queue, 1)
        assert leased.task_id == task.task_id
        await self.api.fail(
            leased.lease_token,
            error=task_pb2.TaskError(type="Boom", message="it broke", trace="line 1"),
            permanent=True,
        )
        return task.task_id

    @asynccontextmanager
    async def watched(self, task_id: str) -> AsyncIterator[Watched]:
        """A task as it changes."""
        watched = Watched(self, task_id)
        try:
            yield watched
        finally:
            watched.call.cancel()


class Watched:
    """One WatchTask call."""

    def __init__(self, admin: Admin, task_id: str) -> None:
        self.call = admin.stub.WatchTask(
            task_admin_pb2.WatchTaskRequest(task_id=task_id), timeout=DEADLINE_SECONDS
        )
        self._answers = aiter(self.call)

    async def next(self) -> task_pb2.Task:
        """The task after the next change."""
        answer: task_admin_pb2.WatchTaskResponse = await within(anext(self._answers))
        return answer.task

    async def until(self, state: task_pb2.TaskState) -> task_pb2.Task:
        """The task when it reaches the state."""
        while True:
            task = await self.next()
            if task.state == state:
                return task

    async def rest(self) -> Sequence[task_pb2.Task]:
        """What comes until the stream ends."""
        return [answer.task async for answer in self._answers]
