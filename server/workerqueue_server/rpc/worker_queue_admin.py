"""The WorkerQueueAdmin service."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from workerqueue.v1 import task_admin_pb2, worker_queue_admin_pb2
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.errors import TaskNotFound
from workerqueue_server.rpc.handlers import Context, server_stream, unary
from workerqueue_server.rpc.task_details import task_details
from workerqueue_server.rpc.task_ids import read_task_id


class WorkerQueueAdminService:
    """Validates, calls the engine, answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's handlers, to register with a server."""
        service = worker_queue_admin_pb2.DESCRIPTOR.services_by_name["WorkerQueueAdmin"]
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                "GetTask": unary(self.get_task, task_admin_pb2.GetTaskRequest),
                "WatchTask": server_stream(self.watch_task, task_admin_pb2.WatchTaskRequest),
            },
        )

    def drain(self) -> None:
        """Ends the streams: this server is going away."""
        self._engine.watcher.drain()

    async def get_task(
        self, request: task_admin_pb2.GetTaskRequest, _: Context
    ) -> task_admin_pb2.GetTaskResponse:
        """GetTask."""
        task_id = read_task_id(request.task_id)
        snapshot = (await self._engine.reads.snapshots([task_id])).get(task_id)
        if snapshot is None:
            raise TaskNotFound(f"there is no task {request.task_id}", task_id=request.task_id)
        task, omitted = task_details(snapshot, self._engine.catalog)
        return task_admin_pb2.GetTaskResponse(task=task, omitted_fields=omitted)

    async def watch_task(
        self, request: task_admin_pb2.WatchTaskRequest, _: Context
    ) -> AsyncGenerator[task_admin_pb2.WatchTaskResponse, None]:
        """WatchTask."""
        task_id = read_task_id(request.task_id)
        async with aclosing(self._engine.watcher.watch(task_id)) as snapshots:
            async for snapshot in snapshots:
                task, omitted = task_details(snapshot, self._engine.catalog)
                yield task_admin_pb2.WatchTaskResponse(task=task, omitted_fields=omitted)
