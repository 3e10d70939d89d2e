"""Messages as proto3 JSON, with payloads of kinds that only the server knows.

The payload of a task is an Any. Its type is asked from the server by reflection, so own kinds are
shown in full whatever this command was installed with. Where that fails (reflection is off, the
kind is gone), the built-in kinds still are, and any other payload is shown as its type and its
bytes in base64.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import DecodeError, Message

from workerqueue.tasks.v1 import tasks_pb2 as _built_in_kinds

_REFLECTION_SECONDS = 5.0

# Imported for the default pool, which finds the built-in kinds there.
_ = _built_in_kinds

_Path = tuple[str | int, ...]


class Views:
    """JSON of messages."""

    def __init__(
        self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] | None = None
    ) -> None:
        self._channel = channel
        self._metadata = metadata
        self._pools: dict[str, DescriptorPool] = {}

    def json(self, message: Message) -> dict[str, Any]:
        """The message in its proto3 JSON form; fields that are not set stand there as defaults."""
        if isinstance(message, AnyMessage):
            return self.payload(message)
        bare = type(message)()
        bare.CopyFrom(message)
        found = [(path, self.payload(value)) for path, value in _anys(bare, ())]
        for _path, value in _anys(bare, ()):
            value.Clear()
        shown = _to_dict(bare, Default())
        for path, payload in found:
            _place(shown, path, payload)
        return shown

    def payload(self, packed: AnyMessage) -> dict[str, Any]:
        """An Any in its JSON form: `@type` beside the fields."""
        type_name = packed.type_url.rpartition("/")[2]
        if not type_name:
            return {}
        pool = self._pool_of(type_name)
        try:
            return _to_dict(packed, pool)
        except (TypeError, DecodeError, json_format.Error):
            return {
                "@type": packed.type_url,
                "value": base64.b64encode(packed.value).decode("ascii"),
            }

    def fields(self, packed: AnyMessage) -> dict[str, Any]:
        """As `payload`, without the type."""
        return {k: v for k, v in self.payload(packed).items() if k != "@type"}

    def _pool_of(self, type_name: str) -> DescriptorPool:
        if type_name not in self._pools:
            self._pools[type_name] = self._reflected(type_name) or Default()
        return self._pools[type_name]

    def _reflected(self, type_name: str) -> DescriptorPool | None:
        try:
            from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
        except ImportError:
            return None
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(self._channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=type_name)
        try:
            answers = list(
                stub.ServerReflectionInfo(
                    iter([request]), timeout=_REFLECTION_SECONDS, metadata=self._metadata
                )
            )
        except grpc.RpcError:
            return None
        files = [
            FileDescriptorProto.FromString(data)
            for answer in answers
            for data in answer.file_descriptor_response.file_descriptor_proto
        ]
        return _pool(files) if files else None


def _pool(files: list[FileDescriptorProto]) -> DescriptorPool | None:
    """A pool of the files, which come in any order; None if one of them is missing."""
    pool = DescriptorPool()
    waiting = {file.name: file for file in files}
    added: set[str] = set()
    while waiting:
        ready = [file for file in waiting.values() if added.issuperset(file.dependency)]
        if not ready:
            return None
        for file in ready:
            pool.Add(file)
            added.add(file.name)
            del waiting[file.name]
    return pool


def _to_dict(message: Message, pool: DescriptorPool) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, always_print_fields_with_no_presence=True, descriptor_pool=pool
    )


def _anys(message: Message, path: _Path) -> Iterator[tuple[_Path, AnyMessage]]:
    """Every Any inside a message and where it stands in the message's JSON."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        here = (*path, field.json_name)
        if field.message_type.GetOptions().map_entry:
            items = [((*here, key), value[key]) for key in value]
        elif field.is_repeated:
            items = [((*here, number), item) for number, item in enumerate(value)]
        else:
            items = [(here, value)]
        for place, item in items:
            if isinstance(item, AnyMessage):
                yield place, item
            elif isinstance(item, Message):
                yield from _anys(item, place)


def _place(document: Any, path: _Path, value: Any) -> None:
    for step in path[:-1]:
        document = document[step]
    document[path[-1]] = value
