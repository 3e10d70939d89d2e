"""A grant from many lanes looks a little ahead in each, and takes what a full look would."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import Database
from workerqueue_server.store.migrator import migrate
from workerqueue_server.store.records import GrantRequest, GrantRun, NewTasks
from workerqueue_server.store.tasks import TaskStore

QUEUES, KINDS, PRIORITIES = ("a", "b", "c", "d"), ("startRun", "runFinished"), (0, 5, 9)
LANES = list(itertools.product(QUEUES, KINDS, PRIORITIES))
LIMITED, LIMIT = "d", 7


@pytest.fixture
async def store(database: Database) -> AsyncIterator[TaskStore]:
    await migrate(database.dsn)
    store = TaskStore(database.dsn)
    for queue in QUEUES:
        await store.declare_queue(queue, None, LIMIT if queue == LIMITED else None)
    yield store
    await store.close()


async def fill(store: TaskStore, lanes: Sequence[int]) -> list[bytes]:
    """A task in each of these lanes, in this order; their ids."""
    ids = sorted(os.urandom(16) for _ in lanes)
    specs: list[dict[str, object]] = [
        {
            "lane_id": lane,
            "priority": 0,
            "max_attempts": 3,
            "timeout_ms": 600_000,
            "lease_duration_ms": 600_000,
            "concurrency_limit": 1,
        }
        for lane in sorted(set(lanes))
    ]
    numbers = {spec["lane_id"]: number for number, spec in enumerate(specs)}
    count = len(lanes)
    await store.enqueue(
        NewTasks(ids, [b""] * count, [None] * count, [numbers[n] for n in lanes], specs, False)
    )
    return ids


# Many in few lanes, few in many: what looks ahead too little shows in either.
crowds = st.lists(
    st.tuples(st.integers(0, len(LANES) - 1), st.integers(1, 30)), min_size=1, max_size=12
)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(crowds, st.integers(1, 120), st.randoms(use_true_random=False))
async def test_each_queue_gives_the_first_of_its_line_and_nothing_is_left_for_want_of_a_look(
    store: TaskStore, crowd: list[tuple[int, int]], wanted: int, shuffle: object
) -> None:
    made = await store.ensure_lanes(LANES)
    name_of = {lane.lane_id: (lane.queue, lane.kind, lane.priority) for lane in made}
    order = [lane.lane_id for lane in made]
    lanes = [order[place] for place, count in crowd for _ in range(count)]
    shuffle.shuffle(lanes)  # type: ignore[attr-defined]
    ids = await fill(store, lanes)
    runs = await store.grant([GrantRequest(order, [0] * len(order), ["w"], wanted, None, None)])
    tokens = sorted((token for run in runs for token in run.tokens), key=lambda t: t[16:])
    taken = [token[:16] for token in tokens]

    line: dict[str, list[bytes]] = defaultdict(list)
    placed = list(enumerate(zip(ids, lanes, strict=True)))
    for _, (task_id, lane) in sorted(placed, key=lambda item: (-name_of[item[1][1]][2], item[0])):
        line[name_of[lane][0]].append(task_id)
    room = {queue: LIMIT if queue == LIMITED else len(LANES) * 400 for queue in QUEUES}
    expected = min(wanted, sum(min(len(line[queue]), room[queue]) for queue in QUEUES))
    assert len(taken) == expected
    for queue in QUEUES:
        own = [task_id for task_id in taken if task_id in set(line[queue])]
        assert set(own) == set(line[queue][: len(own)])
        assert len(own) <= room[queue]
    await store.finish(tokens_in_order(runs), None)
    await empty(store, order)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(1, 200))
async def test_queues_with_a_lane_each_give_the_same(
    store: TaskStore, counts: list[int], wanted: int
) -> None:
    made = await store.ensure_lanes([(f"q{n}", "startRun", 0) for n in range(len(counts))])
    order = [lane.lane_id for lane in made]
    of_lane: dict[int, list[bytes]] = {}
    for lane, count in zip(order, counts, strict=True):
        of_lane[lane] = await fill(store, [lane] * count) if count else []
    runs = await store.grant([GrantRequest(order, [0] * len(order), ["w"], wanted, None, None)])
    given = {
        lane: [token[:16] for run in runs if run.lane_id == lane for token in run.tokens]
        for lane in order
    }
    assert sum(map(len, given.values())) == min(wanted, sum(counts))
    for lane, ids in of_lane.items():
        assert given[lane] == ids[: len(given[lane])]
    # Only what has no more gives less, but for parts that are not whole and the order of turns.
    least = min(
        [len(given[lane]) for lane in order if len(given[lane]) < len(of_lane[lane])], default=60
    )
    assert max(map(len, given.values())) <= least + 2
    await store.finish(tokens_in_order(runs), None)
    await empty(store, order)


def tokens_in_order(runs: Sequence[GrantRun]) -> list[bytes]:
    return sorted(token for run in runs for token in run.tokens)


async def empty(store: TaskStore, lanes: list[int]) -> None:
    """Takes and finishes all that the lanes have."""
    request = GrantRequest(lanes, [0] * len(lanes), ["w"], 4_000, None, None)
    while runs := await store.grant([request]):
        await store.finish(tokens_in_order(runs), None)
