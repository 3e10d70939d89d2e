"""What a server remembers for later has a bound each, and beyond it something sensible happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from workerqueue_server.queue import bounds, journal, keyed, lanes, sessions, tracing, watching
from workerqueue_server.queue.errors import Overloaded
from workerqueue_server.queue.journal import Journal
from workerqueue_server.queue.keyed import KeyedCare, KeyedEnqueuer
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.sessions import Holding, Session, SessionBook
from workerqueue_server.queue.tracing import Tracing
from workerqueue_server.queue.watching import TaskWatcher
from workerqueue_server.store import hints
from workerqueue_server.store.hints import HintSender
from workerqueue_server.store.records import GrantRun, Lane


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


def _run(tokens: list[bytes]) -> GrantRun:
    context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    payloads: list[bytes | None] = [b""] * len(tokens)
    of_each = (tokens, payloads, None, None, context, None)
    return GrantRun(0, 0, 1, 1, 3, 60_000, 30_000, 0, 1, len(tokens), *of_each)


def test_the_oldest_leases_of_gone_streams_are_of_an_unknown_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "_MAX_LEFT", 10)
    book = SessionBook()
    tokens = list(_ids(50))
    for number, some in enumerate((tokens[:25], tokens[25:])):
        session = Session(f"s{number}", "w", ["q"], [], None, Mock())
        book.add(session)
        book.hold(session, some, Holding("q", "k"))
        book.remove(session)
    assert [token for token in tokens if book.holding(token) is not None] == tokens[-10:]
    assert sum(book.drop(tokens).counts.values()) == 10


def test_the_oldest_open_span_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_MAX_OPEN", 10)
    spans = Mock()
    kept = Tracing(spans)
    tokens = [task_id + bytes(8) for task_id in _ids(50)]
    for token in tokens:
        kept.granted("w", Lane(1, "q", "k", 0), _run([token]))
    kept.ended("succeeded", tokens)
    assert spans.attempt.call_count == 10


def test_the_oldest_lease_is_told_of_without_details(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "_MAX_TOLD", 10)
    with caplog.at_level("DEBUG"):
        told = Journal()
        tokens = [task_id + bytes(8) for task_id in _ids(50)]
        for token in tokens:
            told.granted("worker-1", Lane(1, "q", "k", 0), _run([token]))
        caplog.clear()
        told.ended("succeeded", tokens, {})
    assert len(caplog.records) == 50
    assert sum("worker_id" in record.__dict__["fields"] for record in caplog.records) == 10


@pytest.mark.parametrize(("tasks", "size"), [(41, 1), (1, bounds.WAITING_BYTES)])
async def test_calls_that_wait_for_their_keys_are_bounded_between_two_tries_too(
    monkeypatch: pytest.MonkeyPatch, tasks: int, size: int
) -> None:
    monkeypatch.setattr(keyed, "_MAX_WAITING", 50)
    enqueuer = KeyedEnqueuer(Mock(), Mock(), Mock(), Mock(), Mock())

    async def all_busy(items: list[object], _: int) -> list[None]:
        return [None] * len(items)

    # An open transaction has every key: calls wait for their next try.
    monkeypatch.setattr(enqueuer, "_batcher", Mock(submit=all_busy))
    first = asyncio.ensure_future(enqueuer.enqueue([Mock()] * 10, 1))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await enqueuer.enqueue([Mock()] * tasks, size)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    # Whoever leaves makes room.
    again = asyncio.ensure_future(enqueuer.enqueue([Mock()] * tasks, size))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
