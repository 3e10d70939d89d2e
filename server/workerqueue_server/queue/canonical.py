"""One spelling for equal payloads, so that they can be compared by a hash.

Two payloads are equal if their known fields are. The same text is made twice: here from a parsed
message, and in SQL (workerqueue.canonical_message) from the JSON form that an enqueue by SQL gives,
which may spell the same value in several ways. For the latter ``describe`` writes down, as JSON,
what a message type is made of. A test holds the two against each other over generated payloads.

The text of a value:
  string  s<bytes>:<text>     bytes   b<hex>;       bool    t or f
  integer i<decimal>;         double  d<hex>;       float   e<hex>;     enum: as its number
  list    l<count>:<values>   map     k<count>:<keys and values, sorted by the text of the key>
  message m<number>=<value>...;  with its set fields in the order of their numbers
  JSON    z (null), t, f, d, s, l, o<count>:<keys and values, sorted by key>
  Timestamp T<seconds>.<nanos>;  Duration D<nanos>;  wrapper w<value>  FieldMask p<paths, joined>;
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from workerqueue_server.queue.field_path import PathError, find_field

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_WRAPPERS = {
    f"google.protobuf.{name}"
    for name in (
        *("DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value"),
        *("BoolValue", "StringValue", "BytesValue"),
    )
}
_JSON = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
_SPECIAL = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.protobuf.FieldMask": "mask",
    **dict.fromkeys(_WRAPPERS, "wrapper"),
    **dict.fromkeys(_JSON, "json"),
}


class NotComparable(ValueError):
    """The payload has a field whose values cannot be compared."""


def hash_of(text: str) -> bytes:
    """The 32 bytes that stand for a canonical text."""
    return hashlib.sha256(text.encode()).digest()


def text(value: str) -> str:
    """A string's canonical text."""
    return f"s{len(value.encode())}:{value}"


def message(value: Message) -> str:
    """A payload's canonical text. Raises NotComparable."""
    special = _SPECIAL.get(value.DESCRIPTOR.full_name)
    if special is not None:
        return _SPECIAL_TEXTS[special](value)
    if value.DESCRIPTOR.full_name == "google.protobuf.Any":
        raise NotComparable("a field of type google.protobuf.Any cannot count for uniqueness")
    parts = ["m"]
    for field in _ordered(value.DESCRIPTOR):
        content = _field(value, field)
        if content is not None:
            parts.append(f"{field.number}={content}")
    return "".join((*parts, ";"))


def selected(value: Message, paths: Iterable[str]) -> str:
    """The canonical text of some fields. Raises PathError and NotComparable."""
    chosen = {}
    for path in paths:
        fields = resolve(path, cast(Descriptor, value.DESCRIPTOR))
        chosen[".".join(field.name for field in fields)] = fields
    return "".join(
        f"{text(name)}={_at(value, fields) or '-'}" for name, fields in sorted(chosen.items())
    )


def resolve(path: str, descriptor: Descriptor) -> list[FieldDescriptor]:
    """The fields that a dotted path goes through. Raises PathError."""
    fields: list[FieldDescriptor] = []
    current: Descriptor | None = descriptor
    for step in path.split("."):
        field = find_field(current, step)
        if field is None or (fields and fields[-1].is_repeated):
            raise PathError(f"{descriptor.full_name} has no field {path!r}")
        fields.append(field)
        # Inside values of these types there are no fields of the contract.
        kind = field.message_type
        current = kind if kind is not None and kind.full_name not in _SPECIAL else None
    return fields


def _ordered(descriptor: Any) -> list[FieldDescriptor]:
    return sorted(descriptor.fields, key=lambda field: int(field.number))


def _at(value: Message, fields: Sequence[FieldDescriptor]) -> str | None:
    for field in fields[:-1]:
        if not value.HasField(field.name):
            return None
        value = getattr(value, field.name)
    return _field(value, fields[-1])


def _field(owner: Message, field: FieldDescriptor) -> str | None:
    """The text of a field's value; None if it is not set."""
    content: Any = getattr(owner, field.name)
    if field.is_repeated:
        if not content:
            return None
        if _is_map(field):
            return _map(field, content)
        return f"l{len(content)}:" + "".join(_single(field, item) for item in content)
    is_set = owner.HasField(field.name) if field.has_presence else content != field.default_value
    return _single(field, content) if is_set else None


