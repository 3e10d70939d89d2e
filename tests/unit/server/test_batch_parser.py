"""Payloads read together are what each is read alone, and one that is not fine spoils no other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests.descriptors import everything
from tests.toolkit import request
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue.catalog import Catalog, Kind
from workerqueue_server.queue.errors import InvalidTask, Refused
from workerqueue_server.queue.varint import varint
from workerqueue_server.rpc.enqueue_requests import EnqueueReader

CATALOG = Catalog.load({"everything": everything()})


def alone(kind: Kind, payloads: Sequence[bytes]) -> list[Message] | None:
    try:
        return [CATALOG.parse(kind, data, "payload") for data in payloads]
    except InvalidTask:
        return None


# Some are fine, some are no such message, some break its rules (an id of 1 to 128 bytes).
some_bytes = st.binary(max_size=12) | st.builds(
    lambda text: tasks_pb2.RunFinished(id=text).SerializeToString(), st.text(max_size=150)
)


@given(st.lists(some_bytes, max_size=6), st.sampled_from(["runFinished", "everything"]))
def test_together_is_as_alone(payloads: list[bytes], name: str) -> None:
    kind = CATALOG.kinds[name]
    together = CATALOG.parse_all(kind, payloads)
    assert (None if together is None else list(together)) == alone(kind, payloads)


def test_rules_of_a_whole_message_are_applied_to_each() -> None:
    kind = CATALOG.kinds["scheduleEmail"]
    fine = tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", text="t").SerializeToString()
    # Neither a text nor an HTML body.
    broken = tasks_pb2.ScheduleEmail(to="a@example.com", subject="s").SerializeToString()
    assert CATALOG.parse_all(kind, [fine, fine]) is not None
    assert CATALOG.parse_all(kind, [fine, broken]) is None
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
    reader = EnqueueReader(CATALOG)
    made = worker_queue_pb2.EnqueueRequest()
    made.payload.type_url, made.payload.value = kind.type_url, data
    ahead = reader.read_payloads([made, made])
    try:
        expected = reader.read(made).payload
    except Refused as error:
        with pytest.raises(type(error)):
            reader.read(made, ahead.get(0))
    else:
        assert reader.read(made, ahead.get(0)).payload == expected


def test_a_batch_reads_together_what_it_can() -> None:
    reader = EnqueueReader(CATALOG)
    run, stop = tasks_pb2.RunFinished(id="r"), tasks_pb2.StopVM(id="v")
    large = tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", text="t" * 5_000)
    dynamic = worker_queue_pb2.EnqueueRequest()
    dynamic.dynamic.kind = "runFinished"
    unknown = worker_queue_pb2.EnqueueRequest()
    unknown.payload.type_url = "type.googleapis.com/nobody.knows.This"
    requests = [
        *(request(run), dynamic, request(stop), unknown, request(run), request(large)),
        *(request(stop), worker_queue_pb2.EnqueueRequest(), request(large)),
    ]
    ahead = reader.read_payloads(requests)
    read = {place: payload.message.SerializeToString() for place, payload in ahead.items()}
    runs, stops = run.SerializeToString(), stop.SerializeToString()
    assert read == {0: runs, 2: stops, 4: runs, 6: stops}
    broken = request(tasks_pb2.StopVM(id=""))
    assert set(reader.read_payloads([*requests, broken])) == {0, 4}
