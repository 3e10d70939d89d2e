"""One Lease stream: one thread reads it, one writes it.

This is the sync gRPC API on purpose. Its two threads need nothing of the handlers' event loop, so
heartbeats go out and acks are confirmed while a handler blocks that loop; and frame for frame it
costs what grpc.aio costs inside the loop, while grpc.aio on a loop of its own costs half as much
again (10.5, 10.9 and 18.0 microseconds of CPU a no-op task at a window of 100).

Writing is a generator that gRPC pulls: it asks for the next frame when the last one is on its way,
so everything that was answered in the meantime goes into one frame, and an idle stream sends an ack
at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import grpc

from workerqueue._convert import from_duration
from workerqueue._errors import CancelReason, UnavailableError, WorkerQueueError
from workerqueue._security import Metadata
from workerqueue._status import from_rpc_error
from workerqueue._worker import answers
from workerqueue._worker.lease import Lease
from workerqueue._worker.ledger import Ledger
from workerqueue.v1 import lease_pb2, worker_queue_pb2_grpc

logger = logging.getLogger("workerqueue.worker")

PROTOCOL_VERSION: Final = 1
# A server that accepts a stream and then says nothing for this long is given up.
WELCOME_SECONDS: Final = 15.0
# Progress is for people to look at: not worth a database write more often than this.
PROGRESS_SECONDS: Final = 1.0
_DEFAULT_HEARTBEAT_SECONDS: Final = 10.0
_LONGEST_WAIT: Final = 3600.0

_REASONS: Final = {
    lease_pb2.CANCELLATION_REASON_CANCELLED: CancelReason.CANCELLED,
    lease_pb2.CANCELLATION_REASON_TIMED_OUT: CancelReason.TIMED_OUT,
    lease_pb2.CANCELLATION_REASON_LEASE_LOST: CancelReason.LEASE_LOST,
}


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a worker takes, the same on each of its streams."""

    worker_id: str
    queues: tuple[str, ...]
    kinds: tuple[str, ...]
    lease_duration: float | None


class Desk(Protocol):
    """What a stream needs of the worker around it. Called from the stream's threads."""

    def window(self) -> int:
        """How many leases the worker wants to hold now."""

    def draining(self) -> bool:
        """Whether the worker wants no more tasks at all."""

    def deliver(self, leases: list[Lease]) -> None:
        """New leases."""

    def end(self, leases: list[Lease]) -> None:
        """Leases that are over."""

    def welcomed(self, stream: Stream) -> None:
        """The server took the subscription."""

    def server_drains(self, stream: Stream, grace: float) -> None:
        """The server is going away."""

    def closed(self, stream: Stream, error: WorkerQueueError | None) -> None:
        """The stream is over."""


