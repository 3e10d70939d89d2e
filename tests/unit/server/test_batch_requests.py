"""A batch is read as its tasks alone would be, however their bytes are written."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from tests.toolkit import request
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue.catalog import Catalog, Kind
from workerqueue_server.queue.enqueue import NewTask
from workerqueue_server.queue.errors import Refused
from workerqueue_server.rpc.batch_requests import BatchReader
from workerqueue_server.rpc.enqueue_requests import EnqueueReader
from workerqueue_server.rpc.status import status_of

_URL = b"type.googleapis.com/workerqueue.tasks.v1.RunFinished"
_ID = str(uuid.UUID(int=5)).encode()


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


def varint(value: int, padding: int = 0) -> bytes:
    """With so many bytes more than needed."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    for _ in range(padding):
        parts[-1] |= 0x80
        parts.append(0)
    return bytes(parts)


def field(number: int, value: bytes, padding: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(value), padding) + value


def packed(*fields: bytes) -> bytes:
    return field(2, b"".join(fields))


def payload(name: str = "x", size: int = 1) -> bytes:
    return tasks_pb2.RunFinished(id=name * size).SerializeToString()


def task(text: str = "x", **options: object) -> bytes:
    made = worker_queue_pb2.EnqueueRequest(task_id=_ID.decode())
    made.payload.Pack(tasks_pb2.RunFinished(id=text))
    made.options.MergeFrom(worker_queue_pb2.TaskOptions(**options))  # type: ignore[arg-type]
    return made.SerializeToString()


def outcome(read: NewTask | Refused) -> object:
    """What can be compared: all but the id that the server makes, and the spec as what it says."""
    if isinstance(read, Refused):
        return status_of(read)
    spec = read.spec
    says = (spec.queue, spec.kind, spec.priority, spec.max_attempts, spec.fields)
    return read._replace(task_id=read.task_id if read.client_id else b"", spec=None), says  # type: ignore[arg-type]


def alone(reader: EnqueueReader, data: bytes) -> object:
    try:
        return outcome(reader.read(worker_queue_pb2.EnqueueRequest.FromString(data)))
    except Refused as error:
        return outcome(error)


def together(catalog: Catalog, tasks: Sequence[bytes]) -> list[object]:
    data = b"".join(field(1, each) for each in tasks)
    made = worker_queue_pb2.EnqueueBatchRequest.FromString(data)
    batches = BatchReader(catalog, EnqueueReader(catalog))
    batches.read(data, made.tasks)
    # Now options are known.
    return [outcome(each) for each in batches.read(data, made.tasks)]


_urls = st.sampled_from([_URL, _URL.replace(b"Finished", b"Nothing"), b"", b"x" * 130])
_payloads = st.one_of(
    st.builds(payload, size=st.sampled_from([0, 1, 120, 140, 5000])), st.binary(max_size=3)
)
_options = st.builds(
    worker_queue_pb2.TaskOptions,
    queue=st.sampled_from(["", "other", "not a queue!"]),
    priority=st.sampled_from([None, 3, 99_999]),
    concurrency_key=st.sampled_from([None, "key"]),
    job_key=st.sampled_from([None, "job"]),
    tags=st.sampled_from([[], ["a", "b"]]),
).map(worker_queue_pb2.TaskOptions.SerializeToString)
_padding = st.sampled_from([0, 0, 0, 1, 2])
_parts = st.lists(
    st.one_of(
        st.builds(field, st.just(1), st.sampled_from([_ID, _ID.upper(), b"", b"no id"]), _padding),
        st.builds(
            lambda parts, padding: field(2, b"".join(parts), padding),
            st.lists(
                st.one_of(
                    st.builds(field, st.just(1), _urls, _padding),
                    st.builds(field, st.just(2), _payloads, _padding),
                ),
                max_size=3,
            ),
            _padding,
        ),
        st.just(
            packed(field(1, _URL), field(2, payload())),
        ),
        st.just(field(3, field(1, b"runFinished"))),
        st.builds(field, st.just(4), _options, _padding),
        st.just(field(77, b"unknown")),
    ),
    max_size=4,
).map(b"".join)


@given(st.lists(_parts, min_size=2, max_size=5))
def test_any_bytes_mean_the_same_together_and_alone(catalog: Catalog, tasks: list[bytes]) -> None:
    try:
        expected = [alone(EnqueueReader(catalog), each) for each in tasks]
    except DecodeError:
        return
    # With usual ones around, so that there is something to read them together with.
    usual = [task("a"), task("b", priority=3)]
    everything = together(catalog, [*usual, *tasks, *usual])
    assert everything[2:-2] == expected
    assert everything[:2] == [alone(EnqueueReader(catalog), each) for each in usual]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(field(1, _ID, padding=1), id="a length longer than it must be"),
        pytest.param(field(1, b"x") + field(1, _ID), id="an id twice"),
        pytest.param(packed(field(1, _URL)), id="a payload in two parts"),
        pytest.param(field(3, field(1, b"runFinished")), id="another form of payload before it"),
        pytest.param(field(77, b"?"), id="a field of a later version"),
    ],
)
def test_odd_but_valid_bytes_are_accepted(catalog: Catalog, odd: bytes) -> None:
    made = odd + packed(field(1, _URL), field(2, payload("odd")))
    read = together(catalog, [made, made])
    assert read == [alone(EnqueueReader(catalog), made)] * 2
    assert isinstance(read[0], tuple), "refused"


def test_one_bad_payload_refuses_no_other(catalog: Catalog) -> None:
    bad = packed(field(1, _URL), field(2, b"\xff"))
    first, middle, last = together(catalog, [task("a"), bad, task("b")])
    assert first == alone(EnqueueReader(catalog), task("a"))
    assert middle == alone(EnqueueReader(catalog), bad)
    assert last == alone(EnqueueReader(catalog), task("b"))


def test_what_can_be_is_read_together(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def parse_all(kind: Kind, delimited: Sequence[bytes]) -> Sequence[Message] | None:
        asked.append((kind.name, len(delimited)))
        return Catalog.parse_all(catalog, kind, delimited)

    monkeypatch.setattr(catalog, "parse_all", parse_all)
    run, stop = request(tasks_pb2.RunFinished(id="r")), request(tasks_pb2.StopVM(id="v"))
    large = request(tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", text="t" * 5_000))
    index = request(tasks_pb2.IndexEndpoint(id="i"))
    dynamic = worker_queue_pb2.EnqueueRequest()
    dynamic.dynamic.kind = "runFinished"
    made = [run, dynamic, stop, index, run, large, stop, worker_queue_pb2.EnqueueRequest(), large]
    data = worker_queue_pb2.EnqueueBatchRequest(tasks=made)
    read = BatchReader(catalog, EnqueueReader(catalog)).read(data.SerializeToString(), data.tasks)
    assert asked == [("runFinished", 2), ("stopVM", 2)]
    # The one without its id, and the one without a payload.
    assert [place for place, each in enumerate(read) if isinstance(each, Refused)] == [1, 7]


def test_tasks_of_one_batch_share_their_spec(catalog: Catalog) -> None:
    made = worker_queue_pb2.EnqueueBatchRequest(
        tasks=[request(tasks_pb2.RunFinished(id="x"), queue="q")] * 10
    )
    reader = BatchReader(catalog, EnqueueReader(catalog))
    read = reader.read(made.SerializeToString(), made.tasks)
    tasks = [each for each in read if isinstance(each, NewTask)]
    assert len(tasks) == 10
    assert len({id(each.spec) for each in tasks}) == 1
    assert len({each.task_id for each in tasks}) == 10
