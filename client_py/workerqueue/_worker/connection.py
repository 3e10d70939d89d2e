"""Keeps a worker connected: opens streams, backs off, hands over when a server drains.

One thread owns the state and takes events from a queue, so nothing here needs a lock: the streams'
threads only put events in.
"""

from __future__ import annotations

import itertools
import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from workerqueue._convert import to_duration
from workerqueue._errors import WorkerQueueError
from workerqueue._security import Metadata
from workerqueue._worker.lease import Lease
from workerqueue._worker.ledger import Ledger
from workerqueue._worker.stream import PROTOCOL_VERSION, Stream, Subscription
from workerqueue.v1 import lease_pb2

logger = logging.getLogger("workerqueue.worker")

# Full jitter from the first try on: when a server goes away, all its workers lose it at the same
# moment, and half a second is what spreads ten thousand of them over its successor.
BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 5.0
# A stream must have lived this long before its end counts as a first failure again.
STABLE_SECONDS: Final = 10.0
# A server that drains gives seconds; its workers leave it within this share of them, but never all
# at once and never so late that nothing is left of the grace.
DRAIN_SPREAD: Final = 0.1

# What no repetition can mend: the subscription, the credentials or the protocol is wrong.
_FATAL: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


@dataclass(frozen=True, slots=True)
class _Welcomed:
    stream: Stream


@dataclass(frozen=True, slots=True)
class _ServerDrains:
    stream: Stream
    grace: float


@dataclass(frozen=True, slots=True)
class _Closed:
    stream: Stream
    error: WorkerQueueError | None


class _Stop:
    pass


_Event = _Welcomed | _ServerDrains | _Closed | _Stop