class Stream:
    """One Lease stream, from the subscription to its end."""

    def __init__(
        self,
        number: int,
        subscribe: lease_pb2.Subscribe,
        channel: grpc.Channel,
        ledger: Ledger,
        desk: Desk,
        metadata: Callable[[], Metadata | None],
        *,
        owns_channel: bool,
    ) -> None:
        self.number = number
        self.session_id = ""
        self._subscribe = subscribe
        self._channel = channel
        self._owns_channel = owns_channel
        self._ledger = ledger
        self._desk = desk
        self._metadata = metadata
        self._call: grpc.Call | None = None
        self._wake = threading.Event()
        self._welcome = threading.Event()
        self._closed = False
        self._retired = False
        self._heartbeat_seconds = _DEFAULT_HEARTBEAT_SECONDS
        self._sent_window = subscribe.max_in_flight
        self._sent_drain = False
        self._next_round = 0.0
        self._next_progress = 0.0
        self._thread = threading.Thread(
            target=self._read, name=f"workerqueue-stream-{number}", daemon=True
        )

    def start(self) -> None:
        """Opens the stream."""
        self._ledger.stream_opened(self.number)
        self._thread.start()

    def wake(self) -> None:
        """There may be something to write."""
        self._wake.set()

    def retire(self) -> None:
        """Another stream takes over: write nothing more, close once all answers are confirmed."""
        self._retired = True
        self._wake.set()

    def cancel(self) -> None:
        """Cuts the stream off."""
        self._closed = True
        self._wake.set()
        self._welcome.set()
        if self._call is not None:
            self._call.cancel()

    def join(self, timeout: float) -> None:
        """Waits for the reading thread."""
        self._thread.join(timeout)

    def _read(self) -> None:
        error: WorkerQueueError | None = None
        try:
            call = worker_queue_pb2_grpc.WorkerQueueStub(self._channel).Lease(
                self._write(), metadata=self._metadata()
            )
            self._call = call
            if self._closed:
                call.cancel()
            for frame in call:
                self._on_frame(frame)
        except grpc.RpcError as failed:
            error = from_rpc_error(failed)
        except Exception as bug:
            logger.exception("the lease stream's reader failed")
            error = UnavailableError(f"the lease stream's reader failed: {bug}")
        finally:
            self._closed = True
            self._wake.set()
            self._welcome.set()
            if self._owns_channel:
                self._channel.close()
            self._desk.closed(self, error)

    def _on_frame(self, frame: lease_pb2.LeaseResponse) -> None:
        now = time.monotonic()
        ended: list[Lease] = []
        if frame.HasField("welcome"):
            ended += self._on_welcome(frame.welcome)
        if frame.results:
            ended += self._ledger.settle(self.number, frame.results, now)
            if self._retired:
                self._wake.set()
        if frame.tasks:
            self._desk.deliver(self._ledger.add(frame.tasks, now))
        for cancellation in frame.cancellations:
            reason = _REASONS.get(cancellation.reason, CancelReason.LEASE_LOST)
            if (lease := self._ledger.end(cancellation.lease_token, reason)) is not None:
                ended.append(lease)
        if ended:
            self._desk.end(ended)
        if frame.HasField("drain"):
            self._desk.server_drains(self, from_duration(frame.drain.grace))

    def _on_welcome(self, welcome: lease_pb2.Welcome) -> list[Lease]:
        self.session_id = welcome.session_id
        self._heartbeat_seconds = (
            from_duration(welcome.heartbeat_interval) or _DEFAULT_HEARTBEAT_SECONDS
        )
        # Leases that were carried over have not been heard of since the last stream broke.
        carried = bool(self._subscribe.held_lease_tokens)
        self._next_round = time.monotonic() + (0.0 if carried else self._heartbeat_seconds)
        lost = self._ledger.reconcile(welcome.held_leases)
        self._desk.welcomed(self)
        self._welcome.set()
        return lost

    def _write(self) -> Iterator[lease_pb2.LeaseRequest]:
        yield lease_pb2.LeaseRequest(subscribe=self._subscribe)
        self._welcome.wait(WELCOME_SECONDS)
        if not self._welcome.is_set():
            logger.warning("the server did not welcome this worker; trying again")
            self.cancel()
        while not (self._closed or self._retired):
            self._wake.clear()
            frame = self._next_frame()
            if frame is not None:
                yield frame
            else:
                self._wake.wait(self._seconds_to_wait())
        if self._retired and not self._closed:
            # Tasks that were on their way are taken; no more may start out.
            yield lease_pb2.LeaseRequest(max_in_flight=0)
            while not self._closed and self._ledger.unconfirmed_on(self.number):
                self._wake.clear()
                self._wake.wait(self._heartbeat_seconds)

    def _next_frame(self) -> lease_pb2.LeaseRequest | None:
        now = time.monotonic()
        taken = self._ledger.take_answers(self.number, now)
        beats = self._heartbeats(now)
        window, draining = self._desk.window(), self._desk.draining()
        if not taken and not beats and window == self._sent_window and draining == self._sent_drain:
            return None
        frame = lease_pb2.LeaseRequest(heartbeats=beats)
        for token, answer in taken:
            if answer is answers.PLAIN_ACK:
                frame.acks.add(lease_token=token)
            elif isinstance(answer, lease_pb2.AckRequest):
                frame.acks.append(answer)
            else:
                frame.nacks.append(answer)
        if window != self._sent_window:
            frame.max_in_flight = self._sent_window = window
        if draining and not self._sent_drain:
            frame.drain = self._sent_drain = True
        return frame

    def _heartbeats(self, now: float) -> list[lease_pb2.HeartbeatRequest]:
        if now >= self._next_round:
            self._next_round = now + self._heartbeat_seconds
            self._next_progress = now + PROGRESS_SECONDS
            return self._ledger.heartbeats(self.number)
        if not self._ledger.has_notes:
            return []
        progress = now >= self._next_progress
        if progress:
            self._next_progress = now + PROGRESS_SECONDS
        return self._ledger.noted_heartbeats(self.number, progress=progress)

    def _seconds_to_wait(self) -> float:
        due = [self._next_round]
        if (repeat := self._ledger.next_due()) is not None:
            due.append(repeat)
        if self._ledger.has_notes:
            due.append(self._next_progress)
        return min(max(0.0, min(due) - time.monotonic()), _LONGEST_WAIT)
