"""Answers for leases: acks, nacks and heartbeats, each kind gathered into batches of its own.

They have their own connections, so that neither enqueues nor grants can hold them up. What an
answer says is decided by the statement that fences it; the session book only follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from operator import itemgetter
from time import monotonic
from typing import NamedTuple

from workerqueue_server.queue.batcher import Batcher
from workerqueue_server.queue.journal import Journal
from workerqueue_server.queue.narrowing import Attention
from workerqueue_server.queue.sessions import Dropped, EndReason, Holding, Session, SessionBook
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.store.records import LiveLease, Prolongation, Return
from workerqueue_server.store.tasks import TOKEN_BYTES, TaskStore

_log = logging.getLogger(__name__)

_MAX_BATCH = 4_096
_MAX_WAITING = 200_000
# What a nack's action makes of the attempt.
_OUTCOMES = {"fail": "failed", "release": "released", "snooze": "snoozed"}
_TOKEN = itemgetter(0)


class Finish(NamedTuple):
    """An ack."""

    token: bytes
    # Serialized google.protobuf.Any.
    result: bytes | None = None


class LeaseDesk:
    """Takes the workers' answers."""

    def __init__(
        self,
        store: TaskStore,
        book: SessionBook,
        wakeups: Wakeups,
        changed: Callable[[Session], None],
        journal: Journal,
    ) -> None:
        self._store = store
        self._journal = journal
        self._book = book
        self._wakeups = wakeups
        self._changed = changed
        # A result says whether the token was the live lease.
        self._finishes = Batcher[Finish, bool](
            "acks", self._flush_finishes, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        self._returns = Batcher[Return, bool](
            "nacks", self._flush_returns, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        # A result is the new end of the lease (µs), None if it is lost.
        self._heartbeats = Batcher[Prolongation, int | None](
            "heartbeats", self._flush_heartbeats, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        # A result is the lease, None if it is lost. Gathered, because after a restart of a server
        # all its workers reconnect at once.
        self._presents = Batcher[bytes, LiveLease | None](
            "held leases", self._flush_presents, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        self.attention = Attention(monotonic())
        wakeups.on_ended = self.ended
        wakeups.on_ran_out = self.ran_out

    def loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The loops to run, by name."""
        return [
            ("acks", self._finishes.run),
            ("nacks", self._returns.run),
            ("heartbeats", self._heartbeats.run),
            ("held leases", self._presents.run),
        ]

    def waiting(self) -> dict[str, int]:
        """How many answers of each sort wait to be written."""
        return {
            "acks": self._finishes.waiting,
            "nacks": self._returns.waiting,
            "heartbeats": self._heartbeats.waiting,
            "held leases": self._presents.waiting,
        }

    def finish(self, items: Sequence[Finish]) -> asyncio.Future[Sequence[bool]]:
        """Acks; each result tells whether the lease was alive (or finished by this token)."""
        self._hear(items, are_over=True)
        size = sum([len(item.result) for item in items if item.result])
        return self._finishes.submit(items, size)

    def take_back(self, items: Sequence[Return]) -> asyncio.Future[Sequence[bool]]:
        """Nacks; each result tells whether the lease was alive."""
        self._hear(items, are_over=True)
        size = sum(sum(map(len, item.error.values())) for item in items if item.error)
        return self._returns.submit(items, size)

    def heartbeat(self, items: Sequence[Prolongation]) -> asyncio.Future[Sequence[int | None]]:
        """Heartbeats; each result is the lease's new end in µs, None if it is lost."""
        self._hear(items, are_over=False)
        size = sum([len(item.checkpoint) for item in items if item.checkpoint])
        return self._heartbeats.submit(items, size)

    def _hear(self, items: Sequence[Finish | Return | Prolongation], *, are_over: bool) -> None:
        # As long as no stream is narrowed only the time matters; a frame is one worker's.
        told = items if self._book.narrowed else items[:1]
        for session in self._book.heard([item.token for item in told], are_over=are_over):
            self._changed(session)

    async def present(self, tokens: Sequence[bytes]) -> dict[bytes, LiveLease]:
        """Those of a reconnecting worker's leases that are alive."""
        fit = [token for token in tokens if len(token) == TOKEN_BYTES]
        if not fit:
            return {}
        return {lease.token: lease for lease in await self._presents.submit(fit) if lease}

    def ended(self, leases: Iterable[tuple[bytes, int]]) -> None:
        """Leases ended without their worker: tell the streams that hold them."""
        reasons = dict(leases)
        elsewhere = []
        for token, reason in reasons.items():
            # Only who holds the lease counts a cancellation; the rest is counted by who ended it.
            held = self._book.holding(token)
            if held is not None and reason == EndReason.CANCELLED:
                self._journal.ended("cancelled", [token], {held: 1})
            elif held is not None:
                elsewhere.append(token)
        if self._journal.is_detailed:
            self._journal.ended_by_others(elsewhere)
        self._book.heard_elsewhere(elsewhere)
        for token, session in self._drop(reasons).sessions.items():
            session.sink.cancel(token, EndReason(reasons[token]))

    def ran_out(self, leases: Iterable[tuple[bytes, int]]) -> None:
        """Leases were ended by their clocks: streams that let them run out take less.

        To be told before ``ended``.
        """
        since = self.attention.since(monotonic())
        reasons = [(token, EndReason(reason)) for token, reason in leases]
        for session in self._book.ran_out(reasons, since):
            _log.info(
                "worker %s let leases run out: its stream takes %d at a time",
                session.worker_id,
                session.places,
            )

    def expired(self, leases: Iterable[tuple[bytes, EndReason]]) -> list[tuple[bytes, str]]:
        """This server ended leases by their clocks. Those that it knows nothing of, with outcomes.

        To be told before ``ended``.
        """
        unknown: list[tuple[bytes, str]] = []
        for token, reason in leases:
            outcome = "timed_out" if reason is EndReason.TIMED_OUT else "lost"
            holding = self._book.holding(token)
            if holding is not None:
                self._journal.ended(outcome, [token], {holding: 1})
            else:
                unknown.append((token, outcome))
        return unknown

    async def audit(self) -> None:
        """Ends leases that streams hold here but the database no longer knows.

        The ends of leases are announced; this catches announcements that were lost. Raises
        StoreError.
        """
        tokens = sorted(self._book.tokens())
        for start in range(0, len(tokens), _MAX_BATCH):
            chunk = tokens[start : start + _MAX_BATCH]
            alive = await self._store.live_leases(chunk)
            await self._gone([token for token in chunk if token not in alive])

    async def _gone(self, tokens: Sequence[bytes]) -> None:
        """These are not live leases. Who holds one has lost it, unless its own answer ended it."""
        await self._finishes.settle()
        await self._returns.settle()
        self.ended((token, EndReason.LEASE_LOST) for token in tokens)

    def _drop(self, tokens: Iterable[bytes]) -> Dropped:
        dropped = self._book.drop(tokens)
        for session in set(dropped.sessions.values()):
            self._changed(session)
            session.sink.wake()
        return dropped

    def _end_locally(self, tokens: Collection[bytes]) -> Counter[Holding]:
        """These leases were answered: free their places, wherever their stream is."""
        sessions, counts = self._drop(tokens)
        if len(sessions) < len(tokens):
            # Another server's stream may hold them, or nobody does any more.
            self._wakeups.announce_ended(
                [(token, EndReason.LEASE_LOST) for token in tokens if token not in sessions]
            )
        return counts

    async def _flush_finishes(self, items: list[Finish]) -> list[bool]:
        items_by_token = sorted(items, key=_TOKEN)
        tokens = [token for token, _ in items_by_token]
        results = None
        if any(result is not None for _, result in items_by_token):
            results = [result for _, result in items_by_token]
        answered = await self._store.finish(tokens, results)
        self._wakeups.announce(answered.woken)
        self._wakeups.touched(tokens)
        lost = {tokens[place] for place in answered.lost}
        if lost:
            tokens = [token for token in tokens if token not in lost]
            self._journal.stale("ack", len(answered.lost))
        counts = self._end_locally(tokens)
        self._journal.ended("succeeded", tokens, counts)
        return [token not in lost for token, _ in items] if lost else [True] * len(items)

    async def _flush_returns(self, items: list[Return]) -> list[bool]:
        # One answer per token and batch; a repeat gets the first one's result.
        first: dict[bytes, Return] = {}
        for item in items:
            first.setdefault(item.token, item)
        ordered = [first[token] for token in sorted(first)]
        answered = await self._store.take_back(ordered)
        lost = {ordered[place].token for place in answered.lost}
        for action, outcome in _OUTCOMES.items():
            tokens = [t for t, item in first.items() if item.action == action and t not in lost]
            self._journal.ended(outcome, tokens, self._end_locally(tokens))
        self._journal.stale("nack", len(lost))
        self._wakeups.announce(answered.woken)
        self._wakeups.touched(first)
        return [item.token not in lost for item in items]

    async def _flush_presents(self, tokens: list[bytes]) -> list[LiveLease | None]:
        alive = await self._store.live_leases(tokens)
        return [alive.get(token) for token in tokens]

    async def _flush_heartbeats(self, items: list[Prolongation]) -> list[int | None]:
        merged: dict[bytes, Prolongation] = {}
        for item in items:
            known = merged.get(item.token)
            merged[item.token] = item if known is None else _merge(known, item)
        ends = await self._store.prolong([merged[token] for token in sorted(merged)])
        lost = [token for token in merged if token not in ends]
        if lost:
            self._journal.stale("heartbeat", len(lost))
            await self._gone(lost)
        self._wakeups.touched(token for token, news in merged.items() if news.progress is not None)
        return [ends.get(item.token) for item in items]


def _merge(earlier: Prolongation, later: Prolongation) -> Prolongation:
    """Two heartbeats of one lease in one batch: the later one's news count."""
    return Prolongation(
        later.token,
        earlier.progress if later.progress is None else later.progress,
        earlier.message if later.message is None else later.message,
        earlier.checkpoint if later.checkpoint is None else later.checkpoint,
    )
