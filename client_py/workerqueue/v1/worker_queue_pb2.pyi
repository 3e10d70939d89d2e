import datetime

from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from workerqueue.v1 import lease_pb2 as _lease_pb2
from workerqueue.v1 import policy_pb2 as _policy_pb2
from workerqueue.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UniqueConflict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNIQUE_CONFLICT_UNSPECIFIED: _ClassVar[UniqueConflict]
    UNIQUE_CONFLICT_KEEP_EXISTING: _ClassVar[UniqueConflict]
    UNIQUE_CONFLICT_FAIL: _ClassVar[UniqueConflict]

class EnqueueOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENQUEUE_OUTCOME_UNSPECIFIED: _ClassVar[EnqueueOutcome]
    ENQUEUE_OUTCOME_CREATED: _ClassVar[EnqueueOutcome]
    ENQUEUE_OUTCOME_ALREADY_EXISTED: _ClassVar[EnqueueOutcome]
    ENQUEUE_OUTCOME_REPLACED: _ClassVar[EnqueueOutcome]
    ENQUEUE_OUTCOME_KEPT: _ClassVar[EnqueueOutcome]
UNIQUE_CONFLICT_UNSPECIFIED: UniqueConflict
UNIQUE_CONFLICT_KEEP_EXISTING: UniqueConflict
UNIQUE_CONFLICT_FAIL: UniqueConflict
ENQUEUE_OUTCOME_UNSPECIFIED: EnqueueOutcome
ENQUEUE_OUTCOME_CREATED: EnqueueOutcome
ENQUEUE_OUTCOME_ALREADY_EXISTED: EnqueueOutcome
ENQUEUE_OUTCOME_REPLACED: EnqueueOutcome
ENQUEUE_OUTCOME_KEPT: EnqueueOutcome

class EnqueueRequest(_message.Message):
    __slots__ = ("task_id", "payload", "dynamic", "options")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DYNAMIC_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    payload: _any_pb2.Any
    dynamic: DynamicPayload
    options: TaskOptions
    def __init__(self, task_id: _Optional[str] = ..., payload: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., dynamic: _Optional[_Union[DynamicPayload, _Mapping]] = ..., options: _Optional[_Union[TaskOptions, _Mapping]] = ...) -> None: ...

class DynamicPayload(_message.Message):
    __slots__ = ("kind", "args")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    args: _struct_pb2.Struct
    def __init__(self, kind: _Optional[str] = ..., args: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class TaskOptions(_message.Message):
    __slots__ = ("queue", "priority", "max_attempts", "timeout", "lease_duration", "run_at", "delay", "expire_at", "concurrency_key", "concurrency_limit", "retry", "retention", "tags", "metadata", "job_key", "job_key_mode", "unique")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    RUN_AT_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AT_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    JOB_KEY_FIELD_NUMBER: _ClassVar[int]
    JOB_KEY_MODE_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    priority: int
    max_attempts: int
    timeout: _duration_pb2.Duration
    lease_duration: _duration_pb2.Duration
    run_at: _timestamp_pb2.Timestamp
    delay: _duration_pb2.Duration
    expire_at: _timestamp_pb2.Timestamp
    concurrency_key: str
    concurrency_limit: int
    retry: _policy_pb2.RetryPolicy
    retention: _policy_pb2.RetentionPolicy
    tags: _containers.RepeatedScalarFieldContainer[str]
    metadata: _containers.ScalarMap[str, str]
    job_key: str
    job_key_mode: _policy_pb2.JobKeyMode
    unique: Unique
    def __init__(self, queue: _Optional[str] = ..., priority: _Optional[int] = ..., max_attempts: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., run_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expire_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., concurrency_key: _Optional[str] = ..., concurrency_limit: _Optional[int] = ..., retry: _Optional[_Union[_policy_pb2.RetryPolicy, _Mapping]] = ..., retention: _Optional[_Union[_policy_pb2.RetentionPolicy, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., job_key: _Optional[str] = ..., job_key_mode: _Optional[_Union[_policy_pb2.JobKeyMode, str]] = ..., unique: _Optional[_Union[Unique, _Mapping]] = ...) -> None: ...

class Unique(_message.Message):
    __slots__ = ("by_args", "by_fields", "by_queue", "by_period", "by_states", "on_conflict")
    BY_ARGS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELDS_FIELD_NUMBER: _ClassVar[int]
    BY_QUEUE_FIELD_NUMBER: _ClassVar[int]
    BY_PERIOD_FIELD_NUMBER: _ClassVar[int]
    BY_STATES_FIELD_NUMBER: _ClassVar[int]
    ON_CONFLICT_FIELD_NUMBER: _ClassVar[int]
    by_args: bool
    by_fields: _containers.RepeatedScalarFieldContainer[str]
    by_queue: bool
    by_period: _duration_pb2.Duration
    by_states: _containers.RepeatedScalarFieldContainer[_task_pb2.TaskState]
    on_conflict: UniqueConflict
    def __init__(self, by_args: bool = ..., by_fields: _Optional[_Iterable[str]] = ..., by_queue: bool = ..., by_period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., by_states: _Optional[_Iterable[_Union[_task_pb2.TaskState, str]]] = ..., on_conflict: _Optional[_Union[UniqueConflict, str]] = ...) -> None: ...

class EnqueueResponse(_message.Message):
    __slots__ = ("task", "outcome")
    TASK_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    outcome: EnqueueOutcome
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., outcome: _Optional[_Union[EnqueueOutcome, str]] = ...) -> None: ...

class EnqueueBatchRequest(_message.Message):
    __slots__ = ("tasks", "all_or_nothing", "include_tasks")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ALL_OR_NOTHING_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[EnqueueRequest]
    all_or_nothing: bool
    include_tasks: bool
    def __init__(self, tasks: _Optional[_Iterable[_Union[EnqueueRequest, _Mapping]]] = ..., all_or_nothing: bool = ..., include_tasks: bool = ...) -> None: ...

class EnqueueBatchResult(_message.Message):
    __slots__ = ("task_id", "outcome", "error", "task")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    outcome: EnqueueOutcome
    error: _status_pb2.Status
    task: _task_pb2.Task
    def __init__(self, task_id: _Optional[str] = ..., outcome: _Optional[_Union[EnqueueOutcome, str]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class EnqueueBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EnqueueBatchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[EnqueueBatchResult, _Mapping]]] = ...) -> None: ...