class Connection:
    """The worker's side of the network.

    Args:
        subscription: What the worker takes.
        window: How many leases it may hold at once.
        channels: Opens a channel for the next stream, or gives the caller's own.
        owns_channels: Whether channels are to be closed with their stream.
        metadata: Authenticates each stream.
        token_rotates: Whether the token may be another one the next time: then a stream that ends
            because it is no longer good is opened again, once the server has taken this worker.
        deliver: Called with new leases, from a stream's thread.
        end: Called with leases that are over, from a stream's thread.
        failed: Called once if the worker cannot go on, from the connection's thread.
    """

    def __init__(
        self,
        subscription: Subscription,
        ledger: Ledger,
        *,
        window: int,
        channels: Callable[[], grpc.Channel],
        owns_channels: bool,
        metadata: Callable[[], Metadata | None],
        token_rotates: bool = False,
        deliver: Callable[[list[Lease]], None],
        end: Callable[[list[Lease]], None],
        failed: Callable[[WorkerQueueError], None],
    ) -> None:
        self.deliver = deliver
        self.end = end
        self._subscription = subscription
        self._ledger = ledger
        self._base_window = window
        self._stuck = 0
        self._draining = False
        self._channels = channels
        self._owns_channels = owns_channels
        self._metadata = metadata
        self._token_rotates = token_rotates
        self._failed = failed
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._streams: dict[int, tuple[Stream, float]] = {}
        self._current: Stream | None = None
        self._opening: Stream | None = None
        self._open_at: float | None = None
        self._failures = 0
        self._ever_welcomed = False
        self._thread = threading.Thread(
            target=self._run, name="workerqueue-connection", daemon=True
        )
        ledger.wake = self.wake

    def start(self) -> None:
        """Connects, and stays connected until ``stop``."""
        self._thread.start()

    def stop(self) -> None:
        """Cuts everything off. What is not confirmed by now stays so."""
        self._events.put(_Stop())

    def join(self, timeout: float) -> None:
        """Waits until the threads are gone."""
        self._thread.join(timeout)

    def drain(self) -> None:
        """Takes no more tasks, on this stream or any later one."""
        self._draining = True
        self.wake()

    def set_stuck(self, count: int) -> None:
        """How many handlers still run for leases that are over; the window shrinks by them.

        Their slots are taken, so a task sent for one of them would wait here, held by a worker that
        cannot start it, while another could.
        """
        self._stuck = count
        self.wake()

    def wake(self) -> None:
        """There may be something to write."""
        current = self._current
        if current is not None:
            current.wake()

    def window(self) -> int:
        """How many leases the worker wants to hold now."""
        return 0 if self._draining else max(0, self._base_window - self._stuck)

    def draining(self) -> bool:
        """Whether the worker wants no more tasks at all."""
        return self._draining

    def welcomed(self, stream: Stream) -> None:
        """The server took the subscription."""
        self._events.put(_Welcomed(stream))

    def server_drains(self, stream: Stream, grace: float) -> None:
        """The server is going away."""
        self._events.put(_ServerDrains(stream, grace))

    def closed(self, stream: Stream, error: WorkerQueueError | None) -> None:
        """The stream is over."""
        self._events.put(_Closed(stream, error))

    def _run(self) -> None:
        self._open()
        while True:
            match self._next_event():
                case None:
                    self._open()
                case _Welcomed(stream):
                    self._on_welcomed(stream)
                case _ServerDrains(stream, grace):
                    self._on_server_drains(stream, grace)
                case _Closed(stream, error):
                    if self._on_closed(stream, error):
                        break
                case _Stop():
                    break
        streams = [stream for stream, _ in self._streams.values()]
        for stream in streams:
            stream.cancel()
        for stream in streams:
            stream.join(2.0)

    def _next_event(self) -> _Event | None:
        """The next event, or None when it is time to open a stream."""
        if self._open_at is None:
            return self._events.get()
        try:
            return self._events.get(timeout=max(0.0, self._open_at - time.monotonic()))
        except queue.Empty:
            return None

    def _open(self) -> None:
        self._open_at = None
        subscribe = lease_pb2.Subscribe(
            worker_id=self._subscription.worker_id,
            queues=self._subscription.queues,
            kinds=self._subscription.kinds,
            max_in_flight=self.window(),
            protocol_version=PROTOCOL_VERSION,
            held_lease_tokens=self._ledger.tokens(),
        )
        if self._subscription.lease_duration is not None:
            subscribe.lease_duration.CopyFrom(
                to_duration(self._subscription.lease_duration, "lease_duration")
            )
        stream = Stream(
            next(self._numbers),
            subscribe,
            self._channels(),
            self._ledger,
            self,
            self._metadata,
            owns_channel=self._owns_channels,
        )
        self._streams[stream.number] = (stream, time.monotonic())
        self._opening = stream
        stream.start()

    def _on_welcomed(self, stream: Stream) -> None:
        if stream.number not in self._streams:
            return
        self._ever_welcomed = True
        previous, self._current, self._opening = self._current, stream, None
        logger.info("connected as %s, session %s", self._subscription.worker_id, stream.session_id)
        if previous is not None and previous is not stream:
            previous.retire()
        stream.wake()

    def _on_server_drains(self, stream: Stream, grace: float) -> None:
        newest = self._opening or self._current
        if stream is not newest or self._open_at is not None:
            return
        logger.info("the server drains; reconnecting")
        self._opening = None
        spread = min(MAX_BACKOFF_SECONDS, max(BACKOFF_SECONDS, grace * DRAIN_SPREAD))
        self._open_at = time.monotonic() + random.uniform(0.0, spread)

    def _on_closed(self, stream: Stream, error: WorkerQueueError | None) -> bool:
        """Books the end of a stream; returns whether the worker cannot go on."""
        _, opened = self._streams.pop(stream.number)
        was_newest = stream is (self._opening or self._current)
        if stream is self._current:
            self._current = None
        if stream is self._opening:
            self._opening = None
        self._ledger.requeue(stream.number)
        if error is not None and was_newest and self._is_fatal(error):
            self._failed(error)
            return True
        if was_newest and self._open_at is None:
            self._back_off(error, time.monotonic() - opened)
        return False

    def _is_fatal(self, error: WorkerQueueError) -> bool:
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            # At first this is the wrong address; later it is a proxy between two deployments.
            return not self._ever_welcomed
        if error.code is grpc.StatusCode.UNAUTHENTICATED and self._token_rotates:
            # At first this is the wrong token; later the next one has not been handed out yet.
            return not self._ever_welcomed
        return error.code in _FATAL

    def _back_off(self, error: WorkerQueueError | None, lived: float) -> None:
        if lived >= STABLE_SECONDS:
            self._failures = 0
        longest = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        asked = error.retry_after or 0.0 if error is not None else 0.0
        delay = asked + random.uniform(0.0, longest)
        self._open_at = time.monotonic() + delay
        if not (self._draining and error is None):
            logger.warning(
                "the lease stream ended (%s); opening another one in %.1f s",
                error or "closed",
                delay,
            )
