"""Enqueue and EnqueueBatch: both payload forms, every option, every refusal, repeats."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from tests.sql import Inspector
from tests.toolkit import (
    Api,
    Refusal,
    dynamic,
    eventually,
    packed,
    refusal,
    refused,
    request,
    seconds,
)
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import policy_pb2, task_pb2, worker_queue_pb2

_CREATED = worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
_EXISTED = worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED


async def test_both_forms_of_a_payload_make_the_same_task(api: Api, queue: str) -> None:
    message = tasks_pb2.GithubPush(branch="main", commit_sha="0123abc", repository="acme/site")
    typed = await api.enqueue(message, queue=queue)
    answer = await api.send(
        dynamic(
            "githubPush",
            {"branch": "main", "commitSha": "0123abc", "repository": "acme/site"},
            queue=queue,
        )
    )
    assert typed.payload == answer.task.payload == packed(message)
    assert typed.kind == answer.task.kind == "githubPush"
    first, second = await api.take(queue)
    assert first.payload == second.payload == packed(message)


async def test_fields_may_be_named_as_in_the_contract_too(api: Api, queue: str) -> None:
    made = await api.send(
        dynamic(
            "githubPush", {"branch": "b", "commit_sha": "0123abc", "repository": "a/b"}, queue=queue
        )
    )
    unpacked = tasks_pb2.GithubPush()
    made.task.payload.Unpack(unpacked)
    assert unpacked.commit_sha == "0123abc"


async def test_json_inside_a_payload_survives(api: Api, queue: str) -> None:
    job = {"id": "j", "nested": {"list": [1, 2.5, None, "ü", True], "empty": {}}}
    await api.send(dynamic("registerJob", {"endpointId": "e", "job": job}, queue=queue))
    (task,) = await api.take(queue)
    payload = tasks_pb2.RegisterJob()
    assert task.payload.Unpack(payload)
    assert payload.endpoint_id == "e"
    assert payload.job["nested"]["list"][3] == "ü"  # type: ignore[index]


async def test_the_policy_of_the_kind_applies(api: Api) -> None:
    task = await api.enqueue(tasks_pb2.PerformRunExecution(id="policy-test"))
    assert task.queue == "run-executions"
    assert (task.priority, task.max_attempts, task.concurrency_limit) == (0, 1, 1)
    assert task.timeout.ToSeconds() == 1800
    assert task.lease_duration.ToSeconds() == 30
    assert task.concurrency_key == "runs-policy-test"
    email = await api.enqueue(tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", text="t"))
    assert (email.queue, email.priority) == ("internal-queue", 100)
    assert email.timeout.ToSeconds() == 30


async def test_every_option_overrides_the_policy_and_is_answered(
    api: Api, queue: str, sql: Inspector
) -> None:
    run_at, expire_at = Timestamp(), Timestamp()
    now = await sql.value("select now()")
    run_at.FromDatetime(now + timedelta(hours=1))
    expire_at.FromDatetime(now + timedelta(hours=2))
    options: dict[str, Any] = {
        "queue": queue,
        "priority": -7,
        "max_attempts": 9,
        "timeout": seconds(7.5),
        "lease_duration": seconds(5),
        "run_at": run_at,
        "expire_at": expire_at,
        "concurrency_key": "my-key",
        "concurrency_limit": 4,
        "retry": policy_pb2.RetryPolicy(
            initial_backoff=seconds(2), multiplier=3, max_backoff=seconds(60), jitter=0
        ),
        "retention": policy_pb2.RetentionPolicy(succeeded=seconds(60), dead=seconds(0)),
        "tags": ["red", "blue", "red"],
        "metadata": {"a": "1", "b": ""},
    }
    task_id = str(uuid.uuid4())
    created = await api.send(request(task_id=task_id, **options))
    assert created.outcome == _CREATED
    again = await api.send(request(task_id=task_id))
    assert again.outcome == _EXISTED
    for task in (created.task, again.task):
        assert task.task_id == task_id
        assert task.state == task_pb2.TASK_STATE_SCHEDULED
        assert (task.queue, task.priority, task.max_attempts) == (queue, -7, 9)
        assert task.timeout.ToMilliseconds() == 7_500
        assert task.lease_duration.ToMilliseconds() == 5_000
        assert task.run_at == run_at
        assert task.expire_at == expire_at
        assert (task.concurrency_key, task.concurrency_limit) == ("my-key", 4)
        assert task.retry == options["retry"]
        assert task.retention == options["retention"]
        assert list(task.tags) == ["red", "blue"]
        assert dict(task.metadata) == {"a": "1", "b": ""}
        assert not task.HasField("started_at")
    assert created.task == again.task


async def test_the_answer_says_in_which_state_the_task_was_stored(
    api: Api, queue: str, sql: Inspector
) -> None:
    past = Timestamp(seconds=1)
    for options, state in (
        ({}, task_pb2.TASK_STATE_AVAILABLE),
        ({"run_at": past}, task_pb2.TASK_STATE_AVAILABLE),
        ({"delay": seconds(0)}, task_pb2.TASK_STATE_AVAILABLE),
        ({"delay": seconds(60)}, task_pb2.TASK_STATE_SCHEDULED),
    ):
        task = await api.enqueue(queue=queue, **options)
        assert task.state == state, options
        stored = await sql.task(task.task_id)
        assert task_pb2.TaskState.Name(task.state) == f"TASK_STATE_{stored['state'].upper()}"
        assert task.run_at.ToDatetime(stored["run_at"].tzinfo) == stored["run_at"]
        assert task.created_at.ToDatetime(stored["created_at"].tzinfo) == stored["created_at"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"queue": "no spaces"}, "options.queue"),
        ({"queue": "q" * 129}, "options.queue"),
        ({"priority": 1001}, "options.priority"),
        ({"priority": -1001}, "options.priority"),
        ({"max_attempts": -1}, "options.max_attempts"),
        ({"max_attempts": 1001}, "options.max_attempts"),
        ({"timeout": seconds(0.099)}, "options.timeout"),
        ({"timeout": seconds(7 * 86400 + 1)}, "options.timeout"),
        ({"lease_duration": seconds(0.5)}, "options.lease_duration"),
        ({"lease_duration": seconds(3601)}, "options.lease_duration"),
        ({"delay": seconds(-1)}, "options.delay"),
        ({"delay": seconds(367 * 86400)}, "options.delay"),
        ({"run_at": Timestamp(seconds=10**12)}, "options.run_at"),
        ({"expire_at": Timestamp(seconds=-(10**12))}, "options.expire_at"),
        ({"concurrency_key": "k" * 513}, "options.concurrency_key"),
        ({"concurrency_key": "a\x00b"}, "options.concurrency_key"),
        ({"concurrency_limit": 1001}, "options.concurrency_limit"),
        ({"concurrency_limit": -1}, "options.concurrency_limit"),
        ({"retry": {"initial_backoff": seconds(0)}}, "options.retry.initial_backoff"),
        ({"retry": {"multiplier": 0.5}}, "options.retry.multiplier"),
        ({"retry": {"multiplier": float("nan")}}, "options.retry.multiplier"),
        ({"retry": {"max_backoff": seconds(31 * 86400)}}, "options.retry.max_backoff"),
        ({"retry": {"jitter": 1.5}}, "options.retry.jitter"),
        ({"retention": {"succeeded": seconds(31 * 86400)}}, "options.retention.succeeded"),
        ({"retention": {"dead": seconds(-1)}}, "options.retention.dead"),
        ({"tags": ["t"] * 17}, "options.tags"),
        ({"tags": ["fine", ""]}, "options.tags[1]"),
        ({"tags": ["t" * 129]}, "options.tags[0]"),
        ({"metadata": {str(n): "" for n in range(65)}}, "options.metadata"),
        ({"metadata": {"k": "v" * (16 * 1024)}}, "options.metadata"),
        ({"metadata": {"": "v"}}, "options.metadata"),
        ({"metadata": {"k": "a\x00"}}, "options.metadata"),
    ],
)
async def test_a_bad_option_is_refused_by_field(
    api: Api, options: dict[str, Any], field: str
) -> None:
    problem = await refused(api.enqueue(**options))
    assert problem.code == grpc.StatusCode.INVALID_ARGUMENT
    assert problem.reason == "INVALID_FIELD"
    assert list(problem.fields) == [field]
    assert problem.fields[field]


async def test_all_bad_options_are_told_at_once(api: Api) -> None:
    problem = await refused(api.enqueue(priority=2000, max_attempts=2000, queue="!"))
    assert set(problem.fields) == {"options.priority", "options.max_attempts", "options.queue"}


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (request(tasks_pb2.StartRun()), "payload.id"),
        (
            request(tasks_pb2.ScheduleEmail(to="nobody", subject="s", text="t")),
            "payload.to",
        ),
        (dynamic("startRun", {"id": ""}), "dynamic.args.id"),
        (dynamic("startRun"), "dynamic.args.id"),
        (dynamic("startRun", {"id": "r", "unknown": 1}), "dynamic.args"),
        (dynamic("startRun", {"id": 5}), "dynamic.args"),
        (
            worker_queue_pb2.EnqueueRequest(
                payload=AnyMessage(
                    type_url="type.googleapis.com/workerqueue.tasks.v1.StartRun", value=b"\xff"
                )
            ),
            "payload",
        ),
    ],
)
async def test_a_payload_that_breaks_its_rules_is_refused_by_field(
    api: Api, made: worker_queue_pb2.EnqueueRequest, field: str
) -> None:
    problem = await refused(api.send(made))
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_PAYLOAD",
    )
    assert list(problem.fields) == [field]


@pytest.mark.parametrize(
    ("made", "field", "nearest"),
    [
        (dynamic("startRunn", {"id": "r"}), "dynamic.kind", "startRun"),
        (dynamic("STARTRUN", {"id": "r"}), "dynamic.kind", "startRun"),
        (dynamic("invokeDispatcher", {"id": "r"}), "dynamic.kind", "events.invokeDispatcher"),
        (
            worker_queue_pb2.EnqueueRequest(
                payload=AnyMessage(type_url="type.googleapis.com/workerqueue.tasks.v1.StartRuns")
            ),
            "payload.type_url",
            "workerqueue.tasks.v1.StartRun",
        ),
    ],
)
async def test_an_unknown_kind_is_refused_with_the_nearest_known_ones(
    api: Api, made: worker_queue_pb2.EnqueueRequest, field: str, nearest: str
) -> None:
    problem = await refused(api.send(made))
    assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_KIND")
    assert list(problem.fields) == [field]
    assert nearest in problem.message


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (worker_queue_pb2.EnqueueRequest(), "payload"),
        (request(task_id="nonsense"), "task_id"),
        (request(task_id="{" + str(uuid.uuid4()) + "}"), "task_id"),
        (request(task_id=uuid.uuid4().hex), "task_id"),
    ],
)
async def test_a_request_without_payload_or_with_a_bad_id_is_refused(
    api: Api, made: worker_queue_pb2.EnqueueRequest, field: str
) -> None:
    problem = await refused(api.send(made))
    assert problem.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(problem.fields) == [field]


async def test_a_payload_that_could_never_be_delivered_is_refused(api: Api, queue: str) -> None:
    source = tasks_pb2.RegisterJob(endpoint_id="e")
    source.job.update({"data": "x" * (2 * 1024 * 1024)})
    problem = await refused(api.enqueue(source, queue=queue))
    assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
    source.job.update({"data": "x" * (2 * 1024 * 1024 - 200)})
    await api.enqueue(source, queue=queue)
    (task,) = await api.take(queue)
    assert task.payload == packed(source)


async def test_a_message_over_the_size_limit_of_grpc_is_refused(api: Api) -> None:
    made = request(tasks_pb2.ScheduleEmail(html="x" * (5 * 1024 * 1024)))
    problem = await refused(api.send(made))
    assert problem.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_bytes_that_are_no_request_are_refused_without_details_of_the_server(
    api: Api,
) -> None:
    raw: Any = api.channel.unary_unary("/workerqueue.v1.WorkerQueue/Enqueue")
    problem = await refused(raw(b"\xff\xff"))
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED_MESSAGE",
    )
    assert "Traceback" not in problem.message


async def test_a_key_template_over_a_long_field_is_refused_by_the_payload(api: Api) -> None:
    problem = await refused(api.enqueue(tasks_pb2.PerformRunExecution(id="x" * 300)))
    assert problem.code == grpc.StatusCode.INVALID_ARGUMENT


class TestRepeats:
    async def test_the_same_id_never_makes_a_second_task(
        self, api: Api, queue: str, sql: Inspector
    ) -> None:
        task_id = str(uuid.uuid4())
        first = await api.send(request(tasks_pb2.RunFinished(id="1"), task_id=task_id, queue=queue))
        second = await api.send(
            request(tasks_pb2.StartRun(id="2"), task_id=task_id.upper(), priority=5)
        )
        assert (first.outcome, second.outcome) == (_CREATED, _EXISTED)
        assert second.task.task_id == task_id
        assert (second.task.kind, second.task.queue) == ("runFinished", queue)
        assert second.task.payload == first.task.payload
        assert len(await api.take(queue)) == 1
        leased = (await api.send(request(task_id=task_id))).task
        assert leased.state == task_pb2.TASK_STATE_LEASED
        assert leased.attempt == 1

    @pytest.mark.parametrize("end", ["succeeded", "dead", "expired"])
    async def test_also_after_the_task_is_finished(
        self, api: Api, queue: str, sql: Inspector, end: str
    ) -> None:
        task_id = str(uuid.uuid4())
        if end == "expired":
            await api.enqueue(task_id=task_id, queue=queue, expire_at=Timestamp(seconds=1))

            async def expired() -> bool:
                return await sql.state(task_id) == "expired"

            await eventually(expired, "the task expires")
        else:
            await api.enqueue(task_id=task_id, queue=queue)
            (leased,) = await api.take(queue)
            if end == "succeeded":
                await api.ack(leased.lease_token, tasks_pb2.RunFinished(id="result"))
            else:
                await api.fail(
                    leased.lease_token, permanent=True, error={"type": "E", "message": "m"}
                )
        answer = await api.send(request(task_id=task_id, queue=queue))
        assert answer.outcome == _EXISTED
        assert task_pb2.TaskState.Name(answer.task.state) == f"TASK_STATE_{end.upper()}"
        assert answer.task.HasField("finished_at")
        if end == "succeeded":
            assert answer.task.result == packed(tasks_pb2.RunFinished(id="result"))
        if end == "dead":
            assert answer.task.last_error == task_pb2.TaskError(type="E", message="m")
        assert await api.take(queue) == []
        assert await sql.state(task_id) == end

    async def test_twenty_callers_at_once_make_one_task(
        self, api: Api, queue: str, sql: Inspector
    ) -> None:
        for _ in range(5):
            task_id = str(uuid.uuid4())
            answers = await asyncio.gather(
                *(api.send(request(task_id=task_id, queue=queue)) for _ in range(20))
            )
            outcomes = [answer.outcome for answer in answers]
            assert outcomes.count(_CREATED) == 1
            assert outcomes.count(_EXISTED) == 19
            assert {answer.task.task_id for answer in answers} == {task_id}
        assert len(await api.take(queue)) == 5

    async def test_a_repeat_that_races_the_end_of_the_task_makes_no_second_one(
        self, api: Api, queue: str, sql: Inspector
    ) -> None:
        ids = [str(uuid.uuid4()) for _ in range(200)]
        await api.ids([request(task_id=task_id, queue=queue) for task_id in ids])
        leased = await api.take(queue, 200)
        answers = await asyncio.gather(
            *(api.ack(task.lease_token) for task in leased),
            *(api.send(request(task_id=task_id, queue=queue)) for task_id in ids),
        )
        assert {answer.outcome for answer in answers[200:]} == {_EXISTED}  # type: ignore[union-attr]
        assert await sql.states(ids) == {"succeeded": 200}


class TestBatches:
    async def test_results_stand_in_the_order_of_the_tasks(self, api: Api, queue: str) -> None:
        ids = [str(uuid.uuid4()) for _ in range(50)]
        results = await api.batch([request(task_id=task_id, queue=queue) for task_id in ids])
        assert [result.task_id for result in results] == ids
        assert {result.outcome for result in results} == {_CREATED}
        assert [task.task_id for task in await api.take(queue)] == ids
        again = await api.batch([request(task_id=task_id, queue=queue) for task_id in ids])
        assert [result.task_id for result in again] == ids
        assert {result.outcome for result in again} == {_EXISTED}

    async def test_a_bad_item_is_refused_alone(self, api: Api, queue: str) -> None:
        bad = 9
        items = [request(queue=queue) for _ in range(12)]
        items[bad] = request(queue=queue, priority=5000)
        items[3] = dynamic("startRunn", {}, queue=queue)
        results = await api.batch(items)
        assert [n for n, result in enumerate(results) if result.HasField("error")] == [3, bad]
        assert not results[bad].task_id
        assert results[bad].outcome == worker_queue_pb2.ENQUEUE_OUTCOME_UNSPECIFIED
        problem: Refusal = refusal(results[bad].error)
        assert (problem.code, problem.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
        )
        assert list(problem.fields) == ["options.priority"]
        assert refusal(results[3].error).reason == "UNKNOWN_KIND"
        taken = await api.take(queue)
        assert [task.task_id for task in taken] == [r.task_id for r in results if r.task_id]

    async def test_all_or_nothing_refuses_all(self, api: Api, queue: str) -> None:
        items = [request(queue=queue) for _ in range(4)]
        items[2] = request(queue=queue, priority=5000)
        results = await api.batch(items, all_or_nothing=True)
        problems = [refusal(result.error) for result in results]
        assert [problem.reason for problem in problems] == [
            "BATCH_REFUSED",
            "BATCH_REFUSED",
            "INVALID_FIELD",
            "BATCH_REFUSED",
        ]
        assert problems[0].code == grpc.StatusCode.ABORTED
        assert await api.take(queue) == []
        fine = await api.batch([request(queue=queue)] * 2, all_or_nothing=True)
        assert {result.outcome for result in fine} == {_CREATED}

    async def test_two_items_with_one_id_make_one_task(self, api: Api, queue: str) -> None:
        task_id = str(uuid.uuid4())
        results = await api.batch(
            [
                request(tasks_pb2.RunFinished(id="first"), task_id=task_id, queue=queue),
                request(queue=queue),
                request(tasks_pb2.RunFinished(id="second"), task_id=task_id, queue=queue),
            ]
        )
        assert [result.outcome for result in results] == [_CREATED, _CREATED, _EXISTED]
        assert results[0].task_id == results[2].task_id == task_id
        first, _ = await api.take(queue)
        assert first.payload == packed(tasks_pb2.RunFinished(id="first"))

    async def test_a_batch_is_bounded(self, api: Api, queue: str) -> None:
        for count in (0, 10_001):
            problem = await refused(api.batch([request(queue=queue)] * count))
            assert (problem.code, problem.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "TOO_LARGE",
            )
            assert list(problem.fields) == ["tasks"]
        assert len(await api.ids([request(queue=queue)] * 10_000)) == 10_000
        assert await api.take(queue, 1) != []

    async def test_a_batch_of_many_queues_priorities_and_keys(
        self, api: Api, queue: str, sql: Inspector
    ) -> None:
        items = [
            request(
                queue=f"{queue}-{n % 7}",
                priority=n % 11,
                concurrency_key=f"{queue}-{n % 13}" if n % 2 else "",
                delay=seconds(3600) if n % 5 == 0 else None,
            )
            for n in range(500)
        ]
        ids = await api.ids(items)
        states = await sql.states(ids)
        assert sum(states.values()) == 500
        assert states["scheduled"] == 100
        # One holder for each of the keys; everybody without a key is available.
        assert states["available"] == 200 + 13
        assert states["blocked"] == 200 - 13


async def test_concurrent_unary_calls_all_get_their_own_answer(api: Api, queue: str) -> None:
    ids = [str(uuid.uuid4()) for _ in range(400)]
    answers: list[Any] = await asyncio.gather(
        *(
            api.send(request(tasks_pb2.RunFinished(id=task_id), task_id=task_id, queue=queue))
            if n % 10
            else refused(api.send(request(task_id=task_id, priority=9999)))
            for n, task_id in enumerate(ids)
        )
    )
    for n, (task_id, answer) in enumerate(zip(ids, answers, strict=True)):
        if n % 10:
            assert answer.task.task_id == task_id
            assert answer.task.payload == packed(tasks_pb2.RunFinished(id=task_id))
        else:
            assert answer.reason == "INVALID_FIELD"
    assert len(await api.take(queue, 1_000)) == 360
