"""Requests that are valid but odd, and bytes that are no requests at all, made from descriptors.

Nothing here names a field of a message by its place: a new RPC or field is covered when it is
added. Hints by field name only make it likelier that a request passes the first checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, worker_queue_admin_pb2, worker_queue_pb2
from workerqueue_server.queue.varint import varint

_DEPTH = 5
# Protobuf's own limit of nesting is 100.
_NESTINGS = (1, 2, 3, 10, 40, 90, 99, 100, 101, 400, 4_000)
# Most of what is not one of UTF-8's surrogates.
_CODE_POINTS = [*range(0x250), *range(0x2000, 0x2070), 0xFFFD, 0xFFFF, 0x1F4A5, 0x10FFFF]


@dataclass
class Known:
    """What exists on the server, for requests that get past the first checks."""

    task_ids: list[str] = field(default_factory=list)
    tokens: list[bytes] = field(default_factory=list)
    page_tokens: list[str] = field(default_factory=list)
    schedule_ids: list[str] = field(default_factory=list)


def methods() -> list[MethodDescriptor]:
    """Every RPC of both services."""
    services = (
        worker_queue_pb2.DESCRIPTOR.services_by_name["WorkerQueue"],
        worker_queue_admin_pb2.DESCRIPTOR.services_by_name["WorkerQueueAdmin"],
    )
    return [method for service in services for method in service.methods]


_KINDS = ["runFinished", "performRunExecution", "indexEndpoint", "registerJob", "scheduleEmail"]
_QUEUES = ["fuzz", "fuzz-2", "default", "a:b/c.d_e-f"]
_ODD_TEXTS = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "\n",
    "\x7f\x1b[31m",
    "\ufeff",
    "\u202e",
    "\U0001f4a5",
    "e\u0301",
    "\uffff",
    "%s%n%",
    "'; --",
    "{id}",
    "../..",
    "NaN",
    "-1",
    "null",
    "x" * 127,
    "x" * 128,
    "x" * 129,
    "x" * 512,
    "x" * 513,
    "\u00e9" * 300,
]
_INTS = [0, 1, -1, 2, 3, 50, 99, 100, 1000, 1001, 100_000, 2**31 - 1, -(2**31)]
_LONGS = [*_INTS, 2**63 - 1, -(2**63), 10**12, 253_402_300_799, 253_402_300_800, -62_135_596_801]
_FLOATS = [0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 5e-324, 1.8e308, 1e17, float("nan"), float("-inf")]
_SECONDS = [0, 1, 30, 60, 3600, 86_400, *_LONGS, 315_576_000_000, 315_576_000_001]
_NANOS = [0, 0, 0, 1, 999_999_999, 1_000_000_000, -1, 2**31 - 1, -(2**31)]
_TYPES = [
    *(kind.full_name for kind in tasks_pb2.DESCRIPTOR.message_types_by_name.values()),
    "google.protobuf.Any",
    "google.protobuf.Struct",
    "google.protobuf.StringValue",
    "workerqueue.v1.Task",
    "no.such.Type",
    "",
    "\x00",
]


class Oddities:
    """Makes requests to one server. Equal dice make equal requests."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def request(self, dice: Random, method: MethodDescriptor) -> bytes:
        """The bytes of one request."""
        way = dice.randrange(10)
        if way == 0:
            return dice.randbytes(dice.randrange(200))
        if way == 1:
            return _nested(dice)
        data = self._odd(dice, method.input_type)
        return _broken(dice, data) if way == 2 else data

    def frames(self, dice: Random) -> list[bytes]:
        """What a worker's stream may send."""
        frames = [self.request(dice, _method("Lease")) for _ in range(dice.randrange(5))]
        return [self._subscribe(dice), *frames] if dice.randrange(3) else frames

    def _odd(self, dice: Random, descriptor: Descriptor) -> bytes:
        message = GetMessageClass(descriptor)()
        if dice.randrange(4):
            self._make_sound(dice, message)
        self._disturb(dice, message, 0)
        return bytes(message.SerializePartialToString(deterministic=True)) + dice.choice(
            _UNKNOWN_FIELDS
        )

    def _subscribe(self, dice: Random) -> bytes:
        first = lease_pb2.LeaseRequest()
        first.subscribe.worker_id = "fuzzer"
        first.subscribe.queues.append(dice.choice(_QUEUES))
        first.subscribe.max_in_flight = dice.choice([0, 1, 3, 100, 100_000])
        if dice.randrange(2):
            self._disturb(dice, first, 0)
        return bytes(first.SerializePartialToString(deterministic=True))

    def _make_sound(self, dice: Random, message: Message) -> None:
        """Gives the fields that requests of this shape cannot do without."""
        for each in _fields(message):
            if each.name in ("lease_token", "task_id", "schedule_id", "queue", "worker_id"):
                if each.containing_type.name == "EnqueueRequest":
                    continue
                setattr(message, each.name, self._scalar(dice, each))
            elif each.message_type and each.name in ("task", "tasks", "schedule", "subscribe"):
                inner = getattr(message, each.name)
                self._make_sound(dice, inner.add() if each.is_repeated else inner)
        if isinstance(message, worker_queue_pb2.EnqueueRequest):
            message.payload.Pack(tasks_pb2.RunFinished(id="run"))
            message.options.queue = dice.choice(_QUEUES)
        if message.DESCRIPTOR.name == "Schedule":
            message.cron = "*/5 * * * *"  # type: ignore[attr-defined]
            message.paused = True  # type: ignore[attr-defined]

    def _disturb(self, dice: Random, message: Message, depth: int) -> None:
        fields = _fields(message)
        if not fields:
            return
        for each in dice.sample(fields, min(len(fields), dice.choice([0, 1, 1, 2, 2, 3, 4]))):
            self._set(dice, message, each, depth)

    def _set(self, dice: Random, message: Message, each: Any, depth: int) -> None:
        value = getattr(message, each.name)
        if _is_map(each):
            for _ in range(dice.choice([1, 2, 65])):
                key = self._scalar(dice, each.message_type.fields_by_name["key"])
                inner = each.message_type.fields_by_name["value"]
                if inner.message_type is None:
                    value[key] = self._scalar(dice, inner)
                elif depth < _DEPTH:
                    self._fill(dice, value[key], depth + 1)
        elif each.is_repeated:
            self._repeat(dice, value, each, depth)
        elif each.message_type is not None:
            value.SetInParent()
            if depth < _DEPTH:
                self._fill(dice, value, depth + 1)
        else:
            setattr(message, each.name, self._scalar(dice, each))

    def _repeat(self, dice: Random, values: Any, each: Any, depth: int) -> None:
        count = dice.choice([1, 2, 3])
        for _ in range(count):
            if each.message_type is None:
                values.append(self._scalar(dice, each))
            elif depth < _DEPTH:
                item = values.add()
                if bool(dice.randrange(2)):
                    self._make_sound(dice, item)
                self._fill(dice, item, depth + 1)
        if values and dice.randrange(8) == 0:
            copies = dice.choice([20, 20, 20, 20, 200, 200, 2_000, 10_001])
            size = values[-1].ByteSize() if each.message_type else len(str(values[-1]))
            values.extend([values[-1]] * min(copies, 1_000_000 // (size + 1)))

    def _fill(self, dice: Random, message: Message, depth: int) -> None:
        name = message.DESCRIPTOR.full_name
        if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            message.seconds = dice.choice(_SECONDS)  # type: ignore[attr-defined]
            message.nanos = dice.choice(_NANOS)  # type: ignore[attr-defined]
        elif isinstance(message, AnyMessage):
            self._fill_any(dice, message)
        elif isinstance(message, Struct):
            _fill_struct(dice, message)
        else:
            self._disturb(dice, message, depth)

    def _fill_any(self, dice: Random, message: AnyMessage) -> None:
        prefix = dice.choice(["type.googleapis.com/", "", "/", "http://x/"])
        type_name = dice.choice(_TYPES)
        message.type_url = prefix + type_name
        kind = tasks_pb2.DESCRIPTOR.message_types_by_name.get(type_name.rpartition(".")[2])
        if kind is not None and dice.randrange(4):
            payload = GetMessageClass(kind)()
            self._disturb(dice, payload, _DEPTH - 2)
            message.value = payload.SerializePartialToString(deterministic=True)
        else:
            message.value = dice.randbytes(dice.randrange(40))

    def _scalar(self, dice: Random, each: Any) -> Any:
        if each.enum_type is not None:
            return dice.choice([*each.enum_type.values_by_number, 99, -1, 2**31 - 1])
        kind = each.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if each.type == FieldDescriptor.TYPE_BYTES:
                return self._bytes(dice)
            return self._text(dice, each.name)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return bool(dice.randrange(2))
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return dice.choice(_FLOATS)
        unsigned = kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
        long = kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
        number = dice.choice(_LONGS if long else _INTS)
        return abs(number) if unsigned else number

    def _bytes(self, dice: Random) -> bytes:
        if dice.randrange(2):
            return dice.choice(self._known.tokens or [bytes(24)])
        return dice.choice(_ODD_BYTES) if dice.randrange(2) else dice.randbytes(dice.randrange(30))

    def _text(self, dice: Random, name: str) -> str:
        fitting = self._fitting(name)
        if fitting and dice.randrange(3):
            return dice.choice(fitting)
        if dice.randrange(60) == 0:
            return "y" * 70_000
        if dice.randrange(2):
            return dice.choice(_ODD_TEXTS)
        return "".join(map(chr, dice.choices(_CODE_POINTS, k=dice.randrange(20))))

    def _fitting(self, name: str) -> list[str]:
        if name.endswith("task_id"):
            return [*self._known.task_ids, "00000000-0000-0000-0000-000000000000", "F" * 36]
        if name == "page_token":
            return [*self._known.page_tokens, *_FORGED]
        return {
            "queue": _QUEUES,
            "queues": _QUEUES,
            "kind": _KINDS,
            "kinds": _KINDS,
            "schedule_id": [*self._known.schedule_ids, "nightly"],
            "worker_id": ["fuzzer", "worker-1"],
            "job_key": ["job-1", "job-2"],
            "concurrency_key": ["key-1", "key-2"],
            "cron": [
                "* * * * *",
                "0 0 29 2 *",
                "0 0 31 2 *",
                "@daily",
                "*/0 * * * *",
                "61 * * * *",
            ],
            "time_zone": ["UTC", "Europe/Berlin", "Mars/Base", "../../etc/passwd", "/etc/passwd"],
            "by_fields": ["id", "source_data.a", "no.such"],
        }.get(name, [])


_ODD_BYTES = [b"", b"\x00", bytes(23), bytes(24), b"\xff" * 24, bytes(25), b"t" * 2_000]
# The layout's first byte with a wrong digest, no base64, padding, and a token that is all digest.
_FORGED = ["AQAAAAAAAAAAAAAA", "!!!!", "====", "AQ", "A" * 5_000, "AQAAAAAAAAAA", "\u00e9"]
# Varint, length-delimited, group and fixed fields of numbers that no message has.
_UNKNOWN_FIELDS = [
    *[b""] * 6,
    b"\xc0\xb8\x02\x01",
    b"\xc2\xb8\x02\x03abc",
    b"\xc3\xb8\x02\xc4\xb8\x02",
    b"\xc1\xb8\x02" + bytes(8),
]


@cache
def _method(name: str) -> MethodDescriptor:
    return next(method for method in methods() if method.name == name)


def _fields(message: Message) -> list[Any]:
    return list(message.DESCRIPTOR.fields)


def _is_map(each: Any) -> bool:
    return bool(each.message_type is not None and each.message_type.GetOptions().map_entry)


def _fill_struct(dice: Random, struct: Struct) -> None:
    names = ["id", "source", "sourceData", "job", "to", "\x00", "", "x" * 2_000]
    for name in dice.sample(names, dice.randrange(5)):
        value = struct.fields[name]
        shape = dice.randrange(7)
        if shape == 0:
            value.number_value = dice.choice(_FLOATS)
        elif shape == 1:
            value.string_value = dice.choice(_ODD_TEXTS)
        elif shape == 2:
            value.bool_value = True
        elif shape == 3:
            value.null_value = 0  # type: ignore[assignment]
        elif shape == 4:
            for _ in range(dice.choice([1, 15, 30])):
                value = value.list_value.values.add()
            value.string_value = "deep"
        elif shape == 5:
            for _ in range(dice.choice([1, 15, 30])):
                value = value.struct_value.fields["a"]
            value.number_value = dice.choice(_FLOATS)


def _broken(dice: Random, sound: bytes) -> bytes:
    """Bytes that were a message once: cut, with bytes changed, doubled."""
    data = bytearray(sound or b"\xff")
    place = dice.randrange(min(len(data), 4_000))
    way = dice.randrange(4)
    if way == 0:
        return bytes(data[:place])
    if way == 1:
        # Surrogates in UTF-8, overlong forms and lone continuation bytes among them.
        data[place : place + 3] = dice.choice(
            [b"\xed\xa0\x80", b"\xc0\x80", b"\x80", b"\xff\xff\xff", b"\x00"]
        )
    elif way == 2:
        data[place] ^= 1 << dice.randrange(8)
    else:
        return bytes(data) * 2
    return bytes(data)


def _nested(dice: Random) -> bytes:
    """One field in itself, deeper than parsers like it."""
    return _in_itself(dice.randrange(1, 16), dice.choice(_NESTINGS))


# Of few forms, and each takes longer to make than all else of a case.
@cache
def _in_itself(number: int, depth: int) -> bytes:
    data = b""
    tag = bytes([number << 3 | 2])
    for _ in range(depth):
        if len(data) > 100_000:
            break
        data = tag + varint(len(data)) + data
    return data
