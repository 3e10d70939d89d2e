"""Which RPC is whose: every method of every service that this server registers."""

from __future__ import annotations

from workerqueue_server.queue.access import Role

_PRODUCER = frozenset({Role.PRODUCER})
_WORKER = frozenset({Role.WORKER})
_OPERATOR = frozenset({Role.OPERATOR})
_TASKS = frozenset({Role.PRODUCER, Role.OPERATOR})
_ALL = frozenset(Role)

# No token: probes have none, and they learn nothing but up or down.
OPEN = frozenset[Role]()

_QUEUE = "/workerqueue.v1.WorkerQueue/"
_ADMIN = "/workerqueue.v1.WorkerQueueAdmin/"
_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"

# Roles by method; one of them is enough. What is not here is refused to everybody.
ROLES: dict[str, frozenset[Role]] = {
    # An operator enqueues by TriggerSchedule and RetryTask alone: what a payload says is the
    # producers' business.
    _QUEUE + "Enqueue": _PRODUCER,
    _QUEUE + "EnqueueBatch": _PRODUCER,
    _QUEUE + "Lease": _WORKER,
    _QUEUE + "Ack": _WORKER,
    _QUEUE + "Nack": _WORKER,
    _QUEUE + "Heartbeat": _WORKER,
    # A producer waits for results and takes back what it asked for, within its scope.
    _ADMIN + "GetTask": _TASKS,
    _ADMIN + "WatchTask": _TASKS,
    _ADMIN + "CancelTask": _TASKS,
    _ADMIN + "RemoveByJobKey": _TASKS,
    # The contract, as reflection tells it.
    _ADMIN + "ListKinds": _ALL,
    **dict.fromkeys(
        (
            _ADMIN + name
            for name in (
                *("ListTasks", "WhyTask", "RetryTask", "RescheduleTask", "DeleteTask"),
                *("CancelTasks", "RetryTasks", "DeleteTasks"),
                *("ListQueues", "GetQueue", "UpdateQueue", "PauseQueue", "ResumeQueue"),
                *("PurgeQueue", "ListWorkers", "DrainWorker", "ResumeWorker"),
                *("CreateSchedule", "UpdateSchedule", "GetSchedule", "ListSchedules"),
                *("DeleteSchedule", "PauseSchedule", "ResumeSchedule", "TriggerSchedule"),
            )
        ),
        _OPERATOR,
    ),
    _HEALTH + "Check": OPEN,
    _HEALTH + "Watch": OPEN,
    _HEALTH + "List": OPEN,
    # It names the kinds of everybody, and so wants a token, but any.
    _REFLECTION + "ServerReflectionInfo": _ALL,
}