def _map(field: FieldDescriptor, content: Any) -> str:
    entry = _entry(field)
    pairs = sorted(
        (_single(entry["key"], key).encode(), _single(entry["value"], content[key]))
        for key in content
    )
    return f"k{len(pairs)}:" + "".join(key.decode() + value for key, value in pairs)


def _single(field: FieldDescriptor, value: Any) -> str:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return message(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return f"b{value.hex()};"
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return text(value)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return "t" if value else "f"
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return _double(value)
    if kind == FieldDescriptor.CPPTYPE_FLOAT:
        return f"e{struct.pack('>f', value + 0.0).hex()};"
    return f"i{value};"


def _double(value: float) -> str:
    # JSON in Postgres has no negative zero; adding 0.0 makes it positive.
    return f"d{struct.pack('>d', value + 0.0).hex()};"


def _json(value: Any) -> str:
    name = value.DESCRIPTOR.full_name
    if name == "google.protobuf.Struct":
        pairs = sorted((key.encode(), item) for key, item in value.fields.items())
        return f"o{len(pairs)}:" + "".join(text(key.decode()) + _json(item) for key, item in pairs)
    if name == "google.protobuf.ListValue":
        return f"l{len(value.values)}:" + "".join(map(_json, value.values))
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return _double(value.number_value)
    if kind == "string_value":
        return text(value.string_value)
    if kind == "bool_value":
        return "t" if value.bool_value else "f"
    if kind in ("struct_value", "list_value"):
        return _json(getattr(value, kind))
    return "z"


_SPECIAL_TEXTS: dict[str, Callable[[Any], str]] = {
    "timestamp": lambda value: f"T{value.seconds}.{value.nanos};",
    "duration": lambda value: f"D{value.seconds * 1_000_000_000 + value.nanos};",
    "mask": lambda value: f"p{','.join(map(_camel, value.paths))};",
    "wrapper": lambda value: "w" + _single(value.DESCRIPTOR.fields_by_name["value"], value.value),
    "json": _json,
}


def _camel(path: str) -> str:
    first, *rest = path.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _entry(field: FieldDescriptor) -> Any:
    """The key and value fields of a map."""
    assert field.message_type is not None
    return field.message_type.fields_by_name


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return bool(kind is not None and kind.GetOptions().map_entry)


def describe(descriptor: Descriptor) -> dict[str, object]:
    """What the SQL side must know of a message type: ``types`` and ``enums`` by full name.

    A type is a list of fields in the order of their numbers: [number, proto name, JSON name, flags,
    value type, key type]. Flags: r repeated, m map, p explicit presence.
    """
    types: dict[str, object] = {}
    enums: dict[str, object] = {}
    waiting = [descriptor]
    while waiting:
        current = waiting.pop()
        if current.full_name in types:
            continue
        fields = []
        for field in _ordered(current):
            is_map = _is_map(field)
            entry = _entry(field) if is_map else {}
            value = entry["value"] if is_map else field
            flags = "m" if is_map else "r" if field.is_repeated else ""
            flags += "p" if field.has_presence and not flags else ""
            item: list[object] = [field.number, field.name, field.json_name, flags, _type(value)]
            if is_map:
                item.append(_type(entry["key"]))
            fields.append(item)
            if value.enum_type is not None:
                enums[value.enum_type.full_name] = {
                    v.name: v.number for v in value.enum_type.values
                }
            nested = value.message_type
            if nested is not None and nested.full_name not in _SPECIAL:
                waiting.append(nested)
        types[current.full_name] = fields
    return {"types": types, "enums": enums}


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        name: str = field.message_type.full_name
        if name in _WRAPPERS:
            return f"wrapper {_type(field.message_type.fields_by_name['value'])}"
        if name == "google.protobuf.Value":
            return "value"
        return _SPECIAL.get(name) or f"message {name}"
    if field.enum_type is not None:
        return f"enum {field.enum_type.full_name}"
    return scalar_type(field) or "bytes"


def scalar_type(field: FieldDescriptor) -> str | None:
    """string, integer, bool, double or float; None for other types."""
    if field.cpp_type in _INTEGERS:
        return "integer"
    if field.type == FieldDescriptor.TYPE_STRING:
        return "string"
    return {
        FieldDescriptor.CPPTYPE_BOOL: "bool",
        FieldDescriptor.CPPTYPE_DOUBLE: "double",
        FieldDescriptor.CPPTYPE_FLOAT: "float",
    }.get(field.cpp_type)
