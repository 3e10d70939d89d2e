"""The kind of a payload message, read from its descriptor."""

from __future__ import annotations

from typing import Any as AnyType

from google.protobuf.message import Message

from workerqueue.v1 import policy_pb2


def kind_of(message_class: type[Message]) -> str:
    """The task kind that a message class is the payload of, such as ``startRun``.

    Raises:
        TypeError: The message does not carry the ``(workerqueue.v1.task)`` option.
    """
    descriptor = message_class.DESCRIPTOR
    options = descriptor.GetOptions()
    extension: AnyType = policy_pb2.task
    if not options.HasExtension(extension):
        raise TypeError(
            f"{descriptor.full_name} is not a task kind: "
            "its message has no `option (workerqueue.v1.task)`"
        )
    kind: str = options.Extensions[extension].kind
    return kind or descriptor.name[0].lower() + descriptor.name[1:]
