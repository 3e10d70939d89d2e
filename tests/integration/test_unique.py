"""Unique tasks over the wire: what counts, in which states, and what a second one is told."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import pytest

from tests.sql import Inspector
from tests.toolkit import Api, dynamic, refused, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_pb2, worker_queue_pb2

CREATED = worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
EXISTED = worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED
KEPT = worker_queue_pb2.ENQUEUE_OUTCOME_KEPT
FAIL = worker_queue_pb2.UNIQUE_CONFLICT_FAIL
LIVE = [
    task_pb2.TASK_STATE_SCHEDULED,
    task_pb2.TASK_STATE_AVAILABLE,
    task_pb2.TASK_STATE_BLOCKED,
    task_pb2.TASK_STATE_LEASED,
    task_pb2.TASK_STATE_RETRYING,
]
BY_ARGS = worker_queue_pb2.Unique(by_args=True)


@pytest.fixture
def name() -> str:
    """A payload of the test's own."""
    return f"run-{uuid.uuid4().hex}"


def run(name: str) -> tasks_pb2.RunFinished:
    return tasks_pb2.RunFinished(id=name)


def push(name: str, branch: str) -> tasks_pb2.GithubPush:
    return tasks_pb2.GithubPush(branch=branch, commit_sha=name, repository="r")


async def test_the_same_payload_is_kept_once(api: Api, queue: str, name: str) -> None:
    first = await api.send(request(run(name), queue=queue, unique=BY_ARGS))
    second = await api.send(request(run(name), queue=queue, unique=BY_ARGS, priority=9))
    other = await api.send(request(run(name + "x"), queue=queue, unique=BY_ARGS))
    assert (first.outcome, second.outcome, other.outcome) == (CREATED, KEPT, CREATED)
    assert second.task == first.task
    plain = await api.send(request(run(name), queue=queue))
    assert plain.outcome == CREATED


async def test_the_kind_counts(api: Api, queue: str, name: str) -> None:
    await api.send(request(run(name), queue=queue, unique=BY_ARGS))
    other = await api.send(request(tasks_pb2.StartRun(id=name), queue=queue, unique=BY_ARGS))
    assert other.outcome == CREATED


async def test_both_forms_of_a_payload_are_the_same(api: Api, queue: str, name: str) -> None:
    args = {"branch": "main", "commitSha": name, "repository": "r"}
    await api.send(request(push(name, "main"), queue=queue, unique=BY_ARGS))
    second = await api.send(dynamic("githubPush", args, queue=queue, unique=BY_ARGS))
    assert second.outcome == KEPT


async def test_named_fields_count_alone(api: Api, queue: str, name: str) -> None:
    unique = worker_queue_pb2.Unique(by_fields=["commitSha", "repository"])
    same = worker_queue_pb2.Unique(by_fields=["repository", "commit_sha", "commitSha"])
    first = await api.send(request(push(name, "main"), queue=queue, unique=unique))
    second = await api.send(request(push(name, "other"), queue=queue, unique=same))
    third = await api.send(request(push(name + "x", "main"), queue=queue, unique=unique))
    assert (first.outcome, second.outcome, third.outcome) == (CREATED, KEPT, CREATED)


async def test_the_queue_counts_if_asked(api: Api, queue: str, name: str) -> None:
    unique = worker_queue_pb2.Unique(by_args=True, by_queue=True)
    for target, outcome in ((queue, CREATED), (queue + "-b", CREATED), (queue, KEPT)):
        assert (await api.send(request(run(name), queue=target, unique=unique))).outcome == outcome


async def test_a_period_counts_by_the_due_time(
    api: Api, sql: Inspector, queue: str, name: str
) -> None:
    unique = worker_queue_pb2.Unique(by_args=True, by_period=seconds(3600))
    # The start of the hour after the next: far from the end of a period whatever the time is.
    start = await sql.value("select date_trunc('hour', now()) + interval '2 hours'")

    async def at(minutes: int) -> int:
        made = request(run(name), queue=queue, unique=unique)
        made.options.run_at.FromMilliseconds(int(start.timestamp() * 1000) + minutes * 60_000)
        return (await api.send(made)).outcome

    assert [await at(m) for m in (0, 59, 60, -1, 61)] == [CREATED, KEPT, CREATED, CREATED, KEPT]


