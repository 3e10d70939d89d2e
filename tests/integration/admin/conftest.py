"""The operator's calls, beside the producer's and the worker's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

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
