import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from workerqueue.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_VIEW_UNSPECIFIED: _ClassVar[TaskView]
    TASK_VIEW_BASIC: _ClassVar[TaskView]
    TASK_VIEW_FULL: _ClassVar[TaskView]

class WaitReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_REASON_UNSPECIFIED: _ClassVar[WaitReason]
    WAIT_REASON_RUNNING: _ClassVar[WaitReason]
    WAIT_REASON_FINISHED: _ClassVar[WaitReason]
    WAIT_REASON_SCHEDULED: _ClassVar[WaitReason]
    WAIT_REASON_RETRYING: _ClassVar[WaitReason]
    WAIT_REASON_CONCURRENCY_KEY: _ClassVar[WaitReason]
    WAIT_REASON_JOB_KEY: _ClassVar[WaitReason]
    WAIT_REASON_QUEUE_PAUSED: _ClassVar[WaitReason]
    WAIT_REASON_QUEUE_LIMIT: _ClassVar[WaitReason]
    WAIT_REASON_WORKER_LIMIT: _ClassVar[WaitReason]
    WAIT_REASON_UNKNOWN_KIND: _ClassVar[WaitReason]
    WAIT_REASON_NO_WORKER: _ClassVar[WaitReason]
    WAIT_REASON_WORKERS_DRAINING: _ClassVar[WaitReason]
    WAIT_REASON_WORKERS_BUSY: _ClassVar[WaitReason]
    WAIT_REASON_IN_LINE: _ClassVar[WaitReason]
TASK_VIEW_UNSPECIFIED: TaskView
TASK_VIEW_BASIC: TaskView
TASK_VIEW_FULL: TaskView
WAIT_REASON_UNSPECIFIED: WaitReason
WAIT_REASON_RUNNING: WaitReason
WAIT_REASON_FINISHED: WaitReason
WAIT_REASON_SCHEDULED: WaitReason
WAIT_REASON_RETRYING: WaitReason
WAIT_REASON_CONCURRENCY_KEY: WaitReason
WAIT_REASON_JOB_KEY: WaitReason
WAIT_REASON_QUEUE_PAUSED: WaitReason
WAIT_REASON_QUEUE_LIMIT: WaitReason
WAIT_REASON_WORKER_LIMIT: WaitReason
WAIT_REASON_UNKNOWN_KIND: WaitReason
WAIT_REASON_NO_WORKER: WaitReason
WAIT_REASON_WORKERS_DRAINING: WaitReason
WAIT_REASON_WORKERS_BUSY: WaitReason
WAIT_REASON_IN_LINE: WaitReason

class GetTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class GetTaskResponse(_message.Message):
    __slots__ = ("task", "omitted_fields")
    TASK_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    omitted_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., omitted_fields: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class WatchTaskResponse(_message.Message):
    __slots__ = ("task", "omitted_fields")
    TASK_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    omitted_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., omitted_fields: _Optional[_Iterable[str]] = ...) -> None: ...

class TaskFilter(_message.Message):
    __slots__ = ("states", "kinds", "queues", "concurrency_key", "job_key", "tags", "created_after", "created_before", "finished_after", "finished_before", "worker_id", "error_type")
    STATES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    JOB_KEY_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AFTER_FIELD_NUMBER: _ClassVar[int]
    FINISHED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[_task_pb2.TaskState]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    queues: _containers.RepeatedScalarFieldContainer[str]
    concurrency_key: str
    job_key: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    finished_after: _timestamp_pb2.Timestamp
    finished_before: _timestamp_pb2.Timestamp
    worker_id: str
    error_type: str
    def __init__(self, states: _Optional[_Iterable[_Union[_task_pb2.TaskState, str]]] = ..., kinds: _Optional[_Iterable[str]] = ..., queues: _Optional[_Iterable[str]] = ..., concurrency_key: _Optional[str] = ..., job_key: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finished_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finished_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., worker_id: _Optional[str] = ..., error_type: _Optional[str] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "view")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    page_size: int
    page_token: str
    view: TaskView
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[TaskView, str]] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WhyTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class WhyTaskResponse(_message.Message):
    __slots__ = ("explanation", "reason", "state", "waits_for_task_ids")
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    explanation: str
    reason: WaitReason
    state: _task_pb2.TaskState
    waits_for_task_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, explanation: _Optional[str] = ..., reason: _Optional[_Union[WaitReason, str]] = ..., state: _Optional[_Union[_task_pb2.TaskState, str]] = ..., waits_for_task_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class CancelTaskRequest(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class RetryTaskRequest(_message.Message):
    __slots__ = ("task_id", "attempts")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempts: int
    def __init__(self, task_id: _Optional[str] = ..., attempts: _Optional[int] = ...) -> None: ...

class RetryTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class RescheduleTaskRequest(_message.Message):
    __slots__ = ("task_id", "run_at", "delay", "priority")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_AT_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    run_at: _timestamp_pb2.Timestamp
    delay: _duration_pb2.Duration
    priority: int
    def __init__(self, task_id: _Optional[str] = ..., run_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., priority: _Optional[int] = ...) -> None: ...

class RescheduleTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class DeleteTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class DeleteTaskResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RemoveByJobKeyRequest(_message.Message):
    __slots__ = ("job_key",)
    JOB_KEY_FIELD_NUMBER: _ClassVar[int]
    job_key: str
    def __init__(self, job_key: _Optional[str] = ...) -> None: ...

class RemoveByJobKeyResponse(_message.Message):
    __slots__ = ("cancelled_task_id", "released_task_id")
    CANCELLED_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASED_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    cancelled_task_id: str
    released_task_id: str
    def __init__(self, cancelled_task_id: _Optional[str] = ..., released_task_id: _Optional[str] = ...) -> None: ...

class CancelTasksRequest(_message.Message):
    __slots__ = ("filter", "dry_run", "reason")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    dry_run: bool
    reason: str
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ..., dry_run: bool = ..., reason: _Optional[str] = ...) -> None: ...

class BulkProgress(_message.Message):
    __slots__ = ("examined", "matched", "changed", "done")
    EXAMINED_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    examined: int
    matched: int
    changed: int
    done: bool
    def __init__(self, examined: _Optional[int] = ..., matched: _Optional[int] = ..., changed: _Optional[int] = ..., done: bool = ...) -> None: ...

class CancelTasksResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: BulkProgress
    def __init__(self, progress: _Optional[_Union[BulkProgress, _Mapping]] = ...) -> None: ...

class RetryTasksRequest(_message.Message):
    __slots__ = ("filter", "dry_run", "attempts")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    dry_run: bool
    attempts: int
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ..., dry_run: bool = ..., attempts: _Optional[int] = ...) -> None: ...

class RetryTasksResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: BulkProgress
    def __init__(self, progress: _Optional[_Union[BulkProgress, _Mapping]] = ...) -> None: ...

class DeleteTasksRequest(_message.Message):
    __slots__ = ("filter", "dry_run")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    dry_run: bool
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ..., dry_run: bool = ...) -> None: ...

class DeleteTasksResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: BulkProgress
    def __init__(self, progress: _Optional[_Union[BulkProgress, _Mapping]] = ...) -> None: ...
