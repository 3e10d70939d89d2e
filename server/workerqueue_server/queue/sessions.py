"""Workers' streams as the rules see them: what they take, hold and may still take."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import IntEnum
from time import monotonic
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from workerqueue_server.queue import bounds
from workerqueue_server.queue.access import ANYBODY, Principal
from workerqueue_server.queue.narrowing import Narrowing, Span
from workerqueue_server.queue.quota import Allowance
from workerqueue_server.store.records import GrantRun, Lane

# Leases of streams that are gone of which queue, kind and time of grant are remembered.
_MAX_LEFT = 20_000
# Workers whose last stream ended while it was narrowed, and for how long that is remembered: as
# long as the longest pause.
_MAX_NARROW_LEFT = 10_000
_NARROW_LEFT_SECONDS = 60.0


class EndReason(IntEnum):
    """Why a lease ended without its worker; the numbers of the proto's CancellationReason."""

    CANCELLED = 1
    TIMED_OUT = 2
    LEASE_LOST = 3


class Sink(Protocol):
    """Where a session's tasks and news go: the stream."""

    def deliver(self, runs: Sequence[GrantRun]) -> None:
        """Sends granted leases, in this order."""

    def cancel(self, token: bytes, reason: EndReason) -> None:
        """Tells that a lease ended."""

    def drain(self, grace_seconds: float) -> None:
        """Tells the worker to finish and to take no more from here."""

    def wake(self) -> None:
        """Something about the session changed that the stream may wait for."""


class Holding:
    """What leases share that one grant gave to one stream; compared by identity."""

    __slots__ = ("kind", "queue", "span", "worker_id")

    def __init__(
        self, queue: str, kind: str = "", span: Span | None = None, worker_id: str = ""
    ) -> None:
        self.queue = queue
        self.kind = kind
        # None: it was granted elsewhere, or before a restart.
        self.span = span
        # In whose limit the leases count, where that is not the worker of the stream.
        self.worker_id = worker_id

    @property
    def granted_at(self) -> float | None:
        """When it was granted, by the monotonic clock, if that is known."""
        return None if self.span is None else self.span.granted_at


class Session:
    """One worker's stream."""

    def __init__(
        self,
        session_id: str,
        worker_id: str,
        queues: Iterable[str],
        kinds: Iterable[str],
        lease_ms: int | None,
        sink: Sink,
        principal: Principal = ANYBODY,
        allowance: Allowance | None = None,
    ) -> None:
        self.session_id = session_id
        self.worker_id = worker_id
        self.queues = frozenset(queues)
        self.kinds = frozenset(kinds)
        self.lease_ms = lease_ms
        self.sink = sink
        # Who opened the stream; whatever it holds is in the principal's scope.
        self.principal = principal
        # What all streams of the principal share; None: it is not limited.
        self.allowance = allowance
        self.window = 0
        # Places in the window that a grant under way may fill.
        self.reserved = 0
        self.draining = False
        # An operator drains the worker: its streams get no tasks, new ones neither.
        self.suspended = False
        # Tokens of the leases this stream holds.
        self.held: dict[bytes, Holding] = {}
        # When the worker's last frame arrived, by the monotonic clock.
        self.heard_at = monotonic()
        # None: no lease has run out, or the worker has made up for it.
        self.narrowing: Narrowing | None = None

    @property
    def places(self) -> int:
        """How many leases the stream may hold now: its window, unless that is narrowed."""
        if self.narrowing is None:
            return self.window
        return self.narrowing.places(self.window, monotonic())

    @property
    def room(self) -> int:
        """How many more tasks the stream's own window takes now."""
        if self.draining or self.suspended:
            return 0
        room = max(0, self.places - len(self.held) - self.reserved)
        if self.narrowing is None:
            return room
        return self.narrowing.room(room, self.reserved, monotonic())

    @property
    def demand(self) -> int:
        """How many more tasks may be leased to the stream now."""
        room = self.room
        if self.allowance is None:
            return room
        return max(0, min(room, self.allowance.room))

    @property
    def widest(self) -> int:
        """How many leases the stream can come to hold: its window, or what its principal may."""
        return self.window if self.allowance is None else min(self.window, self.allowance.bound)

    def reserve(self, count: int) -> None:
        """A grant under way may fill so many places; a negative number frees them."""
        self.reserved += count
        if self.allowance is not None:
            self.allowance.taken += count

    def heard(self, now: float) -> bool:
        """A frame arrived; whether there may be room for it where there was none."""
        silence, self.heard_at = now - self.heard_at, now
        return self.narrowing is not None and self.narrowing.heard_after(silence)

    def heard_of(self, token: bytes, now: float, *, is_over: bool) -> bool:
        """An answer, or a heartbeat, for a held lease arrived; whether it may make more room."""
        span = self.held[token].span
        if self.narrowing is None or span is None:
            return False
        widened = self.narrowing.heard_of(span, now, is_over=is_over)
        if self.narrowing.is_over(self.window):
            self.narrowing = None
        return widened

    def ran_out(self, span: Span, now: float) -> bool:
        """Leases of the stream ended by their clocks, this one the last that was granted.

        Whether it may hold less for it.
        """
        if self.narrowing is None:
            self.narrowing = Narrowing(self.window)
        return self.narrowing.ran_out(span, len(self.held), now - self.heard_at, now)

    def takes(self, lane: Lane) -> bool:
        """Whether tasks of the lane are for this stream."""
        return (not self.queues or lane.queue in self.queues) and (
            not self.kinds or lane.kind in self.kinds
        )


