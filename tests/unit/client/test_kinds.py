"""The kind of a message class."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from workerqueue import kind_of
from workerqueue.tasks.v1 import tasks_pb2


@pytest.mark.parametrize(
    ("message_class", "kind"),
    [
        (tasks_pb2.StartRun, "startRun"),
        (tasks_pb2.StopVM, "stopVM"),
        (tasks_pb2.RefreshOAuthToken, "refreshOAuthToken"),
    ],
)
def test_default_kind_is_the_name_with_a_small_first_letter(
    message_class: type[Message], kind: str
) -> None:
    assert kind_of(message_class) == kind


def test_a_kind_given_in_the_policy_wins() -> None:
    kinds = {
        kind_of(tasks_pb2.__dict__[name])
        for name in tasks_pb2.DESCRIPTOR.message_types_by_name
        if tasks_pb2.DESCRIPTOR.message_types_by_name[name].GetOptions().ByteSize()
    }
    assert "events.invokeDispatcher" in kinds


def test_a_message_without_the_option_is_no_kind() -> None:
    with pytest.raises(TypeError, match="Timestamp is not a task kind"):
        kind_of(Timestamp)
