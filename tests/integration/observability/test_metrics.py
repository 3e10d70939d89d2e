"""Figures tell what happened."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.scraping import Scrape, scrape
from tests.toolkit import NACK, Api, eventually, refused, request, seconds

LEASED = "workerqueue_tasks_leased_total"
ENDED = "workerqueue_attempts_ended_total"
ENQUEUED = "workerqueue_tasks_enqueued_total"
STALE = "workerqueue_answers_stale_total"
WAIT = "workerqueue_task_wait_duration_seconds_count"
RUN = "workerqueue_attempt_duration_seconds_count"
DEPTH = "workerqueue_queue_depth"
OLDEST = "workerqueue_queue_oldest_available_age_seconds"


async def told(url: str) -> Scrape:
    return await asyncio.to_thread(scrape, url)


async def test_each_outcome_of_an_attempt_is_counted_once(url: str, api: Api) -> None:
    requests = [request(queue="outcomes", max_attempts=1) for _ in range(8)]
    ids = await api.ids(requests)
    again = await api.batch([request(queue="outcomes", task_id=ids[0])])
    async with api.worker("outcomes", worker_id="w-outcomes", window=20) as worker:
        tasks = await worker.tasks(8)
        await worker.acked(*(task.lease_token for task in tasks[:3]))
        await worker.fail(tasks[3].lease_token)
        await worker.result(tasks[3].lease_token, NACK)
        await api.snooze(tasks[4].lease_token, 600)
        await api.release(tasks[5].lease_token)
        (back,) = await worker.tasks(1)
        stale = await refused(api.heartbeat(tasks[0].lease_token))
        before = await told(url)

        assert len(again) == 1
        assert stale.reason == "LEASE_LOST"
        assert before.total(ENQUEUED, queue="outcomes", outcome="created") == 8
        assert before.total(ENQUEUED, queue="outcomes", outcome="existed") == 1
        assert before.total(LEASED, queue="outcomes", kind="runFinished") == 9
        outcomes = {s.labels["outcome"]: s.value for s in before.find(ENDED, queue="outcomes")}
        assert outcomes == {"succeeded": 3, "failed": 1, "snoozed": 1, "released": 1}
        assert before.total(RUN, queue="outcomes") == 6
        assert before.total(STALE, operation="heartbeat") == 1
        assert before.total("workerqueue_worker_held", worker="w-outcomes") == 3
        assert before.total("workerqueue_worker_window", worker="w-outcomes") == 20
        # By unary call, and after the stream is gone, it still is known whose lease it was.
        await api.ack(back.lease_token)
    await api.ack(tasks[6].lease_token)
    after = await told(url)
    assert after.total(ENDED, queue="outcomes", outcome="succeeded") == 5
    assert after.total(RUN, queue="outcomes") == 8
    assert not list(after.find(ENDED, queue="unknown"))


async def test_waits_are_counted_like_leases(url: str, api: Api) -> None:
    await api.ids([request(queue="waits") for _ in range(700)])
    async with api.worker("waits", window=700) as worker:
        await worker.tasks(700)

        async def all_counted() -> bool:
            return (await told(url)).total(WAIT, queue="waits") == 700

        await eventually(all_counted, "the waits of all leases", limit=60)


async def test_depth_and_age_are_the_databases(url: str, api: Api) -> None:
    await api.ids([request(queue="depths") for _ in range(5)])
    await api.ids([request(queue="depths", delay=seconds(3600)) for _ in range(2)])

    async def read() -> bool:
        now = await told(url)
        return (
            now.total(DEPTH, queue="depths", state="available") == 5
            and now.total(DEPTH, queue="depths", state="scheduled") == 2
            and now.total(DEPTH, queue="depths", state="leased") == 0
            and now.total(OLDEST, queue="depths") > 0
        )

    await eventually(read, "the depths of the queue", limit=60)


async def test_what_the_clocks_end_is_counted_by_the_server_that_ends_it(
    url: str, api: Api
) -> None:
    await api.enqueue(queue="clocks", max_attempts=1, timeout=seconds(0.5))
    await api.enqueue(queue="clocks", max_attempts=1, lease_duration=seconds(1))
    async with api.worker("clocks") as worker:
        await worker.tasks(2)

        async def counted() -> bool:
            now = await told(url)
            return (
                now.total(ENDED, queue="clocks", outcome="timed_out") == 1
                and now.total(ENDED, queue="clocks", outcome="lost") == 1
            )

        await eventually(counted, "one timed out, one lost", limit=60)


async def test_calls_are_counted_by_method_and_status(url: str, api: Api) -> None:
    async def counted(scraped: Scrape, method: str, code: str) -> float:
        return scraped.total("workerqueue_rpc_calls_total", method=method, code=code)

    enqueue, lease = "workerqueue.v1.WorkerQueue/Enqueue", "workerqueue.v1.WorkerQueue/Lease"
    before = await told(url)
    await api.enqueue(queue="calls")
    await refused(api.send(request(queue="calls", priority=100_000)))
    await api.take("calls")
    unknown: Any = api.channel.unary_unary("/no.such.Service/Method-canary")
    await refused(unknown(b""))
    async with api.worker("calls", worker_id="w-calls", window=1):
        # Left open by its caller, who then goes.
        pass

    async def all_are_counted() -> bool:
        after = await told(url)
        grown = [
            await counted(after, method, code) - await counted(before, method, code)
            for method, code in (
                (enqueue, "OK"),
                (enqueue, "INVALID_ARGUMENT"),
                (lease, "OK"),
                (lease, "CANCELLED"),
                ("other", "UNIMPLEMENTED"),
            )
        ]
        assert "canary" not in str(after.series)
        count = "workerqueue_rpc_call_duration_seconds_count"
        timed = after.total(count, method=enqueue) - before.total(count, method=enqueue)
        return all(grown) and timed == 1

    await eventually(all_are_counted, "every call is counted")
