import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobKeyMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_KEY_MODE_UNSPECIFIED: _ClassVar[JobKeyMode]
    JOB_KEY_MODE_REPLACE: _ClassVar[JobKeyMode]
    JOB_KEY_MODE_PRESERVE_RUN_AT: _ClassVar[JobKeyMode]
    JOB_KEY_MODE_UNSAFE_DEDUPE: _ClassVar[JobKeyMode]
JOB_KEY_MODE_UNSPECIFIED: JobKeyMode
JOB_KEY_MODE_REPLACE: JobKeyMode
JOB_KEY_MODE_PRESERVE_RUN_AT: JobKeyMode
JOB_KEY_MODE_UNSAFE_DEDUPE: JobKeyMode
TASK_FIELD_NUMBER: _ClassVar[int]
task: _descriptor.FieldDescriptor
QUEUES_FIELD_NUMBER: _ClassVar[int]
queues: _descriptor.FieldDescriptor

class TaskPolicy(_message.Message):
    __slots__ = ("kind", "queue", "priority", "max_attempts", "timeout", "lease_duration", "concurrency_key", "concurrency_limit", "retry", "retention", "job_key", "job_key_mode")
    KIND_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    JOB_KEY_FIELD_NUMBER: _ClassVar[int]
    JOB_KEY_MODE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    queue: str
    priority: int
    max_attempts: int
    timeout: _duration_pb2.Duration
    lease_duration: _duration_pb2.Duration
    concurrency_key: str
    concurrency_limit: int
    retry: RetryPolicy
    retention: RetentionPolicy
    job_key: str
    job_key_mode: JobKeyMode
    def __init__(self, kind: _Optional[str] = ..., queue: _Optional[str] = ..., priority: _Optional[int] = ..., max_attempts: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., concurrency_key: _Optional[str] = ..., concurrency_limit: _Optional[int] = ..., retry: _Optional[_Union[RetryPolicy, _Mapping]] = ..., retention: _Optional[_Union[RetentionPolicy, _Mapping]] = ..., job_key: _Optional[str] = ..., job_key_mode: _Optional[_Union[JobKeyMode, str]] = ...) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("initial_backoff", "multiplier", "max_backoff", "jitter")
    INITIAL_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    initial_backoff: _duration_pb2.Duration
    multiplier: float
    max_backoff: _duration_pb2.Duration
    jitter: float
    def __init__(self, initial_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., multiplier: _Optional[float] = ..., max_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., jitter: _Optional[float] = ...) -> None: ...

class RetentionPolicy(_message.Message):
    __slots__ = ("succeeded", "dead", "cancelled", "expired")
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    succeeded: _duration_pb2.Duration
    dead: _duration_pb2.Duration
    cancelled: _duration_pb2.Duration
    expired: _duration_pb2.Duration
    def __init__(self, succeeded: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., dead: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cancelled: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expired: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class QueuePolicy(_message.Message):
    __slots__ = ("name", "max_in_flight_per_worker", "max_in_flight")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_in_flight_per_worker: int
    max_in_flight: int
    def __init__(self, name: _Optional[str] = ..., max_in_flight_per_worker: _Optional[int] = ..., max_in_flight: _Optional[int] = ...) -> None: ...
