"""`workerqueue tasks`: looking at tasks and changing single ones."""

from __future__ import annotations

import asyncio
import json
import uuid

from tests.integration.cli.commands import Cli
from tests.toolkit import Api
from workerqueue.tasks.v1 import tasks_pb2

UNKNOWN = "00000000-0000-7000-8000-000000000000"


async def test_tasks_are_listed_newest_first(cli: Cli, api: Api, queue: str) -> None:
    first = await api.enqueue(queue=queue)
    second = await api.enqueue(queue=queue, tags=["special"])
    listed = await cli("tasks", "list", "--queue", queue)
    assert [row[0] for row in listed.rows()] == [second.task_id, first.task_id]
    assert listed.rows()[0][1:4] == ["runFinished", queue, "available"]
    tagged = await cli("tasks", "--queue", queue, "--tag", "special", "-o", "json")
    assert [task["taskId"] for task in tagged.json()] == [second.task_id]
    assert tagged.json()[0]["payload"]["id"] == "run", "programs get the payload"


async def test_a_list_says_that_it_is_not_all(cli: Cli, api: Api, queue: str) -> None:
    for _ in range(3):
        await api.enqueue(queue=queue)
    few = await cli("tasks", "list", "--queue", queue, "--limit", "2", "-o", "jsonl")
    assert len(few.json_lines()) == 2
    assert "more than these 2" in few.err
    everything = await cli("tasks", "list", "--queue", queue, "--all", "-o", "jsonl")
    assert len(everything.json_lines()) == 3
    assert everything.err == ""
    exactly = await cli("tasks", "list", "--queue", queue, "--limit", "3")
    assert exactly.err == ""


async def test_filters_narrow_the_list(cli: Cli, api: Api, queue: str) -> None:
    keyed = await api.enqueue(tasks_pb2.PerformRunExecution(id="1"), queue=queue, job_key="job-f")
    await api.enqueue(queue=queue)

    async def ids(*flags: str) -> list[str]:
        listed = await cli("tasks", "list", "--queue", queue, *flags, "-o", "jsonl")
        return [task["taskId"] for task in listed.json_lines()]

    assert await ids("--kind", "performRunExecution") == [keyed.task_id]
    assert await ids("--concurrency-key", "runs-1") == [keyed.task_id]
    assert await ids("--job-key", "job-f") == [keyed.task_id]
    assert await ids("--state", "dead", "--state", "leased") == []
    assert len(await ids("--state", "available", "--since", "1h")) == 2
    assert await ids("--until", "1h") == []
    assert await ids("--finished-since", "1h") == []


async def test_a_task_is_shown_with_attempts_and_errors(cli: Cli, api: Api, queue: str) -> None:
    stored = await api.enqueue(queue=queue, metadata={"customer": "ada"}, max_attempts=1)
    (task,) = await api.take(queue)
    error = {"type": "ValueError", "message": "no such run", "trace": "line 1\nline 2"}
    await api.fail(task.lease_token, error=error)
    shown = (await cli("tasks", "show", stored.task_id)).out
    for words in (
        *("state           dead", "attempt         1 of 1", "customer=ada", '"id": "run"'),
        *("one-shot", "failed", "ValueError: no such run", "trace of the last error", "line 2"),
    ):
        assert words in shown, words
    document = (await cli("tasks", "show", stored.task_id, "-o", "json")).json()
    assert document["attempts"][0]["error"]["type"] == "ValueError"


async def test_markup_in_what_users_write_is_printed_as_it_is(
    cli: Cli, api: Api, queue: str
) -> None:
    stored = await api.enqueue(queue=queue, metadata={"note": "[red]not red[/red] [/] :smile:"})
    shown = (await cli("tasks", "show", stored.task_id)).out
    assert "note=[red]not red[/red] [/] :smile:" in shown


async def test_why_says_what_a_task_waits_for(cli: Cli, api: Api, queue: str) -> None:
    stored = await api.enqueue(queue=queue)
    told = await cli("tasks", "why", stored.task_id)
    assert queue in told.out
    assert len(told.out.splitlines()) == 1
    document = (await cli("tasks", "why", stored.task_id, "-o", "json")).json()
    assert document["reason"] == "WAIT_REASON_NO_WORKER"


async def test_what_is_not_there_is_told(cli: Cli) -> None:
    for command in ("show", "why", "watch", "cancel", "retry", "delete"):
        ended = await cli("tasks", command, UNKNOWN, code=1)
        assert "NOT_FOUND (TASK_NOT_FOUND)" in ended.err, command
        assert "hint: " in ended.err
    ended = await cli("tasks", "show", "run_1", code=1)
    assert "task_id: " in ended.err


