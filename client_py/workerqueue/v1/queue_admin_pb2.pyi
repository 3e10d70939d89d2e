import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from workerqueue.v1 import policy_pb2 as _policy_pb2
from workerqueue.v1 import task_admin_pb2 as _task_admin_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Queue(_message.Message):
    __slots__ = ("name", "max_in_flight_per_worker", "max_in_flight", "operator_limits", "paused", "created_at", "statistics")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_LIMITS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_in_flight_per_worker: int
    max_in_flight: int
    operator_limits: bool
    paused: bool
    created_at: _timestamp_pb2.Timestamp
    statistics: QueueStatistics
    def __init__(self, name: _Optional[str] = ..., max_in_flight_per_worker: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., operator_limits: bool = ..., paused: bool = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., statistics: _Optional[_Union[QueueStatistics, _Mapping]] = ...) -> None: ...

class QueueStatistics(_message.Message):
    __slots__ = ("tasks_by_state", "oldest_available_age", "last_minute", "last_hour", "kinds")
    class TasksByStateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TASKS_BY_STATE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AVAILABLE_AGE_FIELD_NUMBER: _ClassVar[int]
    LAST_MINUTE_FIELD_NUMBER: _ClassVar[int]
    LAST_HOUR_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    tasks_by_state: _containers.ScalarMap[str, int]
    oldest_available_age: _duration_pb2.Duration
    last_minute: QueueRates
    last_hour: QueueRates
    kinds: _containers.RepeatedCompositeFieldContainer[KindStatistics]
    def __init__(self, tasks_by_state: _Optional[_Mapping[str, int]] = ..., oldest_available_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., last_minute: _Optional[_Union[QueueRates, _Mapping]] = ..., last_hour: _Optional[_Union[QueueRates, _Mapping]] = ..., kinds: _Optional[_Iterable[_Union[KindStatistics, _Mapping]]] = ...) -> None: ...

class QueueRates(_message.Message):
    __slots__ = ("enqueued", "started", "succeeded", "retried", "died", "dropped")
    ENQUEUED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    RETRIED_FIELD_NUMBER: _ClassVar[int]
    DIED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    enqueued: float
    started: float
    succeeded: float
    retried: float
    died: float
    dropped: float
    def __init__(self, enqueued: _Optional[float] = ..., started: _Optional[float] = ..., succeeded: _Optional[float] = ..., retried: _Optional[float] = ..., died: _Optional[float] = ..., dropped: _Optional[float] = ...) -> None: ...

class KindStatistics(_message.Message):
    __slots__ = ("kind", "tasks_by_state")
    class TasksByStateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASKS_BY_STATE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    tasks_by_state: _containers.ScalarMap[str, int]
    def __init__(self, kind: _Optional[str] = ..., tasks_by_state: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ListQueuesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListQueuesResponse(_message.Message):
    __slots__ = ("queues", "next_page_token")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[Queue]
    next_page_token: str
    def __init__(self, queues: _Optional[_Iterable[_Union[Queue, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetQueueRequest(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    def __init__(self, queue: _Optional[str] = ...) -> None: ...

class GetQueueResponse(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ...) -> None: ...

class UpdateQueueRequest(_message.Message):
    __slots__ = ("queue", "max_in_flight_per_worker", "max_in_flight", "reset_to_declaration", "allow_missing")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    RESET_TO_DECLARATION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    queue: str
    max_in_flight_per_worker: int
    max_in_flight: int
    reset_to_declaration: bool
    allow_missing: bool
    def __init__(self, queue: _Optional[str] = ..., max_in_flight_per_worker: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., reset_to_declaration: bool = ..., allow_missing: bool = ...) -> None: ...

class UpdateQueueResponse(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ...) -> None: ...

class PauseQueueRequest(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    def __init__(self, queue: _Optional[str] = ...) -> None: ...

class PauseQueueResponse(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ...) -> None: ...

class ResumeQueueRequest(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    def __init__(self, queue: _Optional[str] = ...) -> None: ...

class ResumeQueueResponse(_message.Message):
    __slots__ = ("queue",)
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ...) -> None: ...

class PurgeQueueRequest(_message.Message):
    __slots__ = ("queue", "dry_run")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    queue: str
    dry_run: bool
    def __init__(self, queue: _Optional[str] = ..., dry_run: bool = ...) -> None: ...

class PurgeQueueResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: _task_admin_pb2.BulkProgress
    def __init__(self, progress: _Optional[_Union[_task_admin_pb2.BulkProgress, _Mapping]] = ...) -> None: ...

class TaskKind(_message.Message):
    __slots__ = ("kind", "payload_type", "policy", "known_here", "fields", "example_json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_TYPE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    KNOWN_HERE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    payload_type: str
    policy: _policy_pb2.TaskPolicy
    known_here: bool
    fields: _containers.RepeatedCompositeFieldContainer[PayloadField]
    example_json: str
    def __init__(self, kind: _Optional[str] = ..., payload_type: _Optional[str] = ..., policy: _Optional[_Union[_policy_pb2.TaskPolicy, _Mapping]] = ..., known_here: bool = ..., fields: _Optional[_Iterable[_Union[PayloadField, _Mapping]]] = ..., example_json: _Optional[str] = ...) -> None: ...

class PayloadField(_message.Message):
    __slots__ = ("json_name", "name", "type", "allowed_values")
    JSON_NAME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_VALUES_FIELD_NUMBER: _ClassVar[int]
    json_name: str
    name: str
    type: str
    allowed_values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, json_name: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[str] = ..., allowed_values: _Optional[_Iterable[str]] = ...) -> None: ...

class ListKindsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListKindsResponse(_message.Message):
    __slots__ = ("kinds", "next_page_token")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedCompositeFieldContainer[TaskKind]
    next_page_token: str
    def __init__(self, kinds: _Optional[_Iterable[_Union[TaskKind, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
