"""Answers encoded by hand are what the generated classes would have made of them."""

from __future__ import annotations

import asyncio
import uuid

from hypothesis import given
from hypothesis import strategies as st

from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Outcome, Spec
from workerqueue_server.queue.errors import TooLarge
from workerqueue_server.rpc.enqueue_answers import EnqueueAnswers
from workerqueue_server.rpc.views import stored_task
from workerqueue_server.store.reads import ReadStore

CATALOG = Catalog.load()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
# Never opened: new tasks are told without the database.
READS = ReadStore("")
FIELDS: tuple[dict[str, object], ...] = (
    {},
    {"delay_ms": 5_000},
    {"run_at": "2027-01-01T00:00:00Z", "expire_at": "2027-01-02T00:00:00Z"},
    {"tags": ["a", "b"], "metadata": {"k": "v"}, "retry_policy": [1000, 2.0, 60_000, 0.1]},
)


@st.composite
def tasks(draw: st.DrawFn) -> NewTask:
    kind = draw(st.sampled_from(sorted(CATALOG.kinds)))
    fields = draw(st.sampled_from(FIELDS))
    return NewTask(
        draw(st.binary(min_size=16, max_size=16)),
        draw(st.booleans()),
        Spec(draw(TEXTS), kind, draw(st.integers(-1000, 1000)), 3, 60_000, 30_500, 1, fields),
        draw(st.binary(max_size=300) | st.just(b"x" * 20_000)),
        draw(st.none() | TEXTS),
    )


@given(st.lists(tasks(), max_size=6), st.integers(0, 253_402_300_799_999_999), st.booleans())
def test_answers_of_new_tasks(new: list[NewTask], stored_at: int, include_tasks: bool) -> None:
    answers = EnqueueAnswers(CATALOG, READS)
    result = EnqueueResult(stored_at, Outcome.CREATED)
    expected = [
        worker_queue_pb2.EnqueueBatchResult(
            task_id=str(uuid.UUID(bytes=task.task_id)),
            outcome=worker_queue_pb2.ENQUEUE_OUTCOME_CREATED,
            task=stored_task(task, stored_at, CATALOG) if include_tasks else None,
        )
        for task in new
    ]
    data = asyncio.run(
        answers.many(len(new), new, [result] * len(new), {}, include_tasks=include_tasks)
    )
    assert list(worker_queue_pb2.EnqueueBatchResponse.FromString(data).results) == expected
    if include_tasks:
        for task, item in zip(new, expected, strict=True):
            single = worker_queue_pb2.EnqueueResponse.FromString(
                asyncio.run(answers.one(task, result))
            )
            assert (single.task, single.outcome) == (item.task, item.outcome)


@given(st.lists(st.sampled_from(["stored", "invalid", "conflict"]), max_size=9))
def test_refusals_keep_their_places(items: list[str]) -> None:
    error = TooLarge("payload", "too large")
    spec = Spec("q", "runFinished", 0, 3, 60_000, 30_000, 1, {})
    checked = [kind for kind in items if kind != "invalid"]
    new = [NewTask(bytes([place] * 16), True, spec, b"", None) for place in range(len(checked))]
    results = [
        EnqueueResult(1, Outcome.CREATED, None, error if kind == "conflict" else None)
        for kind in checked
    ]
    refused = {place: error for place, kind in enumerate(items) if kind == "invalid"}
    data = asyncio.run(
        EnqueueAnswers(CATALOG, READS).many(
            len(items), new, results, dict(refused), include_tasks=True
        )
    )
    told = worker_queue_pb2.EnqueueBatchResponse.FromString(data).results
    assert [result.HasField("error") for result in told] == [kind != "stored" for kind in items]
    assert [result.HasField("task") for result in told] == [kind == "stored" for kind in items]
