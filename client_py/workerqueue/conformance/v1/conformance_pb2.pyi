import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from workerqueue.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Script(_message.Message):
    __slots__ = ("text", "turns")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    text: str
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    def __init__(self, text: _Optional[str] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("checkpoint", "work", "fail")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    work: _duration_pb2.Duration
    fail: Failure
    def __init__(self, checkpoint: _Optional[str] = ..., work: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., fail: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("message", "retry_after", "permanent")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    PERMANENT_FIELD_NUMBER: _ClassVar[int]
    message: str
    retry_after: _duration_pb2.Duration
    permanent: bool
    def __init__(self, message: _Optional[str] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., permanent: bool = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("number", "lines")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    number: int
    lines: _containers.RepeatedCompositeFieldContainer[OrderLine]
    def __init__(self, number: _Optional[int] = ..., lines: _Optional[_Iterable[_Union[OrderLine, _Mapping]]] = ...) -> None: ...

class OrderLine(_message.Message):
    __slots__ = ("article", "count", "cents")
    ARTICLE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CENTS_FIELD_NUMBER: _ClassVar[int]
    article: str
    count: int
    cents: int
    def __init__(self, article: _Optional[str] = ..., count: _Optional[int] = ..., cents: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("text", "checkpoint", "attempt")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    text: str
    checkpoint: str
    attempt: int
    def __init__(self, text: _Optional[str] = ..., checkpoint: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class Mark(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
