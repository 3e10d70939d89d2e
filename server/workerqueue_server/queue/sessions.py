"""Workers' streams as the rules see them: what they take, hold and may still take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Protocol

from workerqueue_server.queue.access import ANYBODY, Principal
from workerqueue_server.store.records import Grant, Lane


class EndReason(IntEnum):
    """Why a lease ended without its worker; the numbers of the proto's CancellationReason."""

    CANCELLED = 1
    TIMED_OUT = 2
    LEASE_LOST = 3


class Sink(Protocol):
    """Where a session's tasks and news go: the stream."""

    def deliver(self, grants: Sequence[Grant]) -> None:
        """Sends granted leases."""

    def cancel(self, token: bytes, reason: EndReason) -> None:
        """Tells that a lease ended."""

    def drain(self, grace_seconds: float) -> None:
        """Tells the worker to finish and to take no more from here."""

    def wake(self) -> None:
        """Something about the session changed that the stream may wait for."""


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
    ) -> None:
        self.session_id = session_id
        self.worker_id = worker_id
        self.queues = frozenset(queues)
        self.kinds = frozenset(kinds)
        self.lease_ms = lease_ms
        self.sink = sink
        # Who opened the stream; whatever it holds is in the principal's scope.
        self.principal = principal
        self.window = 0
        # Places in the window that a grant under way may fill.
        self.reserved = 0
        self.draining = False
        # An operator drains the worker: its streams get no tasks, new ones neither.
        self.suspended = False
        # Tokens of the leases this stream holds, each with its queue.
        self.held: dict[bytes, str] = {}

    @property
    def demand(self) -> int:
        """How many more tasks the stream takes now."""
        if self.draining or self.suspended:
            return 0
        return max(0, self.window - len(self.held) - self.reserved)

    def takes(self, lane: Lane) -> bool:
        """Whether tasks of the lane are for this stream."""
        return (not self.queues or lane.queue in self.queues) and (
            not self.kinds or lane.kind in self.kinds
        )


class SessionBook:
    """All streams of this server and the leases they hold.

    Invariant: a token is in ``_by_token`` exactly if it is in the ``held`` of the session it maps
    to, and ``_worker_held`` counts those tokens by worker and queue. The book is this server's
    view, for windows and planning; what is true about leases and limits the database decides.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        # Workers that operators drain.
        self.drained: frozenset[str] = frozenset()
        self._by_token: dict[bytes, Session] = {}
        self._worker_held: Counter[tuple[str, str]] = Counter()

    def add(self, session: Session) -> None:
        """A stream subscribed."""
        session.suspended = session.worker_id in self.drained
        self.sessions[session.session_id] = session

    def remove(self, session: Session) -> None:
        """A stream is gone. Its leases go on in the database."""
        self.sessions.pop(session.session_id, None)
        self.drop(list(session.held))

    def hold(self, session: Session, tokens: Sequence[bytes], queue: str) -> None:
        """The stream holds leases of a queue; those that another stream held move over."""
        by_token = self._by_token
        moved = [token for token in tokens if token in by_token]
        if moved:
            self.drop(moved)
        session.held.update(dict.fromkeys(tokens, queue))
        by_token.update(dict.fromkeys(tokens, session))
        self._worker_held[session.worker_id, queue] += len(tokens)

    def drop(self, tokens: Iterable[bytes]) -> dict[bytes, Session]:
        """The leases ended. Those that were held here, with their sessions."""
        dropped: dict[bytes, Session] = {}
        freed: Counter[tuple[Session, str]] = Counter()
        for token in tokens:
            session = self._by_token.pop(token, None)
            if session is not None:
                dropped[token] = session
                freed[session, session.held.pop(token)] += 1
        for (session, queue), count in freed.items():
            key = (session.worker_id, queue)
            self._worker_held[key] -= count
            if not self._worker_held[key]:
                del self._worker_held[key]
        return dropped

    def holder(self, token: bytes) -> Session | None:
        """The session that holds the lease."""
        return self._by_token.get(token)

    def held_by_worker(self, worker_id: str, queue: str) -> int:
        """How many leases of the queue the worker's streams hold here."""
        return self._worker_held[worker_id, queue]

    def tokens(self) -> list[bytes]:
        """All held leases."""
        return list(self._by_token)
