"""Grants leases: brings waiting tasks and waiting streams together.

One loop per server. Each round plans requests from memory (which streams have room, which lanes may
have tasks), grants them in one transaction, and hands the leases to the streams. Memory is a guess
that saves work; the database decides. The guesses are kept honest by wake-ups after every commit,
by hints from other servers, and by a sweep about once a second.

The cursor: per lane, the dispatcher remembers the last position it has read and reads on from
there, so it never walks again over tasks that are leased, nor over the index entries of tasks that
are gone (which vacuum cannot remove while an old transaction is open). A task may appear behind the
cursor: its transaction committed late, its lease was released, its concurrency key came free.
Whoever causes that announces the position, and the cursor moves back; what an announcement missed,
the sweep finds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from time import monotonic

from workerqueue_server.queue.duties import note_done
from workerqueue_server.queue.journal import Journal
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.narrowing import Span
from workerqueue_server.queue.planning import Planner, Request
from workerqueue_server.queue.sessions import Holding, Session, SessionBook
from workerqueue_server.store.errors import DatabaseUnavailable, StoreError
from workerqueue_server.store.records import GrantRun, Lane, QueueLimits
from workerqueue_server.store.tasks import TaskStore
from workerqueue_server.telemetry import instruments

_log = logging.getLogger(__name__)

# Leases for a stream.
Delivery = tuple[Session, list[GrantRun]]

_SWEEP_SECONDS = 1.0
# A sweep may use at most this share of the time, however many lanes and dead rows there are.
_SWEEP_SHARE = 0.05
# A sweep looks at so many tasks of each lane in front of its cursor and at so many behind it, where
# it goes on the next time: what was missed among a hundred thousand leases is found in minutes.
_SWEEP_TASKS = 1_000
_RETRY_SECONDS = 0.5
# Larger batches go through the lanes: the streams' windows would not take them at once.
_MAX_OFFER = 256


@dataclass
class Dispatcher:
    """The loop that grants, and the sweep that keeps it honest."""

    store: TaskStore
    lanes: LaneTable
    book: SessionBook
    # Gives leases back that no stream can receive any more.
    release: Callable[[list[bytes]], None]
    # Kinds this server can deliver; tasks of others wait for a server that knows them.
    kinds: Collection[str]
    # Hears of the leases just granted.
    touched: Callable[[Iterable[bytes]], None]
    journal: Journal
    planner: Planner = field(init=False)
    _unsent: list[Delivery] = field(default_factory=list)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _rounds: asyncio.Condition = field(default_factory=asyncio.Condition)
    _sweep_now: asyncio.Event = field(default_factory=asyncio.Event)
    # No more grants: the server stops.
    _closing: bool = False
    # Not set while a grant is under way.
    _at_rest: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.planner = Planner(self.book)
        self._at_rest.set()
        self.lanes.on_new(self._learn)

    # What others tell the dispatcher.

    def subscribe(self, session: Session) -> None:
        """A stream begins to take tasks."""
        self.book.add(session)
        self.planner.join(session)
        self._work.set()

    def leave(self, session: Session) -> None:
        """A stream is gone."""
        self.planner.part(session)
        self.book.remove(session)
        # Other streams of its principal may have room now.
        self._work.set()

    def changed(self, session: Session) -> None:
        """A stream has more room."""
        self.planner.demand(session)
        self._work.set()

    def wake_lanes(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Tasks may have become available in these lanes from these positions on."""
        for lane_id, position in pairs:
            state = self.planner.lanes.get(lane_id)
            if state is not None:
                state.wake(position)
            elif self.lanes.get(lane_id) is None:
                # Another server made this lane; the sweep reads all of them.
                self._sweep_now.set()
        self._work.set()

    def wake_queues(self, queues: Iterable[str]) -> None:
        """Limits of these queues may have room."""
        self.planner.wake_queues(queues)
        self._work.set()

    def sweep_soon(self) -> None:
        """Look at everything: hints may have been missed."""
        self._sweep_now.set()

    async def settle(self, session: Session) -> None:
        """Returns when the stream's window is full or nothing is available for it right now."""
        await self.sweep()
        while True:
            async with self._rounds:
                if session.demand and self.planner.may_have_tasks(session):
                    self.changed(session)
                elif not session.reserved:
                    return
                await self._rounds.wait()

    # Hand-over: an enqueue grants its tasks to waiting streams in its own transaction.

    def offer(self, lane_ids: Collection[int], count: int) -> list[Request]:
        """Grants to make in the transaction that stores so many tasks in these lanes.

        Must be followed by ``hand_over`` or ``withdraw``.
        """
        if self._closing or count > _MAX_OFFER:
            return []
        return self.planner.offer(lane_ids, count)

    def hand_over(self, requests: list[Request], grants: list[GrantRun]) -> None:
        """The transaction is committed: delivers what it granted."""
        self._take(requests, grants)
        # With what was granted before and is not sent yet: leases go out in the order of the line.
        self._send()
        self._work.set()

    def withdraw(self, requests: list[Request]) -> None:
        """The transaction failed: the streams wait on."""
        self.planner.unplan(requests)
        self._work.set()

    # The loops.

    async def run(self) -> None:
        """Grants until cancelled.

        While the database grants one round, the leases of the last one are encoded and sent.
        """
        try:
            while True:
                requests = [] if self._closing else self.planner.plan()
                if not requests:
                    self._at_rest.set()
                    self._send()
                    self._work.clear()
                    await self._end_round()
                    await self._work.wait()
                    continue
                self._at_rest.clear()
                granting = asyncio.create_task(
                    self.store.grant([request.grant for request in requests])
                )
                started = monotonic()
                # Lets the statement go out first.
                await asyncio.sleep(0)
                self._send()
                try:
                    grants = await granting
                except StoreError as error:
                    if not isinstance(error, DatabaseUnavailable):
                        _log.exception("granting failed")
                    instruments.BATCH_FAILED.add(1, "grants")
                    self.planner.unplan(requests)
                    await self._end_round()
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                granted = sum(len(run.tokens) for run in grants)
                instruments.BATCH_SIZE.record(granted, "grants")
                instruments.BATCH_DURATION.record(monotonic() - started, "grants")
                self._take(requests, grants)
                await self._end_round()
        finally:
            self._send()

    async def close(self) -> None:
        """Grants no more; returns when the grant under way, if any, has been entered.

        A grant must not be cancelled: the database may have committed it, and its leases would then
        be held by nobody until their clocks end them.
        """
        self._closing = True
        await self._at_rest.wait()

    async def run_sweeps(self) -> None:
        """Sweeps until cancelled."""
        pause = 0.0
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._sweep_now.wait()
            except TimeoutError:
                pass
            self._sweep_now.clear()
            started = monotonic()
            try:
                await self.sweep()
            except StoreError as error:
                _log.warning("sweep failed: %s", error)
            else:
                note_done("sweep", _SWEEP_SECONDS)
            pause = max(_SWEEP_SECONDS, (monotonic() - started) / _SWEEP_SHARE)

    async def sweep(self) -> None:
        """Compares every lane with the database. Raises StoreError."""
        self.planner.set_limits(await self.store.queue_limits())
        wakes = {lane_id: state.wakes for lane_id, state in self.planner.lanes.items()}
        found = await self.store.sweep_lanes(self.planner.places(), _SWEEP_TASKS)
        new = [swept.lane for swept in found if self.lanes.get(swept.lane.lane_id) is None]
        if new:
            # An enqueue by SQL leaves the queue's row to us.
            await self.lanes.make([(lane.queue, lane.kind, lane.priority) for lane in new])
        for swept in found:
            self.lanes.learn(swept.lane)
            state = self.planner.lanes.get(swept.lane.lane_id)
            if state is not None:
                state.swept(swept, wakes.get(swept.lane.lane_id, -1))
        for session in self.book.narrowed:
            # Its pause may be over.
            self.planner.demand(session)
        self._work.set()

    def limits(self, queue: str) -> QueueLimits | None:
        """What restrains the queue, as last read."""
        return self.planner.limits.get(queue)

    def _learn(self, lane: Lane) -> None:
        if lane.kind in self.kinds:
            self.planner.add_lane(lane)

    async def _end_round(self) -> None:
        async with self._rounds:
            self._rounds.notify_all()

    def _take(self, requests: list[Request], grants: list[GrantRun]) -> None:
        """Enters granted leases into the book, to be sent."""
        counts: Counter[int] = Counter()
        undeliverable: list[bytes] = []
        by_session: dict[Session, list[GrantRun]] = {}
        holdings: dict[tuple[int, int], Holding] = {}
        now = monotonic()
        for run in grants:
            count = len(run.tokens)
            counts[run.request] += count
            state = self.planner.lanes[run.lane_id]
            state.read(run.last_position, count, run.payload_bytes)
            self.journal.leased(state.lane, run.tokens)
            session = requests[run.request].sessions[run.place]
            gone = session.session_id not in self.book.sessions
            if gone or session.draining or session.suspended:
                # The stream went away while its leases were granted.
                undeliverable += run.tokens
                continue
            alike = run.lane_id, run.lease_ms
            holding = holdings.get(alike)
            if holding is None:
                span = Span(now, run.lease_ms / 1000)
                holding = holdings[alike] = Holding(state.lane.queue, state.lane.kind, span)
            self.book.hold(session, run.tokens, holding)
            if self.journal.is_detailed:
                self.journal.granted(session.worker_id, state.lane, run)
            by_session.setdefault(session, []).append(run)
        self._unsent += by_session.items()
        for number, request in enumerate(requests):
            self.planner.granted(request, counts[number])
        if undeliverable:
            self.release(undeliverable)
        self.touched(token for run in grants for token in run.tokens)

    def _send(self) -> None:
        """Gives granted leases to their streams."""
        unsent, self._unsent = self._unsent, []
        gone: list[bytes] = []
        for session, runs in unsent:
            if session.session_id not in self.book.sessions:
                gone += [token for run in runs for token in run.tokens]
                continue
            # A lease may have been ended since it was granted.
            session.sink.deliver(in_line([alive for run in runs for alive in _held(session, run)]))
        if gone:
            self.release(gone)


def _held(session: Session, run: GrantRun) -> list[GrantRun]:
    held = session.held
    if all(map(held.__contains__, run.tokens)):
        return [run]
    places = [place for place, token in enumerate(run.tokens) if token in held]
    return [run.only(places)] if places else []


def in_line(runs: list[GrantRun]) -> list[GrantRun]:
    """The runs in the order of their lease ids; those that overlap are taken apart."""
    if len(runs) == 1:
        return runs
    runs.sort(key=_first_lease)
    if all(_lease_id(a.tokens[-1]) < _lease_id(b.tokens[0]) for a, b in pairwise(runs)):
        return runs
    singles = [run.only([place]) for run in runs for place in range(len(run.tokens))]
    singles.sort(key=_first_lease)
    return singles


def _first_lease(run: GrantRun) -> bytes:
    return _lease_id(run.tokens[0])


def _lease_id(token: bytes) -> bytes:
    # Lease ids rise in the order of priority and position.
    return token[16:]
