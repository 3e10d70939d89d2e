"""Parses and validates many small payloads of one type in one go.

A call of the parser and one of protovalidate cost more than what these do for a small payload. So
payloads that came together become one message, ``repeated TYPE payloads = 1``: its bytes are
theirs, each behind a tag and a length, and its rules are theirs. All that is asked of it is whether
every payload is fine. If not, each is read alone, which also tells what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import protovalidate
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

_PACKAGE = "workerqueue.batches"
# Field 1, length-delimited.
_TAG = b"\x0a"


class BatchParser:
    """Parses what a catalog's kinds have as payloads."""

    def __init__(self, pool: DescriptorPool, validator: protovalidate.Validator) -> None:
        self._pool = pool
        self._validator = validator
        self._batches: dict[type[Message], type[Message]] = {}

    def parse(
        self, message_class: type[Message], payloads: Sequence[bytes]
    ) -> Sequence[Message] | None:
        """One or more payloads, validated; None if any of them is not fine.

        Each is given as its bytes behind their length, as in a repeated field.
        """
        try:
            batch = self._batch_of(message_class).FromString(_TAG + _TAG.join(payloads))
        except DecodeError:
            return None
        if self._validator.collect_violations(batch):
            return None
        parsed: Sequence[Message] = batch.payloads  # type: ignore[attr-defined]
        return parsed

    def _batch_of(self, message_class: type[Message]) -> type[Message]:
        batch = self._batches.get(message_class)
        if batch is None:
            descriptor = message_class.DESCRIPTOR
            file = FileDescriptorProto(
                name=f"{_PACKAGE.replace('.', '/')}/{descriptor.full_name}.proto",
                package=f"{_PACKAGE}.{descriptor.full_name}",
                syntax="proto3",
                dependency=[descriptor.file.name],
            )
            file.message_type.add(name="Batch").field.add(
                name="payloads",
                number=1,
                label=FieldDescriptorProto.LABEL_REPEATED,
                type=FieldDescriptorProto.TYPE_MESSAGE,
                type_name=f".{descriptor.full_name}",
            )
            self._pool.Add(file)
            batch = GetMessageClass(self._pool.FindMessageTypeByName(f"{file.package}.Batch"))
            self._batches[message_class] = batch
        return batch
