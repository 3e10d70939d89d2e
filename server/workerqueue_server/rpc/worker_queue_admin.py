"""The WorkerQueueAdmin service, put together from its parts."""

from __future__ import annotations

from typing import Any

import grpc

from workerqueue.v1 import worker_queue_admin_pb2
from workerqueue_server.queue.engine import Engine
from workerqueue_server.rpc.kind_admin import KindAdminMethods
from workerqueue_server.rpc.queue_admin import QueueAdminMethods
from workerqueue_server.rpc.schedule_admin import ScheduleAdminMethods
from workerqueue_server.rpc.task_admin import TaskAdminMethods
from workerqueue_server.rpc.worker_admin import WorkerAdminMethods


class WorkerQueueAdminService:
    """The operator's service."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            **TaskAdminMethods(engine).handlers(),
            **ScheduleAdminMethods(engine).handlers(),
            **QueueAdminMethods(engine).handlers(),
            **KindAdminMethods(engine).handlers(),
            **WorkerAdminMethods(engine).handlers(),
        }

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's handlers, to register with a server."""
        service = worker_queue_admin_pb2.DESCRIPTOR.services_by_name["WorkerQueueAdmin"]
        return grpc.method_handlers_generic_handler(service.full_name, self._methods)

    def drain(self) -> None:
        """Ends the streams: this server is going away."""
        self._engine.watcher.drain()
