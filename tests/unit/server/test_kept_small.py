"""What a server remembers for later has a bound each, and beyond it something sensible happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from workerqueue_server.queue import keyed, lanes, watching
from workerqueue_server.queue.errors import Overloaded
from workerqueue_server.queue.keyed import KeyedCare
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.watching import TaskWatcher
from workerqueue_server.store import hints
from workerqueue_server.store.hints import HintSender
from workerqueue_server.store.records import Lane


def _ids(count: int) -> Iterator[bytes]:
    return (number.to_bytes(16, "big") for number in range(count))


def _sent(sender: HintSender) -> str:
    return "".join(sender._drain())  # noqa: SLF001 - what its loop would send


def test_hints_that_cannot_be_sent_are_dropped_from_some_number_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "_MAX_KEPT", 10)
    sender = HintSender("", "server")
    for _ in range(3):
        sender.tasks(_ids(50))
        sender.watched(_ids(50))
        sender.ended((task_id, 1) for task_id in _ids(50))
        sender.ran_out((task_id, 1) for task_id in _ids(50))
    sent = _sent(sender)
    for part in ("tasks", "watched", "ended", "ran_out"):
        assert f'"{part}":' in sent
    assert sum(text in sent for text in [task_id.hex() for task_id in _ids(50)]) == 10
    # What is sent makes room.
    sender.tasks([b"\xff" * 16])
    assert "ff" * 16 in _sent(sender)


async def test_successors_beyond_a_bound_are_left_to_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyed, "_MAX_SOON", 10)
    store: Any = Mock(admit=AsyncMock(), settle_successors=AsyncMock())
    care = KeyedCare(store, Mock())
    for _ in range(3):
        care.settle_soon(_ids(50))
        care.admit_soon(map(str, range(50)))
    await care._work_through()  # noqa: SLF001 - one round of its loop
    assert len(store.settle_successors.await_args.args[0]) == 10
    assert len(store.admit.await_args.args[0]) == 10


async def test_watches_are_refused_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_MAX_WATCHES", 2)
    watcher = TaskWatcher(Mock(), Mock())
    first, second, third = (watcher.watch(task_id) for task_id in _ids(3))
    begun = [asyncio.ensure_future(anext(watch)) for watch in (first, second)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await anext(third)
    for waiting in begun:
        waiting.cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    # Whoever leaves makes room.
    again = asyncio.ensure_future(anext(watcher.watch(b"a" * 16)))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


def test_the_interest_of_other_servers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_MAX_FOREIGN", 10)
    sender = Mock()
    watcher = TaskWatcher(Mock(), sender)
    watcher.note_interest(_ids(50))
    watcher.touched(_ids(50))
    (told,) = sender.tasks.call_args.args
    assert len(told) == 10


def test_a_promise_of_a_lane_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(lanes, "monotonic", lambda: now)
    table = LaneTable(Mock(), max_lanes=2)
    table.learn(Lane(1, "q", "k", 0))
    # Promised to a call whose write then failed.
    assert not table.admit([("gone", "k", 0)])
    # The same again, and what is there, is no lane too many.
    assert not table.admit([("gone", "k", 0), ("q", "k", 0)])
    assert list(table.admit([("other", "k", 0)])) == [("other", "k", 0)]
    now += 31
    assert not table.admit([("other", "k", 0)])
    # A lane that was made elsewhere counts once, whether promised here or not.
    table.learn(Lane(2, "other", "k", 0))
    assert list(table.admit([("third", "k", 0)])) == [("third", "k", 0)]