async def test_only_the_kind_counts_with_nothing_but_states(api: Api, queue: str) -> None:
    unique = worker_queue_pb2.Unique(by_queue=True, by_states=LIVE)
    first = await api.send(request(run("a"), queue=queue, unique=unique))
    second = await api.send(request(run("b"), queue=queue, unique=unique))
    assert (first.outcome, second.outcome) == (CREATED, KEPT)


@pytest.mark.parametrize("state", ["leased", "retrying", "scheduled", "blocked"])
async def test_live_tasks_count(
    api: Api, sql: Inspector, queue: str, name: str, state: str
) -> None:
    unique = worker_queue_pb2.Unique(by_args=True, by_states=LIVE)
    options: dict[str, Any] = {"queue": queue, "unique": unique}
    if state == "blocked":
        await api.enqueue(run("holder"), queue=queue, concurrency_key=name)
        options["concurrency_key"] = name
    if state == "scheduled":
        options["delay"] = seconds(60)
    first = await api.enqueue(run(name), **options)
    if state in ("leased", "retrying"):
        (lease,) = await api.take(queue)
        if state == "retrying":
            await api.fail(lease.lease_token, retry_after=seconds(60))
    assert await sql.state(first.task_id) == state
    assert (await api.send(request(run(name), queue=queue, unique=unique))).outcome == KEPT


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("ending", ["succeeded", "dead"])
async def test_finished_tasks_count_as_the_first_task_says(
    api: Api, queue: str, name: str, ending: str, counted: bool
) -> None:
    state = f"TASK_STATE_{ending.upper()}"
    unique = worker_queue_pb2.Unique(by_args=True, by_states=[*LIVE, *([state] if counted else [])])
    first = await api.enqueue(run(name), queue=queue, unique=unique)
    (lease,) = await api.take(queue)
    if ending == "succeeded":
        await api.ack(lease.lease_token)
    else:
        await api.fail(lease.lease_token, permanent=True)
    # The second task's own list does not decide.
    second = await api.send(request(run(name), queue=queue, unique=BY_ARGS))
    assert second.outcome == (KEPT if counted else CREATED)
    assert (second.task.task_id == first.task_id) is counted


async def test_by_default_success_counts_and_death_does_not(
    api: Api, queue: str, name: str
) -> None:
    await api.enqueue(run(name), queue=queue, unique=BY_ARGS)
    (lease,) = await api.take(queue)
    await api.fail(lease.lease_token, permanent=True)
    second = await api.send(request(run(name), queue=queue, unique=BY_ARGS))
    assert second.outcome == CREATED
    (lease,) = await api.take(queue)
    await api.ack(lease.lease_token)
    third = await api.send(request(run(name), queue=queue, unique=BY_ARGS))
    assert (third.outcome, third.task.task_id) == (KEPT, second.task.task_id)


async def test_a_finished_task_counts_until_its_retention_is_over(
    api: Api, queue: str, name: str
) -> None:
    retention = {"succeeded": seconds(0)}
    await api.enqueue(run(name), queue=queue, unique=BY_ARGS, retention=retention)
    (lease,) = await api.take(queue)
    await api.ack(lease.lease_token)
    second = await api.send(request(run(name), queue=queue, unique=BY_ARGS))
    assert second.outcome == CREATED


async def test_a_conflict_can_be_an_error(api: Api, queue: str, name: str) -> None:
    first = await api.enqueue(run(name), queue=queue, unique=BY_ARGS)
    strict = worker_queue_pb2.Unique(by_args=True, on_conflict=FAIL)
    refusal = await refused(api.send(request(run(name), queue=queue, unique=strict)))
    assert refusal.code == grpc.StatusCode.ALREADY_EXISTS
    assert refusal.reason == "KEY_CONFLICT"
    assert refusal.metadata == {"task_id": first.task_id}


