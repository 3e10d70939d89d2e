"""What a waiting call is counted as is about the memory that it holds, whatever it is made of."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from tests.toolkit import dynamic, request
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.queue.enqueue import NewTask, held_bytes
from workerqueue_server.rpc.enqueue_requests import EnqueueReader

Item = worker_queue_pb2.EnqueueRequest

_CATALOG = Catalog.load()


def _email(size: int) -> Message:
    text = "x" * size
    return tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", html=text, text="t")


def _small(_: int) -> Item:
    return request()


def _medium(_: int) -> Item:
    return request(_email(1_000))


def _large(_: int) -> Item:
    return request(_email(100_000))


def _keyed(number: int) -> Item:
    return request(job_key=f"{number}" + "k" * 500, concurrency_key=f"{number}" + "k" * 500)


def _long_metadata(number: int) -> Item:
    return request(metadata={"note": f"{number}" + "m" * 16_000})


def _much_metadata(number: int) -> Item:
    return request(metadata={f"{entry}": f"{number}" for entry in range(64)})


def _for_shells(number: int) -> Item:
    return dynamic("registerJob", {"endpointId": "e", "job": {"steps": ["s"] * 400, "n": number}})


@pytest.mark.parametrize(
    ("count", "make"),
    [
        (2_000, _small),
        (1_000, _medium),
        (30, _large),
        (1_000, _keyed),
        (200, _long_metadata),
        (200, _much_metadata),
        (40, _for_shells),
    ],
)
def test_the_estimate_is_true_within_a_factor_of_two(
    count: int, make: Callable[[int], Item]
) -> None:
    data = worker_queue_pb2.EnqueueBatchRequest(tasks=map(make, range(count))).SerializeToString()
    # What is read once, such as the classes of the payloads, is not the call's.
    _read(EnqueueReader(_CATALOG), data)
    # A reader of its own, so that no options are known yet.
    reader = EnqueueReader(_CATALOG)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tasks = _read(reader, data)
        # Its caches have a bound of their own.
        del reader
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    held = after - before + len(data) + bounds.CALL_BYTES
    estimate = held_bytes(tasks, len(data))
    assert held / 2 <= estimate <= 2 * held


def _read(reader: EnqueueReader, data: bytes) -> list[NewTask]:
    request = worker_queue_pb2.EnqueueBatchRequest.FromString(data)
    return [reader.read(item) for item in request.tasks]