class Dropped(NamedTuple):
    """Leases that ended.

    Attributes:
        sessions: By token, the streams that held one here.
        counts: How many leases of each grant ended, for figures.
    """

    sessions: dict[bytes, Session]
    counts: Counter[Holding]


class SessionBook:
    """All streams of this server and the leases they hold.

    Invariant: a token is in ``_by_token`` exactly if it is in the ``held`` of the session it maps
    to, and ``_worker_held`` counts those tokens by queue and by the worker that they were granted
    to, as allowances count them by the principal that holds them. The book is this server's view,
    for windows and planning; what is true about leases and limits the database decides.

    Leases whose stream is gone may still be answered, by unary calls or after a reconnect: what
    figures need of them is remembered for the last ones.

    A worker whose stream ends while it is narrowed and that comes back within a minute goes on as
    if it had been the same stream. It would else be given a whole window by each reconnect, and one
    that stalls until its stream breaks, again and again, would lose a window of attempts each time.
    """

    def __init__(self, in_flight_per_principal: int = bounds.IN_FLIGHT_PER_PRINCIPAL) -> None:
        self.sessions: dict[str, Session] = {}
        self._in_flight_per_principal = in_flight_per_principal
        # An allowance lives as long as a stream, or a grant under way, that counts in it.
        self._allowances: WeakValueDictionary[str, Allowance] = WeakValueDictionary()
        # Workers that operators drain.
        self.drained: frozenset[str] = frozenset()
        self._by_token: dict[bytes, Session] = {}
        self._worker_held: Counter[tuple[str, str]] = Counter()
        self._left: dict[bytes, Holding] = {}
        # Streams whose leases ran out; some may have made up for it since.
        self.narrowed: set[Session] = set()
        # By principal and worker: when its last stream ended, and that stream, if it was narrowed.
        self._narrow_left: dict[tuple[str, str], tuple[float, Session]] = {}

    def allowance_of(self, principal: Principal) -> Allowance | None:
        """What the principal's streams share; None for callers without tokens.

        Those cannot be told apart: one of them could use up what all share.
        """
        if not principal.key:
            return None
        allowance = self._allowances.get(principal.key)
        if allowance is None:
            allowance = Allowance(self._in_flight_per_principal)
            self._allowances[principal.key] = allowance
        return allowance

    def add(self, session: Session) -> None:
        """A stream subscribed."""
        session.suspended = session.worker_id in self.drained
        self.sessions[session.session_id] = session
        ended_at, last = self._narrow_left.get(_worker_of(session), (0.0, None))
        now = monotonic()
        if last is not None and now - ended_at <= _NARROW_LEFT_SECONDS:
            # Each stream of the worker makes up for it by itself.
            session.narrowing = copy.copy(last.narrowing)
            session.heard_at = last.heard_at
            session.heard(now)
            self.narrowed.add(session)

    def remove(self, session: Session) -> None:
        """A stream is gone. Its leases go on in the database."""
        self.sessions.pop(session.session_id, None)
        self.narrowed.discard(session)
        self._narrow_left.pop(_worker_of(session), None)
        if session.narrowing is not None:
            self._narrow_left[_worker_of(session)] = monotonic(), session
            while len(self._narrow_left) > _MAX_NARROW_LEFT:
                del self._narrow_left[next(iter(self._narrow_left))]
        left = session.held.copy()
        self.drop(list(left))
        self._left.update(left)
        while len(self._left) > _MAX_LEFT:
            del self._left[next(iter(self._left))]

    def hold(self, session: Session, tokens: Sequence[bytes], holding: Holding) -> None:
        """The stream holds leases of a queue; those that another stream held move over."""
        by_token = self._by_token
        moved = [token for token in tokens if token in by_token]
        if moved:
            self.drop(moved)
        session.held.update(dict.fromkeys(tokens, holding))
        if session.narrowing is not None:
            session.narrowing.granted(monotonic())
        if session.allowance is not None:
            session.allowance.taken += len(tokens)
        by_token.update(dict.fromkeys(tokens, session))
        self._worker_held[holding.worker_id or session.worker_id, holding.queue] += len(tokens)

    def resume(self, session: Session, token: bytes, lane: Lane | None, worker_id: str) -> None:
        """The stream holds a lease that another stream, here or elsewhere, was granted.

        To the worker ``worker_id``, in whose limit it goes on to count in the database too.
        """
        holding = self.holding(token)
        if holding is None:
            holding = Holding(lane.queue, lane.kind) if lane is not None else Holding("")
        if worker_id != (holding.worker_id or session.worker_id):
            holding = Holding(holding.queue, holding.kind, holding.span, worker_id)
        self._left.pop(token, None)
        self.hold(session, [token], holding)

    def ran_out(
        self, leases: Iterable[tuple[bytes, EndReason]], attentive_since: float
    ) -> list[Session]:
        """Leases were ended by their clocks: narrows the streams whose workers let them run out.

        To be told before ``drop``. Returns the streams that may hold less than before.
        """
        now = monotonic()
        last: dict[Session, Span] = {}
        for token, reason in leases:
            session = self._by_token.get(token)
            span = session.held[token].span if session is not None else None
            if session is None or span is None or not span.has_passed(now):
                continue
            if now - span.seconds < attentive_since:
                # Nobody could be heard.
                continue
            if reason is EndReason.TIMED_OUT and not span.is_silence(now - session.heard_at):
                # It works, for too long.
                continue
            last[session] = max(span, last.get(session, span))
        self.narrowed.update(last)
        return [session for session, span in last.items() if session.ran_out(span, now)]

    def heard(self, tokens: Iterable[bytes], *, are_over: bool) -> set[Session]:
        """Answers, or heartbeats, for leases arrived. Returns streams that may have more room."""
        now = monotonic()
        widened = set()
        for token in tokens:
            session = self._by_token.get(token)
            if session is None:
                continue
            if session.heard(now) | session.heard_of(token, now, is_over=are_over):
                widened.add(session)
            if session.narrowing is None:
                self.narrowed.discard(session)
        return widened

    def heard_elsewhere(self, tokens: Iterable[bytes]) -> None:
        """Leases ended at another server: if they cannot have run out yet, they were answered."""
        if not self.narrowed:
            return
        now = monotonic()
        for token in tokens:
            session = self._by_token.get(token)
            span = None if session is None else session.held[token].span
            if session is not None and span is not None and span.is_in_time(now):
                session.heard_of(token, now, is_over=True)
                session.heard(now)

    def drop(self, tokens: Iterable[bytes]) -> Dropped:
        """The leases ended."""
        dropped: dict[bytes, Session] = {}
        counts: Counter[Holding] = Counter()
        # Tokens come in stretches of one session and grant, which are counted as they pass.
        last: tuple[Session, Holding] | None = None
        passed = 0
        for token in tokens:
            session = self._by_token.pop(token, None)
            if session is not None:
                dropped[token] = session
                holding = session.held.pop(token)
                if last is not None and last[0] is session and last[1] is holding:
                    passed += 1
                    continue
                self._free(last, passed, counts)
                last, passed = (session, holding), 1
            elif token in self._left:
                counts[self._left.pop(token)] += 1
        self._free(last, passed, counts)
        return Dropped(dropped, counts)

    def _free(
        self, holder: tuple[Session, Holding] | None, count: int, counts: Counter[Holding]
    ) -> None:
        if holder is None:
            return
        session, holding = holder
        counts[holding] += count
        if session.allowance is not None:
            session.allowance.taken -= count
        key = (holding.worker_id or session.worker_id, holding.queue)
        self._worker_held[key] -= count
        if not self._worker_held[key]:
            del self._worker_held[key]

    def holder(self, token: bytes) -> Session | None:
        """The session that holds the lease."""
        return self._by_token.get(token)

    def holding(self, token: bytes) -> Holding | None:
        """What is known of a lease that a stream holds, or held when it went away."""
        session = self._by_token.get(token)
        return session.held[token] if session is not None else self._left.get(token)

    def held_by_worker(self, worker_id: str, queue: str) -> int:
        """How many leases of the queue, granted to the worker, streams hold here."""
        return self._worker_held[worker_id, queue]

    def tokens(self) -> list[bytes]:
        """All held leases."""
        return list(self._by_token)


def _worker_of(session: Session) -> tuple[str, str]:
    return session.principal.key, session.worker_id