async def test_one_bad_id_does_not_keep_the_others_from_their_turn(
    cli: Cli, api: Api, queue: str
) -> None:
    first, second = [(await api.enqueue(queue=queue)).task_id for _ in range(2)]
    ended = await cli("tasks", "cancel", first, UNKNOWN, second, code=1)
    assert [line.split()[:2] for line in ended.out.splitlines()] == [
        [first, "cancelled,"],
        [second, "cancelled,"],
    ]
    assert UNKNOWN in ended.err
    assert "not all of it could be done" in ended.err


async def test_a_task_is_cancelled_retried_and_deleted(cli: Cli, api: Api, queue: str) -> None:
    task_id = (await api.enqueue(queue=queue)).task_id
    cancelled = await cli("tasks", "cancel", task_id, "--reason", "not wanted", "-o", "json")
    assert cancelled.json()["state"] == "TASK_STATE_CANCELLED"
    assert "not wanted" in cancelled.json()["lastError"]["message"]
    retried = await cli("tasks", "retry", task_id, "--attempts", "5", "-o", "json")
    assert retried.json()["state"] == "TASK_STATE_AVAILABLE"
    assert retried.json()["maxAttempts"] >= 5
    assert (await cli("tasks", "delete", task_id)).out == f"{task_id} deleted\n"
    await cli("tasks", "show", task_id, code=1)


async def test_a_succeeded_task_is_not_retried(cli: Cli, api: Api, queue: str) -> None:
    task_id = (await api.enqueue(queue=queue)).task_id
    (task,) = await api.take(queue)
    await api.ack(task.lease_token)
    refused = await cli("tasks", "retry", task_id, code=1)
    assert "FAILED_PRECONDITION (WRONG_STATE)" in refused.err


async def test_a_waiting_task_is_rescheduled(cli: Cli, api: Api, queue: str) -> None:
    task_id = (await api.enqueue(queue=queue)).task_id
    later = await cli(
        "tasks", "reschedule", task_id, "--delay", "1h", "--priority", "9", "-o", "json"
    )
    assert later.json()["state"] == "TASK_STATE_SCHEDULED"
    assert later.json()["priority"] == 9
    now = await cli("tasks", "reschedule", task_id, "--run-at", "now")
    assert "available" in now.out
    await cli("tasks", "reschedule", task_id, code=2)


async def test_the_holder_of_a_job_key_is_removed(cli: Cli, api: Api, queue: str) -> None:
    key = f"job-{uuid.uuid4()}"
    task_id = (await api.enqueue(queue=queue, job_key=key)).task_id
    assert (await cli("tasks", "remove-job-key", key)).out == f"{task_id} cancelled\n"
    await cli("tasks", "remove-job-key", key, code=1)
    task_id = (await api.enqueue(queue=queue, job_key=key)).task_id
    await api.take(queue)
    released = await cli("tasks", "remove-job-key", key)
    assert released.out == f"{task_id} runs on without the key\n"


async def test_watching_tells_every_change_until_the_end(cli: Cli, api: Api, queue: str) -> None:
    task_id = (await api.enqueue(queue=queue)).task_id
    process = await cli.start("tasks", "watch", task_id, "-o", "jsonl")
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["state"] == "TASK_STATE_AVAILABLE"
    async with api.worker(queue) as worker:
        task = await worker.task()
        assert json.loads(await process.stdout.readline())["state"] == "TASK_STATE_LEASED"
        await worker.acked(task.lease_token)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert json.loads(out.splitlines()[-1])["state"] == "TASK_STATE_SUCCEEDED"
    assert (process.returncode, err) == (0, b"")


async def test_watching_a_cancelled_task_ends_with_5(cli: Cli, api: Api, queue: str) -> None:
    task_id = (await api.enqueue(queue=queue)).task_id
    await cli("tasks", "cancel", task_id)
    ended = await cli("tasks", "watch", task_id, "-o", "json", code=5)
    assert ended.json()["state"] == "TASK_STATE_CANCELLED"


async def test_watching_ends_in_time_with_6(cli: Cli, api: Api, queue: str) -> None:
    task_id = (await api.enqueue(queue=queue)).task_id
    ended = await cli("tasks", "watch", task_id, "--timeout", "300ms", code=6)
    assert "available, attempt 0 of 3" in ended.out
    assert "has not ended in time" in ended.err
