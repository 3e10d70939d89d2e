"""The hot statements reach what they take and nothing else, whatever the statistics say.

A queue's table swings between empty and full faster than statistics follow, and a server's plans
may be as old as its connections. So every case here counts the rows and index entries that a
statement reads (PostgreSQL's own counters, inside the transaction) on a large table with statistics
that lie.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, LiteralString

import pytest
from psycopg import AsyncConnection

from tests.postgres import Database, PostgresCluster
from workerqueue_server.store import binary, link, reads
from workerqueue_server.store.migrator import migrate
from workerqueue_server.store.records import (
    GrantRequest,
    LanePlace,
    NewTasks,
    Prolongation,
    Return,
    SweptLane,
)
from workerqueue_server.store.tasks import TaskStore

ROWS = 100_000
# Index entries and rows read for each task that a statement has to do with, all its statements and
# indexes together; and what it may read besides (lanes, queues, partitions).
_PER_TASK = 60
_BESIDES = 400
# Of each lane a sweep looks at so many tasks, twice: in front of the cursor and behind it.
_SWEPT = 20

_LOAD: LiteralString = """
    insert into workerqueue.tasks (
      id, position, created_at, run_at, lane_id, timeout_ms, lease_duration_ms, state, priority,
      max_attempts, attempt, concurrency_key, payload, lease_id, lease_expires_at,
      attempt_deadline, started_at, granted_lease_ms, worker_id, counted_queue)
    select gen_random_uuid(), n, now(),
           now() + (state in ('scheduled', 'retrying'))::integer * interval '1 day',
           lane, 60000, 30000, state::workerqueue.task_state, 0, 3,
           case when state = 'leased' then 1 else 0 end, key, '',
           case when state = 'leased' then n end,
           case when state = 'leased' then now() + interval '1 day' end,
           case when state = 'leased' then now() + interval '1 day' end,
           case when state = 'leased' then now() end,
           case when state = 'leased' then 30000 end,
           case when state = 'leased' then 'w' end,
           case when state = 'leased' then %(counted)s end
      from (select n, %(state)s as state, %(lane)s::integer as lane, %(key)s::text as key
              from generate_series(1, %(rows)s) n) s"""

# As grants leave them: up to a hundred leases a row.
_WATCH: LiteralString = """
    insert into workerqueue.lease_checks (check_at, first_lease, last_lease, ids)
    select now() + interval '1 day', min(lease_id), max(lease_id), array_agg(id)
      from workerqueue.tasks t
     where state = 'leased'
       and not exists (select from workerqueue.leased_tasks l where l.id = t.id)
     group by lane_id, lease_id / 100"""


class Bench:
    """A store whose statements all run on one connection and are counted."""

    def __init__(self, dsn: str, connection: AsyncConnection[Any]) -> None:
        self.connection = connection
        self.store = TaskStore(dsn)
        self.lanes: dict[str, int] = {}

    async def prepare(self) -> None:
        names = ["mass", "other", "limited", "keyed"]
        made = await self.store.ensure_lanes([(name, "startRun", 0) for name in names])
        self.lanes = {lane.queue: lane.lane_id for lane in made}
        await self.connection.execute(
            "update workerqueue.queues set max_in_flight = 50000, max_in_flight_per_worker = 50000"
            " where name = 'limited'"
        )
        # Statistics are what a case says they are.
        await self.connection.execute(
            "alter table workerqueue.tasks set (autovacuum_enabled = off)"
        )

    async def load(self, state: str, rows: int, lane: str = "mass", key: str | None = None) -> None:
        """Puts rows into the table without telling the planner."""
        await self.connection.execute(
            _LOAD,
            {
                "state": state,
                "rows": rows,
                "lane": self.lanes[lane],
                "key": key,
                "counted": lane if lane == "limited" else None,
            },
        )
        if state == "leased":
            await self.connection.execute(_WATCH)

    async def counts(self) -> Counter[str]:
        """Rows and index entries read so far in this transaction, by table and by index."""
        cursor = await self.connection.execute(
            "select c.relname, pg_stat_get_xact_tuples_returned(c.oid)"
            "  from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = 'workerqueue' and c.relkind in ('r', 'i')"
        )
        return Counter(dict(await cursor.fetchall()))

    async def read_by(self, call: Callable[[], Awaitable[Any]]) -> tuple[Any, Counter[str]]:
        """The call's result, and what it read."""
        async with self.connection.transaction():
            before = await self.counts()
            result = await call()
            return result, await self.counts() - before

    def new_tasks(self, count: int, lane: str = "other", key: str | None = None) -> NewTasks:
        return NewTasks(
            ids=sorted(uuid.uuid4().bytes for _ in range(count)),
            payloads=[b""] * count,
            keys=[key] * count,
            spec_nos=[0] * count,
            specs=[
                {
                    "lane_id": self.lanes[lane],
                    "priority": 0,
                    "max_attempts": 3,
                    "timeout_ms": 60_000,
                    "lease_duration_ms": 30_000,
                    "concurrency_limit": 1,
                }
            ],
            client_ids=True,
        )

    async def sweep(self, limit: int) -> list[SweptLane]:
        """A look at all lanes, from a cursor in the middle of what is loaded."""
        places = [LanePlace(lane_id, ROWS // 2, 0) for lane_id in self.lanes.values()]
        return await self.store.sweep_lanes(places, limit)

    async def grant(self, count: int, *lanes: str) -> list[bytes]:
        """The tokens of the granted leases."""
        ids = [self.lanes[lane] for lane in lanes]
        runs = await self.store.grant([GrantRequest(ids, [0] * len(ids), ["w"], count, None, None)])
        return [token for run in runs for token in run.tokens]


@pytest.fixture
async def bench(
    postgres: PostgresCluster, database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    await migrate(database.dsn)
    connection: AsyncConnection[Any] = await link.connect(database.dsn, "plans")
    binary.register(connection)

    async def shared(*_: object) -> AsyncConnection[Any]:
        return connection

    monkeypatch.setattr(link, "connect", shared)
    bench = Bench(database.dsn, connection)
    await bench.prepare()
    yield bench
    await connection.close()


async def every_hot_statement(bench: Bench) -> dict[str, tuple[int, Counter[str]]]:
    """Runs each once on a few tasks: how many they were, and what was read for them."""
    store = bench.store
    found: dict[str, tuple[int, Counter[str]]] = {}

    async def run(name: str, tasks: int, call: Callable[[], Awaitable[Any]]) -> Any:
        result, read = await bench.read_by(call)
        found[name] = tasks, read
        return result

    await run("enqueue", 20, lambda: store.enqueue(bench.new_tasks(20)))
    again = bench.new_tasks(20)
    await store.enqueue(again)
    await run("enqueue repeats", 20, lambda: store.enqueue(again))
    await run("enqueue keyed", 5, lambda: store.enqueue(bench.new_tasks(5, "keyed", "small")))
    granted = await run("grant from one lane", 10, lambda: bench.grant(10, "other"))
    assert len(granted) == 10
    more = await run(
        "grant from several lanes", 10, lambda: bench.grant(10, "other", "keyed", "limited")
    )
    assert len(more) == 10
    tokens = sorted(granted)
    await run("heartbeat", 10, lambda: store.prolong([Prolongation(t, 0.5, "m") for t in tokens]))
    alive = await run("look up leases", 10, lambda: store.live_leases(tokens))
    assert len(alive) == 10
    done = await run("ack", 5, lambda: store.finish(tokens[:5], None))
    assert not done.lost
    again_done = await run("ack again", 5, lambda: store.finish(tokens[:5], None))
    assert not again_done.lost
    returns = [
        Return(tokens[5], "fail", {"type": "E"}),
        Return(tokens[6], "fail", {"type": "E"}, permanent=True),
        Return(tokens[7], "release"),
        Return(tokens[8], "snooze", retry_ms=86_400_000),
    ]
    back = await run("nack", 4, lambda: store.take_back(returns))
    assert not back.lost
    await run("nack again", 4, lambda: store.take_back(returns))
    await bench.connection.execute(
        "with over as ("
        "  update workerqueue.tasks set lease_expires_at = now() where id = %s returning id)"
        " update workerqueue.lease_checks set check_at = now() from over where over.id = any (ids)",
        (tokens[9][:16].hex(),),
    )
    expired = await run("end leases", 1, lambda: store.expire_leases(1_000))
    assert len(expired.tokens) == 1
    await bench.connection.execute(
        "update workerqueue.tasks set run_at = now() where id = any (%s::uuid[])",
        ([tokens[5][:16].hex(), tokens[8][:16].hex()],),
    )
    promoted, _ = await run("promote", 2, lambda: store.promote_due(1_000))
    # Also what failed in an earlier round, if its backoff is over.
    assert promoted >= 2
    await run("drop unstarted", 0, lambda: store.expire_unstarted(1_000))
    await run("admit waiting", 1, lambda: store.admit_waiting("", 1_000))
    await run("sweep", 4, lambda: bench.sweep(_SWEPT))
    await run("queue limits", 4, store.queue_limits)
    return found


def assert_lean(found: dict[str, tuple[int, Counter[str]]]) -> None:
    greedy = {
        name: (tasks, read.most_common(4))
        for name, (tasks, read) in found.items()
        if read.total() > tasks * _PER_TASK + _BESIDES
    }
    assert greedy == {}


async def load_everything(bench: Bench) -> None:
    await bench.load("available", ROWS // 2)
    await bench.load("scheduled", ROWS // 5)
    await bench.load("retrying", ROWS // 20)
    # Leases of a limited queue are counted for each grant, so these are few.
    await bench.load("leased", 100, "limited")
    await bench.load("leased", ROWS // 10)
    await bench.load("blocked", ROWS // 10, "keyed", "hot")


@pytest.mark.all_postgres
async def test_statistics_and_plans_of_an_empty_table(bench: Bench) -> None:
    """The usual way into trouble: all was planned when there was nothing to read."""
    await bench.connection.execute("analyze")
    assert_lean(await every_hot_statement(bench))
    await load_everything(bench)
    assert_lean(await every_hot_statement(bench))


async def test_statistics_of_a_table_in_which_all_was_available(bench: Bench) -> None:
    await bench.load("available", ROWS)
    await bench.connection.execute("analyze")
    await every_hot_statement(bench)
    await bench.connection.execute("delete from workerqueue.tasks")
    await bench.load("scheduled", ROWS)
    await bench.load("blocked", ROWS // 10, "keyed", "hot")
    # The first sweep after a mass of tasks is gone marks their index entries as dead.
    await bench.sweep(_SWEPT)
    assert_lean(await every_hot_statement(bench))


async def test_statistics_of_a_table_in_which_nothing_was_available(bench: Bench) -> None:
    await bench.load("scheduled", ROWS)
    await bench.connection.execute("analyze")
    await every_hot_statement(bench)
    await bench.connection.execute("delete from workerqueue.tasks")
    await load_everything(bench)
    assert_lean(await every_hot_statement(bench))


@pytest.mark.all_postgres
async def test_a_long_history_is_not_read(bench: Bench) -> None:
    await bench.connection.execute("analyze")
    assert_lean(await every_hot_statement(bench))
    await bench.load("leased", ROWS)
    for _ in range(ROWS // 10_000):
        await bench.connection.execute(
            "select from (select array_agg(id) as ids, array_agg(lease_id) as lease_ids"
            "               from (select id, lease_id from workerqueue.tasks"
            "                      where worker_id = 'w' and state = 'leased' limit 10000) one) t,"
            " workerqueue.finish_leases(ids, lease_ids, null)"
        )
    # The first sweep after a mass of tasks is gone marks their index entries as dead.
    await bench.sweep(_SWEPT)
    assert_lean(await every_hot_statement(bench))


async def test_one_stale_ack_does_not_cost_the_others_of_its_batch(bench: Bench) -> None:
    await bench.load("leased", 2_000)
    cursor = await bench.connection.execute("select id, lease_id from workerqueue.tasks")
    tokens = [row[0].bytes + row[1].to_bytes(8, "big") for row in await cursor.fetchall()]
    stale = tokens[0][:16] + bytes(8)
    answered, read = await bench.read_by(lambda: bench.store.finish(sorted([*tokens, stale]), None))
    assert len(answered.lost) == 1
    assert sum(n for name, n in read.items() if name.startswith("history")) < 100


async def test_a_hundred_thousand_of_another_kind_are_not_read(bench: Bench) -> None:
    await bench.connection.execute("analyze")
    await bench.load("available", ROWS, "mass")
    await bench.load("available", 50, "other")
    granted, read = await bench.read_by(lambda: bench.grant(50, "other"))
    assert len(granted) == 50
    assert read.total() <= 50 * _PER_TASK + _BESIDES


async def test_a_cursor_skips_what_was_taken_before(bench: Bench) -> None:
    """Dead entries that vacuum cannot remove lie in front; the cursor begins behind them."""
    await bench.load("available", ROWS, "mass")
    await bench.connection.execute(
        "update workerqueue.tasks set state = 'scheduled', run_at = now() + interval '1 day'"
        " where position <= %s",
        (ROWS - 100,),
    )
    lane = bench.lanes["mass"]
    request = GrantRequest([lane], [ROWS - 100], ["w"], 50, None, None)
    (run,), read = await bench.read_by(lambda: bench.store.grant([request]))
    assert (run.first_position, run.last_position) == (ROWS - 99, ROWS - 50)
    assert len(run.tokens) == 50
    assert read.total() <= 50 * _PER_TASK + _BESIDES


async def test_no_connection_has_its_statements_compiled(database: Database) -> None:
    """PostgreSQL's default is to compile what looks costly, which takes longer than any of ours."""
    async with (
        await link.connect(database.dsn, "test") as of_a_duty,
        await AsyncConnection.connect(database.dsn) as of_the_pool,
    ):
        await reads.configure(of_the_pool)
        for connection in (of_a_duty, of_the_pool):
            cursor = await connection.execute("show jit")
            assert await cursor.fetchone() == ("off",)
