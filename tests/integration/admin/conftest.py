"""The operator's calls, beside the producer's and the worker's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tests.integration.admin.schedules import Schedules
from tests.integration.admin.toolkit import Admin
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api


@pytest.fixture
async def admin(api: Api) -> Admin:
    """The module's server as an operator sees it."""
    return Admin(api)


@pytest.fixture(autouse=True)
async def counted(server: ServerProcess, sql: Inspector) -> AsyncIterator[None]:
    """After each test the statistics equal the truth."""
    yield
    difference = await sql.rows(
        """
        with told as (
          select c.queue, c.kind, c.state, c.n
            from workerqueue.count_tasks(array(select name from workerqueue.queues)) c
        ), truth as (
          select l.queue, l.kind, t.state, count(*) as n
            from (select lane_id, state from workerqueue.tasks
                   union all
                  select lane_id, state from workerqueue.history) t
            join workerqueue.lanes l using (lane_id)
           group by 1, 2, 3
        )
        (select 'told' as side, * from told except all select 'told', * from truth)
        union all
        (select 'truth', * from truth except all select 'truth', * from told)
        """
    )
    assert not difference


@pytest.fixture
async def schedules(admin: Admin, sql: Inspector, queue: str) -> AsyncIterator[Schedules]:
    """Schedules of the test's own name."""
    now: datetime = await sql.value("select clock_timestamp() at time zone 'UTC'")
    yield Schedules(admin, sql, queue, now.replace(tzinfo=UTC))
    # A schedule that a failed test left behind must not tick into another one.
    await sql.rows("delete from workerqueue.schedules where schedule_id like %s", f"{queue}%")
