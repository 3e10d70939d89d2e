"""Payload types for people: their fields, and an example to start from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from google.protobuf import json_format, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2
from workerqueue.v1 import queue_admin_pb2 as pb
from workerqueue_server.queue.catalog import Catalog, Kind
from workerqueue_server.queue.errors import InvalidTask

_DEPTH = 3
_NUMBERS = (1, 10, 100, 0)
# The first that the field's rules allow is taken.
_TEXTS = (
    "example",
    "someone@example.com",
    "https://example.com/",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "2030-01-31",
    "example-example-example-example",
)
_WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"seconds": 1_893_456_000},
    "google.protobuf.Duration": {"seconds": 60},
    "google.protobuf.Value": {"string_value": "anything"},
    # Any type may stand in it, and no path fits every message: both stay empty.
    "google.protobuf.Any": {},
    "google.protobuf.FieldMask": {},
}
_TYPE_NAMES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def payload_fields(message: Descriptor) -> list[pb.PayloadField]:
    """The fields of a payload message, in the order of their declaration."""
    return [
        pb.PayloadField(
            json_name=field.json_name,
            name=field.name,
            type=_type_name(field),
            allowed_values=(
                [value.name for value in field.enum_type.values]
                if field.enum_type is not None
                else map(str, _listed(field))
            ),
        )
        for field in message.fields
    ]


def example_payload(kind: Kind, catalog: Catalog) -> str:
    """A payload in JSON that keeps the kind's rules, as far as trying finds one."""
    example = kind.message_class()
    _fill(example, _DEPTH)
    for path in list(_leaves(example, "")):
        _make_fit(example, path, catalog)
    return json_format.MessageToJson(example, indent=None, descriptor_pool=catalog.pool)


def _listed(field: Any) -> list[Any]:
    """The values that the field's rules list."""
    rules = cast(Any, field.GetOptions()).Extensions[validate_pb2.field]
    kind = rules.WhichOneof("type")
    return list(getattr(getattr(rules, kind), "in", ())) if kind else []


def _type_name(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = message.fields_by_name["key"], message.fields_by_name["value"]
        return f"map<{_type_name(key)}, {_type_name(value)}>"
    declared = message or field.enum_type
    name = declared.full_name if declared is not None else _TYPE_NAMES[field.type]
    return f"repeated {name}" if field.is_repeated else name


def _fill(message: Message, depth: int) -> None:
    """Sets every field once; of a oneof the first."""
    if isinstance(message, struct_pb2.Struct):
        message.update({"any": "field"})
        return
    known = _WELL_KNOWN.get(message.DESCRIPTOR.full_name)
    if known is not None:
        for name, value in known.items():
            setattr(message, name, value)
        return
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and message.WhichOneof(oneof.name):
            continue
        _fill_field(message, field, depth)


def _fill_field(message: Message, field: Any, depth: int) -> None:
    value = getattr(message, field.name)
    nested = field.message_type
    if nested is None:
        if field.is_repeated:
            value.append(_scalar(field))
        else:
            setattr(message, field.name, _scalar(field))
    elif nested.GetOptions().map_entry or depth == 0:
        return
    elif field.is_repeated:
        _fill(value.add(), depth - 1)
    else:
        value.SetInParent()
        _fill(value, depth - 1)


def _scalar(field: FieldDescriptor) -> object:
    if field.enum_type is not None:
        values = field.enum_type.values
        return (values[1] if len(values) > 1 else values[0]).number
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return b"example" if field.type == FieldDescriptor.TYPE_BYTES else _TEXTS[0]
    return field.cpp_type == FieldDescriptor.CPPTYPE_BOOL or _NUMBERS[0]


def _leaves(message: Message, prefix: str) -> Iterable[str]:
    """Paths of single scalar fields that can be given another value."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.is_repeated or field.enum_type is not None:
            continue
        if field.message_type is None:
            yield path
        elif field.message_type.full_name not in _WELL_KNOWN:
            yield from _leaves(value, f"{path}.")


def _make_fit(example: Message, path: str, catalog: Catalog) -> None:
    *parents, name = path.split(".")
    owner: Any = example
    for parent in parents:
        owner = getattr(owner, parent)
    first = getattr(owner, name)
    if isinstance(first, bool | bytes):
        return
    listed = _listed(owner.DESCRIPTOR.fields_by_name[name])
    for candidate in (*listed, *(_TEXTS if isinstance(first, str) else _NUMBERS)):
        setattr(owner, name, candidate)
        if not _is_wrong(example, path, catalog):
            return
    setattr(owner, name, first)


def _is_wrong(example: Message, path: str, catalog: Catalog) -> bool:
    try:
        catalog.validate(example, "args")
    except InvalidTask as error:
        return any(violation.field == f"args.{path}" for violation in error.violations)
    return False
