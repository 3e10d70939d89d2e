"""Payloads read together are what each is read alone, and one that is not fine spoils no other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests.descriptors import everything
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue_server.queue.catalog import Catalog, Kind
from workerqueue_server.queue.errors import InvalidTask
from workerqueue_server.queue.varint import varint

CATALOG = Catalog.load({"everything": everything()})


def together(kind: Kind, payloads: Sequence[bytes]) -> list[Message] | None:
    read = CATALOG.parse_all(kind, [varint(len(data)) + data for data in payloads])
    return None if read is None else list(read)


def alone(kind: Kind, payloads: Sequence[bytes]) -> list[Message] | None:
    try:
        return [CATALOG.parse(kind, data, "payload") for data in payloads]
    except InvalidTask:
        return None


# Some are fine, some are no such message, some break its rules (an id of 1 to 128 bytes).
some_bytes = st.binary(max_size=12) | st.builds(
    lambda text: tasks_pb2.RunFinished(id=text).SerializeToString(), st.text(max_size=150)
)


@given(st.lists(some_bytes, min_size=1, max_size=6), st.sampled_from(["runFinished", "everything"]))
def test_together_is_as_alone(payloads: list[bytes], name: str) -> None:
    kind = CATALOG.kinds[name]
    assert together(kind, payloads) == alone(kind, payloads)


def test_rules_of_a_whole_message_are_applied_to_each() -> None:
    kind = CATALOG.kinds["scheduleEmail"]
    fine = tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", text="t").SerializeToString()
    # Neither a text nor an HTML body.
    broken = tasks_pb2.ScheduleEmail(to="a@example.com", subject="s").SerializeToString()
    assert together(kind, [fine, fine]) is not None
    assert together(kind, [fine, broken]) is None
    assert alone(kind, [broken]) is None


@pytest.mark.parametrize("depth", [98, 99, 100, 101])
def test_what_is_nested_deeply_is_taken_or_refused_as_alone(depth: int) -> None:
    kind = CATALOG.kinds["everything"]
    field = kind.descriptor.fields_by_name["inner"]
    assert field.message_type is not None
    children = field.message_type.fields_by_name["children"]
    data = b""
    for number in [children.number] * (depth - 2) + [field.number]:
        data = varint(number << 3 | 2) + varint(len(data)) + data
    assert together(kind, [data, data]) in (None, alone(kind, [data, data]))
