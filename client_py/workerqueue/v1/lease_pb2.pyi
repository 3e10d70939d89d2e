import datetime

from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from workerqueue.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeaseOperation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_OPERATION_UNSPECIFIED: _ClassVar[LeaseOperation]
    LEASE_OPERATION_ACK: _ClassVar[LeaseOperation]
    LEASE_OPERATION_NACK: _ClassVar[LeaseOperation]
    LEASE_OPERATION_HEARTBEAT: _ClassVar[LeaseOperation]

class CancellationReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANCELLATION_REASON_UNSPECIFIED: _ClassVar[CancellationReason]
    CANCELLATION_REASON_CANCELLED: _ClassVar[CancellationReason]
    CANCELLATION_REASON_TIMED_OUT: _ClassVar[CancellationReason]
    CANCELLATION_REASON_LEASE_LOST: _ClassVar[CancellationReason]
LEASE_OPERATION_UNSPECIFIED: LeaseOperation
LEASE_OPERATION_ACK: LeaseOperation
LEASE_OPERATION_NACK: LeaseOperation
LEASE_OPERATION_HEARTBEAT: LeaseOperation
CANCELLATION_REASON_UNSPECIFIED: CancellationReason
CANCELLATION_REASON_CANCELLED: CancellationReason
CANCELLATION_REASON_TIMED_OUT: CancellationReason
CANCELLATION_REASON_LEASE_LOST: CancellationReason

class LeaseRequest(_message.Message):
    __slots__ = ("subscribe", "max_in_flight", "acks", "nacks", "heartbeats", "drain")
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    NACKS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEATS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    subscribe: Subscribe
    max_in_flight: int
    acks: _containers.RepeatedCompositeFieldContainer[AckRequest]
    nacks: _containers.RepeatedCompositeFieldContainer[NackRequest]
    heartbeats: _containers.RepeatedCompositeFieldContainer[HeartbeatRequest]
    drain: bool
    def __init__(self, subscribe: _Optional[_Union[Subscribe, _Mapping]] = ..., max_in_flight: _Optional[int] = ..., acks: _Optional[_Iterable[_Union[AckRequest, _Mapping]]] = ..., nacks: _Optional[_Iterable[_Union[NackRequest, _Mapping]]] = ..., heartbeats: _Optional[_Iterable[_Union[HeartbeatRequest, _Mapping]]] = ..., drain: bool = ...) -> None: ...

class Subscribe(_message.Message):
    __slots__ = ("worker_id", "queues", "kinds", "max_in_flight", "lease_duration", "protocol_version", "held_lease_tokens")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    HELD_LEASE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    queues: _containers.RepeatedScalarFieldContainer[str]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    max_in_flight: int
    lease_duration: _duration_pb2.Duration
    protocol_version: int
    held_lease_tokens: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, worker_id: _Optional[str] = ..., queues: _Optional[_Iterable[str]] = ..., kinds: _Optional[_Iterable[str]] = ..., max_in_flight: _Optional[int] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., protocol_version: _Optional[int] = ..., held_lease_tokens: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LeaseResponse(_message.Message):
    __slots__ = ("welcome", "tasks", "results", "cancellations", "drain")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CANCELLATIONS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    tasks: _containers.RepeatedCompositeFieldContainer[LeasedTask]
    results: _containers.RepeatedCompositeFieldContainer[LeaseResult]
    cancellations: _containers.RepeatedCompositeFieldContainer[Cancellation]
    drain: Drain
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[LeasedTask, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[LeaseResult, _Mapping]]] = ..., cancellations: _Optional[_Iterable[_Union[Cancellation, _Mapping]]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "heartbeat_interval", "max_in_flight", "queue_windows", "held_leases", "server_id", "protocol_version")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    HELD_LEASES_FIELD_NUMBER: _ClassVar[int]
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    heartbeat_interval: _duration_pb2.Duration
    max_in_flight: int
    queue_windows: _containers.RepeatedCompositeFieldContainer[QueueWindow]
    held_leases: _containers.RepeatedCompositeFieldContainer[HeldLease]
    server_id: str
    protocol_version: int
    def __init__(self, session_id: _Optional[str] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_in_flight: _Optional[int] = ..., queue_windows: _Optional[_Iterable[_Union[QueueWindow, _Mapping]]] = ..., held_leases: _Optional[_Iterable[_Union[HeldLease, _Mapping]]] = ..., server_id: _Optional[str] = ..., protocol_version: _Optional[int] = ...) -> None: ...