async def test_a_repeated_request_is_no_conflict(api: Api, queue: str, name: str) -> None:
    strict = worker_queue_pb2.Unique(by_args=True, on_conflict=FAIL)
    again = request(run(name), task_id=str(uuid.uuid4()), queue=queue, unique=strict)
    assert (await api.send(again)).outcome == CREATED
    assert (await api.send(again)).outcome == EXISTED
    (lease,) = await api.take(queue)
    await api.ack(lease.lease_token)
    assert (await api.send(again)).outcome == EXISTED


async def test_a_repeat_is_no_conflict_with_a_newer_twin(api: Api, queue: str, name: str) -> None:
    strict = worker_queue_pb2.Unique(by_args=True, by_states=LIVE, on_conflict=FAIL)
    again = request(run(name), task_id=str(uuid.uuid4()), queue=queue, unique=strict)
    first = await api.send(again)
    (lease,) = await api.take(queue)
    await api.ack(lease.lease_token)
    twin = await api.send(request(run(name), queue=queue, unique=strict))
    assert twin.outcome == CREATED
    repeat = await api.send(again)
    assert (repeat.outcome, repeat.task.task_id) == (EXISTED, first.task.task_id)


async def test_items_of_one_batch_are_compared(api: Api, queue: str, name: str) -> None:
    strict = worker_queue_pb2.Unique(by_args=True, on_conflict=FAIL)
    results = await api.batch(
        [
            request(run(name), queue=queue, unique=BY_ARGS),
            request(run("plain"), queue=queue),
            request(run(name), queue=queue, unique=BY_ARGS),
            request(run(name), queue=queue, unique=strict),
        ]
    )
    assert [result.outcome for result in results] == [CREATED, CREATED, KEPT, 0]
    assert results[2].task_id == results[0].task_id
    assert results[3].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert len(await api.take(queue)) == 2


async def test_one_conflict_refuses_an_all_or_nothing_batch(
    api: Api, queue: str, name: str
) -> None:
    strict = worker_queue_pb2.Unique(by_args=True, on_conflict=FAIL)
    first = await api.enqueue(run(name), queue=queue, unique=BY_ARGS, delay=seconds(60))
    results = await api.batch(
        [
            request(run("a"), queue=queue),
            request(run(name), queue=queue, unique=strict),
            request(run("b"), queue=queue, job_key=name),
        ],
        all_or_nothing=True,
    )
    codes = [result.error.code for result in results]
    aborted = grpc.StatusCode.ABORTED.value[0]
    assert codes == [aborted, grpc.StatusCode.ALREADY_EXISTS.value[0], aborted]
    assert "item 1" in results[0].error.message
    assert first.task_id in results[1].error.message
    assert await api.take(queue) == []


async def test_unclear_options_are_refused(api: Api, queue: str) -> None:
    async def fields(message: tasks_pb2.GithubPush | None = None, **unique: object) -> set[str]:
        option = worker_queue_pb2.Unique(**unique)  # type: ignore[arg-type]
        made = request(message or push("a", "b"), queue=queue, unique=option)
        refusal = await refused(api.send(made))
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        return set(refusal.fields)

    assert await fields(by_args=True, by_fields=["branch"]) == {"options.unique"}
    assert await fields(by_fields=["nothing"]) == {"options.unique.by_fields"}
    assert await fields(by_fields=["branch.x"]) == {"options.unique.by_fields"}
    assert await fields(on_conflict=FAIL) == {"options.unique"}
    assert await fields(by_args=True, by_period=seconds(0.5)) == {"options.unique.by_period"}
    assert await fields(by_states=LIVE[1:]) == {"options.unique.by_states"}
    assert await fields(by_states=[*LIVE, 0]) == {"options.unique.by_states"}
    assert await fields(by_args=True, on_conflict=77) == {"options.unique.on_conflict"}


async def test_an_empty_option_asks_for_nothing(api: Api, queue: str, name: str) -> None:
    empty = worker_queue_pb2.Unique()
    for _ in range(2):
        made = request(run(name), queue=queue, unique=empty)
        assert (await api.send(made)).outcome == CREATED
