"""`workerqueue queues`, `kinds` and `workers`."""

from __future__ import annotations

from tests.integration.cli.commands import Cli
from tests.toolkit import Api, eventually


async def test_queues_are_listed_with_what_they_hold(cli: Cli, api: Api, queue: str) -> None:
    await api.enqueue(queue=queue)
    await api.enqueue(queue=queue, delay={"seconds": 3600})

    async def counted() -> list[str] | None:
        rows = {row[0]: row for row in (await cli("queues")).rows()}
        row = rows.get(queue)
        return row if row and row[2] == "1" and row[4] == "1" else None

    row = await eventually(counted, "the queue's numbers")
    assert row[:6] == [queue, "open", "1", "-", "1", "-"]
    listed = (await cli("queues", "list", "-o", "json")).json()
    (found,) = [q for q in listed if q["name"] == queue]
    assert found["statistics"]["tasksByState"] == {"available": "1", "scheduled": "1"}


async def test_a_queue_is_shown_with_its_kinds(cli: Cli, api: Api, queue: str) -> None:
    await api.enqueue(queue=queue)

    async def shown() -> str | None:
        out = (await cli("queues", "show", queue)).out
        return out if "runFinished" in out else None

    out = await eventually(shown, "the kind's numbers")
    assert "max in flight     none" in out
    assert "oldest available" in out


async def test_a_queue_is_paused_and_resumed(cli: Cli, api: Api, queue: str) -> None:
    await api.enqueue(queue=queue)
    assert (await cli("queues", "pause", queue)).out.startswith(f"{queue}: paused")
    assert await api.take(queue) == []
    resumed = await cli("queues", "resume", queue, "-o", "json")
    assert resumed.json()["paused"] is False
    assert len(await api.take(queue)) == 1


async def test_limits_are_set_and_taken_away(cli: Cli, api: Api, queue: str) -> None:
    for _ in range(3):
        await api.enqueue(queue=queue)
    limited = await cli("queues", "set", queue, "--max-in-flight", "2")
    assert limited.out == f"{queue}: open, max in flight 2, per worker none\n"
    assert len(await api.take(queue)) == 2
    free = await cli("queues", "set", queue, "--max-in-flight", "none", "-o", "json")
    assert free.json()["maxInFlight"] == 0
    assert free.json()["operatorLimits"] is True
    assert len(await api.take(queue)) == 1


async def test_limits_go_back_to_the_contracts(cli: Cli) -> None:
    await cli("queues", "set", "executions", "--max-in-flight-per-worker", "1")
    reset = await cli("queues", "set", "executions", "--reset")
    assert "per worker 10" in reset.out


async def test_a_queue_can_be_made(cli: Cli) -> None:
    refused = await cli("queues", "set", "new-queue", "--max-in-flight", "2", code=1)
    assert "NOT_FOUND (QUEUE_NOT_FOUND)" in refused.err
    made = await cli("queues", "set", "new-queue", "--max-in-flight", "2", "--create")
    assert made.out.startswith("new-queue: open, max in flight 2")


async def test_setting_nothing_or_nonsense_is_wrong_usage(cli: Cli) -> None:
    await cli("queues", "set", "default", code=2)
    await cli("queues", "set", "default", "--max-in-flight", "0", code=2)
    await cli("queues", "set", "default", "--max-in-flight", "2", "--reset", code=2)


async def test_a_queue_is_purged(cli: Cli, api: Api, queue: str) -> None:
    for _ in range(3):
        await api.enqueue(queue=queue)
    (leased,) = await api.take(queue, 1)
    assert (await cli("queues", "purge", queue, "--dry-run")).out == "2 tasks would be deleted\n"
    await cli("queues", "purge", queue, code=2)
    assert (await cli("queues", "purge", queue, "--yes")).out == "2 tasks deleted\n"
    await api.ack(leased.lease_token)
    assert "QUEUE_NOT_FOUND" in (await cli("queues", "purge", "nowhere", "--yes", code=1)).err


async def test_all_kinds_are_listed(cli: Cli) -> None:
    rows = {row[0]: row for row in (await cli("kinds")).rows()}
    assert len(rows) == 24
    assert rows["performRunExecution"][1:] == ["run-executions", "0", "1", "30m", "runs-{id}", "id"]
    (found,) = [k for k in (await cli("kinds", "-o", "json")).json() if k["kind"] == "startRun"]
    assert found["policy"]["maxAttempts"] == 13


async def test_a_kind_is_shown_with_a_command_that_works(cli: Cli) -> None:
    shown = (await cli("kinds", "show", "scheduleEmail")).out
    assert "workerqueue.tasks.v1.ScheduleEmail" in shown
    example = shown.splitlines()[-1]
    prefix = "workerqueue enqueue scheduleEmail '"
    assert example.startswith(prefix)
    await cli("enqueue", "scheduleEmail", example.removeprefix(prefix).removesuffix("'"))


async def test_an_unknown_kind_is_told_with_the_nearest(cli: Cli) -> None:
    refused = await cli("kinds", "show", "scheduleMail", code=1)
    assert "did you mean scheduleEmail?" in refused.err


async def test_workers_are_listed_drained_and_resumed(cli: Cli, api: Api, queue: str) -> None:
    await api.enqueue(queue=queue)
    async with api.worker(queue, window=7, worker_id="worker-seven") as worker:
        task = await worker.task()

        async def listed() -> list[str] | None:
            rows = {row[0]: row for row in (await cli("workers")).rows()}
            row = rows.get("worker-seven")
            # Its lease is seen before its stream, which servers report about once a second.
            return row if row and row[1] == "working" else None

        row = await eventually(listed, "the worker")
        assert row[2:4] == ["1", "7"]
        assert queue in row
        drained = await cli("workers", "drain", "worker-seven", "--grace", "5s", "--for", "1h")
        assert drained.out.startswith("worker-seven: drained, holds 1 tasks, until ")
        await worker.until(
            lambda: [frame for frame in worker.frames if frame.HasField("drain")], "the drain frame"
        )
        await worker.acked(task.lease_token)
    resumed = await cli("workers", "resume", "worker-seven", "-o", "json")
    assert resumed.json()["drained"] is False
