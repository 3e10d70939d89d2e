"""Streams whose worker does not keep up are given less.

What was sent and never read still runs by the lease clock and costs its attempt, so whoever reads
too slowly, or is frozen behind a connection that stands, would use up one task's attempts after the
other. Hence:

Invariant (the narrowed window): once leases of a stream have run out, the stream holds at most as
many as its worker was lately heard of in time. That number is halved, at most once for the leases
of one round, when leases run out, and then one lease is granted in a lease duration until one that
was granted since is heard of: whatever waits unread has been read then. The number grows by one
with each answer that comes within a quarter of the lease's duration after the grant and with each
heartbeat within half of it, and by one a round with answers within half of it; once it reaches the
worker's own window it is forgotten. A stream of which nothing was heard at all, or that lets even a
lone lease run out, gets one lease after a pause that doubles from that lease's duration up to a
minute; the first frame after a silence ends the pause.

Why it settles: an answer is later the more waits unread before its task, and growing by one with
each at most doubles what waits in the time that it waits. What is answered within a quarter of the
duration is then answered within half of it, where all growth ends, long before leases run out.

A worker is not to blame for leases that ran out while this server was stopped or without its
database, since nobody could be heard then, nor for those that a jump of the database's clock ended.
"""

from __future__ import annotations

from typing import NamedTuple

# Of the lease duration. Workers are to send a heartbeat after a third of it.
_SOON = 0.25
_IN_TIME = 0.5
# A lease that ended after less than this part of its duration was ended by a clock that jumped.
_WHOLE = 0.8
_LONGEST_PAUSE_SECONDS = 60.0
# The duty that ends leases works twice a second; after a longer gap nobody could be heard in it.
_GAP_SECONDS = 2.0


class Span(NamedTuple):
    """A lease's time, by this server's monotonic clock."""

    granted_at: float
    seconds: float

    def is_soon(self, now: float) -> bool:
        """Whether little can have waited unread before the lease, if it is answered now."""
        return now - self.granted_at <= self.seconds * _SOON

    def is_in_time(self, now: float) -> bool:
        """Whether a worker that keeps up may be heard of it now for the first time."""
        return now - self.granted_at <= self.seconds * _IN_TIME

    def has_passed(self, now: float) -> bool:
        """Whether the lease may have ended because nobody was heard for its duration."""
        return now - self.granted_at >= self.seconds * _WHOLE

    def is_silence(self, seconds: float) -> bool:
        """Whether a worker that holds the lease and says nothing for so long is not there."""
        return seconds > self.seconds * _IN_TIME


class Narrowing:
    """What a stream may hold whose leases have run out."""

    __slots__ = ("_bound", "_closed_until", "_last", "_narrowed_at", "_pause", "_trial_at")

    def __init__(self, window: int) -> None:
        # A whole number once it is used; in between it collects parts.
        self._bound = float(window)
        self._last: Span | None = None
        # Leases granted before have had their effect.
        self._narrowed_at = float("-inf")
        self._closed_until = float("-inf")
        self._pause = 0.0
        # When the one lease may be granted by which the worker shows that it has read the others;
        # None: it has.
        self._trial_at: float | None = None

    def places(self, window: int, now: float) -> int:
        """How many leases the stream may hold, of those that its worker wants."""
        return 0 if now < self._closed_until else min(window, int(self._bound))

    def room(self, room: int, reserved: int, now: float) -> int:
        """How many of so many free places may be filled now, beside those that are reserved."""
        if self._trial_at is None:
            return room
        return min(room, 1) if now >= self._trial_at and not reserved else 0

    def granted(self, now: float) -> None:
        """Leases were granted to the stream."""
        if self._trial_at is not None and self._last is not None:
            self._trial_at = now + self._last.seconds

    def ran_out(self, span: Span, held: int, silence: float, now: float) -> bool:
        """A lease ended by its clock, when the stream held so many and was silent for so long.

        Whether that changes what it may hold.
        """
        self._last = span
        is_new = span.granted_at >= self._narrowed_at
        if span.is_silence(silence) or (is_new and self._bound < 2):
            if not is_new and self._bound < 2:
                return False
            self._pause = min(_LONGEST_PAUSE_SECONDS, max(span.seconds, 2 * self._pause))
            self._closed_until = now + self._pause
            self._bound = 1.0
        elif is_new:
            self._bound = max(1.0, min(self._bound, held) // 2)
        else:
            return False
        self._narrowed_at = self._trial_at = now
        return True

    def heard_of(self, span: Span, now: float, *, is_over: bool) -> bool:
        """The worker answered a lease, or prolonged it; whether that may make more room."""
        if not span.is_in_time(now):
            passed = self._trial_at is not None and span.granted_at >= self._narrowed_at
            if passed:
                self._trial_at = None
            return passed
        self._bound += 1 if not is_over or span.is_soon(now) else 1 / self._bound
        self._pause = 0.0
        self._closed_until = float("-inf")
        if span.granted_at >= self._narrowed_at:
            self._trial_at = None
        return True

    def heard_after(self, silence: float) -> bool:
        """A frame arrived after so long; whether that ends a pause."""
        if self._last is None or not self._last.is_silence(silence):
            return False
        self._closed_until = float("-inf")
        return True

    def is_over(self, window: int) -> bool:
        """Whether the worker may have all it wants."""
        return self._bound >= window > 0


class Attention:
    """Since when this server could hear its workers.

    Told by the duty that ends leases, which needs the database and the event loop as answers do.
    """

    def __init__(self, now: float) -> None:
        self._since = self._last = now

    def note(self, now: float) -> None:
        """The duty was done."""
        if now - self._last > _GAP_SECONDS:
            self._since = now
        self._last = now

    def since(self, now: float) -> float:
        """The beginning of the time without gaps; now itself if there is a gap."""
        return now if now - self._last > _GAP_SECONDS else self._since
