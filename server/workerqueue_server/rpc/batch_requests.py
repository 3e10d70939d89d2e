"""From an EnqueueBatchRequest to checked tasks, those that look alike together.

To take a task's parts out of its message one by one costs more than all else that is done with it
before it is stored. So tasks are taken apart as bytes: options are compared as they came, and the
payloads of a kind are validated together. What is written in an unusual way, or is not fine, is
read as an Enqueue is: that tells what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue.catalog import Catalog, Kind
from workerqueue_server.queue.enqueue import NewTask, Spec, new_task_id
from workerqueue_server.queue.errors import Refused
from workerqueue_server.rpc.enqueue_requests import EnqueueReader, Payload
from workerqueue_server.rpc.task_ids import read_task_id

# Payloads up to this size are read together: for larger ones the calls do not matter.
_SMALL_BYTES = 4_096

_PACKAGE = "workerqueue.views"
# The tags of an EnqueueRequest's fields and of an Any's; all are length-delimited.
_TASK_ID, _PAYLOAD, _OPTIONS = 0x0A, 0x12, 0x22
_TYPE_URL, _VALUE = 0x0A, 0x12
# An id in its canonical form.
_ID_BYTES = 36
# The largest length that is written in one byte.
_ONE_BYTE = 0x7F

_Request = worker_queue_pb2.EnqueueRequest
# A task in its usual form: its place, its id, the payload behind its length (as in a repeated
# field), where in there the payload begins, the options.
_Item = tuple[int, bytes, bytes, int, bytes]


class BatchReader:
    """Reads the tasks of batches."""

    def __init__(self, catalog: Catalog, reader: EnqueueReader) -> None:
        self._catalog = catalog
        self._reader = reader
        self._view: Any = _view_class()

    def read(self, data: bytes, requests: Sequence[_Request]) -> list[NewTask | Refused]:
        """Each task, or why it is refused, of the request with these bytes and these tasks."""
        read: list[NewTask | Refused | None] = [None] * len(requests)
        for type_url, items in self._usual(data).items():
            kind = self._catalog.find(type_url.decode())
            if kind is not None and len(items) > 1:
                self._read_alike(kind, items, requests, read)
        return [
            self._alone(requests[place]) if task is None else task
            for place, task in enumerate(read)
        ]

    def _usual(self, data: bytes) -> dict[bytes, list[_Item]]:
        """By type URL, the tasks written in the usual way."""
        groups: dict[bytes, list[_Item]] = {}
        for place, task in enumerate(self._view.FromString(data).tasks):
            parts = _take_apart(task) if len(task) <= _SMALL_BYTES else None
            if parts is not None:
                task_id, type_url, delimited, start, options = parts
                item = (place, task_id, delimited, start, options)
                groups.setdefault(type_url, []).append(item)
        return groups

    def _read_alike(
        self,
        kind: Kind,
        items: Sequence[_Item],
        requests: Sequence[_Request],
        read: list[NewTask | Refused | None],
    ) -> None:
        """Enters the tasks of one kind, unless a payload among them is not fine."""
        messages = self._catalog.parse_all(kind, [item[2] for item in items])
        if messages is None:
            return
        specs: dict[bytes, Spec] = {}
        for number, (place, task_id, delimited, start, options) in enumerate(items):
            data = delimited[start:]
            spec = specs.get(options) or self._reader.plain_spec(kind, options)
            if spec is None:
                payload = Payload(kind, messages[number], data, "payload")
                read[place] = self._alone(requests[place], payload)
                continue
            specs[options] = spec
            if task_id:
                read[place] = _own_id(task_id, spec, data)
            else:
                read[place] = NewTask(new_task_id(), False, spec, data, None)

    def _alone(self, request: _Request, payload: Payload | None = None) -> NewTask | Refused:
        try:
            return self._reader.read(request, payload)
        except Refused as error:
            return error


def _own_id(task_id: bytes, spec: Spec, payload: bytes) -> NewTask | Refused:
    try:
        return NewTask(read_task_id(task_id.decode()), True, spec, payload, None)
    except Refused as error:
        return error


def _take_apart(task: bytes) -> tuple[bytes, bytes, bytes, int, bytes] | None:
    """An EnqueueRequest's id, type URL, delimited payload, where in it the payload begins, options.

    None unless it is written as encoders write it: an id or none, a packed payload with its URL
    and its value, options or none, each once and in this order, and nothing else. So these parts
    are the whole message, and there is no other reading of the bytes. Lengths have two bytes at
    most, that of a URL one.
    """
    try:
        place = 0
        if task[0] == _TASK_ID:
            if task[1] != _ID_BYTES:
                return None
            place = 2 + _ID_BYTES
        packed = place + 2
        packed_bytes = task[place + 1]
        if packed_bytes > _ONE_BYTE:
            packed_bytes += (task[packed] << 7) - 0x80
            packed += 1
        url_end = packed + 2 + task[packed + 1]
        start = url_end + 2
        payload_bytes = task[url_end + 1]
        if payload_bytes > _ONE_BYTE:
            payload_bytes += (task[start] << 7) - 0x80
            start += 1
        end = start + payload_bytes
        options = end
        if end < len(task):
            options = end + 2
            options_bytes = task[end + 1]
            if options_bytes > _ONE_BYTE:
                options_bytes += (task[options] << 7) - 0x80
                options += 1
            if task[end] != _OPTIONS or options + options_bytes != len(task):
                return None
        is_usual = (
            task[place] == _PAYLOAD
            and task[packed] == _TYPE_URL
            and task[packed + 1] <= _ONE_BYTE
            and task[url_end] == _VALUE
            and packed + packed_bytes == end <= len(task)
        )
    except IndexError:
        return None
    if not is_usual:
        return None
    head = task[:url_end]
    return (
        head[2:place],
        head[packed + 2 :],
        task[url_end + 1 : end],
        start - url_end - 1,
        task[options:],
    )


def _view_class() -> type[Message]:
    """EnqueueBatchRequest with the bytes of its tasks."""
    tasks = worker_queue_pb2.EnqueueBatchRequest.DESCRIPTOR.fields_by_name["tasks"]
    file = FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    file.message_type.add(name="Batch").field.add(
        name="tasks",
        number=tasks.number,
        label=FieldDescriptorProto.LABEL_REPEATED,
        type=FieldDescriptorProto.TYPE_BYTES,
    )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Batch"))
