from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from workerqueue.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OrganizationCreated(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class IndexEndpoint(_message.Message):
    __slots__ = ("id", "source", "source_data", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DATA_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    source: str
    source_data: _struct_pb2.Value
    reason: str
    def __init__(self, id: _Optional[str] = ..., source: _Optional[str] = ..., source_data: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class ScheduleEmail(_message.Message):
    __slots__ = ("to", "subject", "html", "text")
    TO_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    HTML_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    to: str
    subject: str
    html: str
    text: str
    def __init__(self, to: _Optional[str] = ..., subject: _Optional[str] = ..., html: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class GithubAppInstallationDeleted(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GithubPush(_message.Message):
    __slots__ = ("branch", "commit_sha", "repository")
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SHA_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    branch: str
    commit_sha: str
    repository: str
    def __init__(self, branch: _Optional[str] = ..., commit_sha: _Optional[str] = ..., repository: _Optional[str] = ...) -> None: ...

class StopVM(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StartInitialProjectDeployment(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StartRun(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class PerformRunExecution(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class PerformTaskOperation(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RunFinished(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeliverHttpSourceRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RefreshOAuthToken(_message.Message):
    __slots__ = ("organization_id", "connection_id")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    connection_id: str
    def __init__(self, organization_id: _Optional[str] = ..., connection_id: _Optional[str] = ...) -> None: ...

class RegisterJob(_message.Message):
    __slots__ = ("endpoint_id", "job")
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    job: _struct_pb2.Struct
    def __init__(self, endpoint_id: _Optional[str] = ..., job: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class RegisterSource(_message.Message):
    __slots__ = ("endpoint_id", "source")
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    source: _struct_pb2.Struct
    def __init__(self, endpoint_id: _Optional[str] = ..., source: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class RegisterDynamicTrigger(_message.Message):
    __slots__ = ("endpoint_id", "dynamic_trigger")
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    DYNAMIC_TRIGGER_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    dynamic_trigger: _struct_pb2.Struct
    def __init__(self, endpoint_id: _Optional[str] = ..., dynamic_trigger: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class RegisterDynamicSchedule(_message.Message):
    __slots__ = ("endpoint_id", "dynamic_schedule")
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    DYNAMIC_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    dynamic_schedule: _struct_pb2.Struct
    def __init__(self, endpoint_id: _Optional[str] = ..., dynamic_schedule: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ActivateSource(_message.Message):
    __slots__ = ("id", "orphaned_events")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORPHANED_EVENTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    orphaned_events: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., orphaned_events: _Optional[_Iterable[str]] = ...) -> None: ...

class StartQueuedRuns(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeliverEvent(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class InvokeDispatcher(_message.Message):
    __slots__ = ("id", "event_record_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    event_record_id: str
    def __init__(self, id: _Optional[str] = ..., event_record_id: _Optional[str] = ...) -> None: ...

class DeliverScheduled(_message.Message):
    __slots__ = ("id", "payload")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    id: str
    payload: _struct_pb2.Value
    def __init__(self, id: _Optional[str] = ..., payload: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class MissingConnectionCreated(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ConnectionCreated(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...
