"""Workers that are too late: frozen, slow, deaf."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fleet import Event, Fleet, WorkerProcess
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import AT_ONCE, Api, eventually, seconds

pytestmark = pytest.mark.slow


async def event(worker: WorkerProcess, name: str) -> Event:
    """The worker's first event of that sort."""
    found: list[Event] = await eventually(lambda: worker.events(name), f"{worker.name}: {name}")
    return found[0]


async def test_a_frozen_worker_that_comes_back_late_has_lost_its_lease(
    api: Api, group: list[ServerProcess], sql: Inspector, tmp_path: Path
) -> None:
    with Fleet(tmp_path) as fleet:
        (slow,) = fleet.start(
            [group[0].address],
            ["q"],
            lease_seconds=1,
            work_seconds=(2, 2),
            ignores_cancellations=True,
        )
        # Its connection stands for a while, so the next attempts may be given to it, too.
        task = await api.enqueue(queue="q", retry=AT_ONCE, max_attempts=50)
        await event(slow, "start")
        slow.freeze()
        (quick,) = fleet.start([group[1].address], ["q"])
        # Another worker finishes it, through another server.
        done = await event(quick, "acked")
        assert done.task == task.task_id
        assert done.attempt > 1
        slow.thaw()
        late = await event(slow, "LEASE_LOST")
        assert (late.task, late.attempt) == (task.task_id, 1)
        assert slow.events("acked") == []
    row = await sql.task(task.task_id)
    assert (row["state"], row["worker_id"]) == ("succeeded", quick.name)
    assert row["attempt"] == done.attempt
    assert {a["outcome"] for a in await sql.attempts(task.task_id)} == {"lost"}


async def test_a_heartbeating_task_still_dies_at_its_attempt_timeout(
    api: Api, group: list[ServerProcess], sql: Inspector, tmp_path: Path
) -> None:
    with Fleet(tmp_path) as fleet:
        (worker,) = fleet.start(
            [server.address for server in group], ["q"], lease_seconds=3, work_seconds=(60, 60)
        )
        task = await api.enqueue(queue="q", timeout=seconds(7), max_attempts=1)
        await event(worker, "cancelled")
    row = await sql.task(task.task_id)
    assert row["state"] == "dead"
    (attempt,) = await sql.attempts(task.task_id)
    assert attempt["outcome"] == "timed_out"
    ran = (attempt["finished_at"] - attempt["started_at"]).total_seconds()
    # More than two lease durations: the heartbeats did their work, and the timeout did its own.
    assert 7 <= ran <= 7 + 3


async def test_the_clocks_of_a_dead_server_are_watched_by_the_others(
    api: Api, group: list[ServerProcess], sql: Inspector, tmp_path: Path
) -> None:
    """Worker and server die together: the other server ends the lease and gives the task on."""
    with Fleet(tmp_path) as fleet:
        (doomed,) = fleet.start([group[1].address], ["q"], lease_seconds=1, work_seconds=(60, 60))
        task = await api.enqueue(queue="q", retry=AT_ONCE)
        await event(doomed, "start")
        doomed.kill()
        group[1].kill()
        (heir,) = fleet.start([group[0].address], ["q"])
        done = await event(heir, "acked")
        assert (done.task, done.attempt) == (task.task_id, 2)
    (attempt,) = await sql.attempts(task.task_id)
    assert attempt["outcome"] == "lost"


async def test_a_frozen_server_does_not_stop_the_others(
    api: Api, group: list[ServerProcess], sql: Inspector, tmp_path: Path
) -> None:
    """The clocks end what the frozen server has granted; keys and limits go on elsewhere."""
    await sql.limit_queue("narrow", total=1, per_worker=None)
    with Fleet(tmp_path) as fleet:
        (stuck,) = fleet.start(
            [group[1].address], ["q", "narrow"], lease_seconds=1, work_seconds=(60, 60)
        )
        first = await api.enqueue(queue="q", concurrency_key="k", retry=AT_ONCE)
        second = await api.enqueue(queue="narrow", retry=AT_ONCE)
        await eventually(lambda: len(stuck.events("start")) == 2, "both are started")
        group[1].freeze()
        behind_key = await api.enqueue(queue="q", concurrency_key="k")
        behind_limit = await api.enqueue(queue="narrow")
        (heir,) = fleet.start([group[0].address], ["q", "narrow"])
        wanted = {task.task_id for task in (first, second, behind_key, behind_limit)}
        await eventually(
            lambda: {e.task for e in heir.events("acked")} == wanted, "all are done elsewhere"
        )
        group[1].thaw()
    assert await sql.states(list(wanted)) == {"succeeded": 4}