class QueueWindow(_message.Message):
    __slots__ = ("queue", "max_in_flight")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    queue: str
    max_in_flight: int
    def __init__(self, queue: _Optional[str] = ..., max_in_flight: _Optional[int] = ...) -> None: ...

class HeldLease(_message.Message):
    __slots__ = ("lease_token", "alive", "lease_expires_at")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    LEASE_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    alive: bool
    lease_expires_at: _timestamp_pb2.Timestamp
    def __init__(self, lease_token: _Optional[bytes] = ..., alive: bool = ..., lease_expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LeasedTask(_message.Message):
    __slots__ = ("lease_token", "task_id", "kind", "payload", "attempt", "max_attempts", "queue", "timeout", "lease_duration", "created_at", "metadata", "checkpoint", "concurrency_key", "priority")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    task_id: str
    kind: str
    payload: _any_pb2.Any
    attempt: int
    max_attempts: int
    queue: str
    timeout: _duration_pb2.Duration
    lease_duration: _duration_pb2.Duration
    created_at: _timestamp_pb2.Timestamp
    metadata: _containers.ScalarMap[str, str]
    checkpoint: _any_pb2.Any
    concurrency_key: str
    priority: int
    def __init__(self, lease_token: _Optional[bytes] = ..., task_id: _Optional[str] = ..., kind: _Optional[str] = ..., payload: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., attempt: _Optional[int] = ..., max_attempts: _Optional[int] = ..., queue: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., checkpoint: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., concurrency_key: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class LeaseResult(_message.Message):
    __slots__ = ("lease_token", "operation", "error")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    operation: LeaseOperation
    error: _status_pb2.Status
    def __init__(self, lease_token: _Optional[bytes] = ..., operation: _Optional[_Union[LeaseOperation, str]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Cancellation(_message.Message):
    __slots__ = ("lease_token", "reason")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    reason: CancellationReason
    def __init__(self, lease_token: _Optional[bytes] = ..., reason: _Optional[_Union[CancellationReason, str]] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("grace",)
    GRACE_FIELD_NUMBER: _ClassVar[int]
    grace: _duration_pb2.Duration
    def __init__(self, grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AckRequest(_message.Message):
    __slots__ = ("lease_token", "result")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    result: _any_pb2.Any
    def __init__(self, lease_token: _Optional[bytes] = ..., result: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class AckResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NackRequest(_message.Message):
    __slots__ = ("lease_token", "fail", "release", "snooze")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SNOOZE_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    fail: Fail
    release: Release
    snooze: Snooze
    def __init__(self, lease_token: _Optional[bytes] = ..., fail: _Optional[_Union[Fail, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., snooze: _Optional[_Union[Snooze, _Mapping]] = ...) -> None: ...

class Fail(_message.Message):
    __slots__ = ("error", "retry_after", "permanent")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    PERMANENT_FIELD_NUMBER: _ClassVar[int]
    error: _task_pb2.TaskError
    retry_after: _duration_pb2.Duration
    permanent: bool
    def __init__(self, error: _Optional[_Union[_task_pb2.TaskError, _Mapping]] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., permanent: bool = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Snooze(_message.Message):
    __slots__ = ("delay",)
    DELAY_FIELD_NUMBER: _ClassVar[int]
    delay: _duration_pb2.Duration
    def __init__(self, delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class NackResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("lease_token", "progress", "checkpoint")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    progress: _task_pb2.Progress
    checkpoint: _any_pb2.Any
    def __init__(self, lease_token: _Optional[bytes] = ..., progress: _Optional[_Union[_task_pb2.Progress, _Mapping]] = ..., checkpoint: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("lease_expires_at",)
    LEASE_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    lease_expires_at: _timestamp_pb2.Timestamp
    def __init__(self, lease_expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
