"""The worker's books: every lease it holds and every answer the server has not confirmed.

An answer counts as delivered only once its LeaseResult came. Until then it stays in the ledger, and
when its stream breaks it is queued again for the next one: a repeat with the same token answers OK.

The ledger is the one thing that the reader, the writer, the handlers' loop and their threads all
touch; each method takes the lock once per frame or once per task.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2

from workerqueue._errors import CancelReason, LeaseLostError
from workerqueue._status import from_status, reason_of
from workerqueue._worker import answers
from workerqueue._worker.lease import Answer, Lease, SideChannel
from workerqueue.v1 import lease_pb2, task_pb2

logger = logging.getLogger("workerqueue.worker")

# Few enough that one frame is one cheap statement for the server, many enough to fill it.
MAX_ANSWERS_PER_FRAME: Final = 2_000
# Below the 4 MiB message limit with room for the largest single answer.
MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
# How soon an answer is repeated that the server could not take just now.
RETRY_SECONDS: Final = 1.0

_TRANSIENT: Final = frozenset(
    {
        code_pb2.UNAVAILABLE,
        code_pb2.RESOURCE_EXHAUSTED,
        code_pb2.INTERNAL,
        code_pb2.UNKNOWN,
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.ABORTED,
    }
)


class Ledger:
    """All leases of one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[bytes, Lease] = {}
        self._outbox: deque[Lease] = deque()
        self._retries: list[tuple[float, int, Lease]] = []
        self._retry_order = itertools.count()
        self._noted: dict[bytes, Lease] = {}
        self._open_streams: set[int] = set()
        self.wake: Callable[[], None] = lambda: None
        """Tells the writer that there is something to send."""
        self.emptied: Callable[[], None] = lambda: None
        """Tells a worker that drains that nothing is left."""

    def __len__(self) -> int:
        return len(self._leases)

    def tokens(self) -> list[bytes]:
        """Every lease that is held or whose answer is not confirmed."""
        with self._lock:
            return list(self._leases)

    def add(self, tasks: Iterable[lease_pb2.LeasedTask], now: float) -> list[Lease]:
        """Takes the tasks of a frame in; one that is already held is skipped."""
        added = []
        with self._lock:
            for task in tasks:
                lease = Lease(task, now)
                if lease.token not in self._leases:
                    self._leases[lease.token] = lease
                    added.append(lease)
        return added

    def answer(self, lease: Lease, answer: Answer) -> bool:
        """Queues the answer for a lease; the first answer wins. The caller wakes the writer."""
        with self._lock:
            if lease.answer is not None or lease.ended is not None:
                return False
            lease.answer = answer
            self._outbox.append(lease)
        return True

    def end(self, token: bytes, reason: CancelReason) -> Lease | None:
        """The server says that the lease is over; there is nothing left to tell it."""
        with self._lock:
            lease = self._leases.pop(token, None)
            if lease is None:
                return None
            lease.ended = reason
            pending = _pending(lease.side) if lease.side else []
        for future in pending:
            _resolve(future, _over())
        self._check_empty()
        return lease

    def end_all(self, reason: CancelReason) -> list[Lease]:
        """The worker gives up on the server: nothing more can be told to it."""
        ended = (self.end(token, reason) for token in self.tokens())
        return [lease for lease in ended if lease is not None]

    def note_progress(self, lease: Lease, progress: task_pb2.Progress) -> None:
        """Sends progress with one of the next frames; only the last one said counts."""
        with self._lock:
            self._side(lease).progress = progress
            self._noted[lease.token] = lease
        self.wake()

    def save_checkpoint(self, lease: Lease, checkpoint: Any) -> Future[None]:
        """Sends a checkpoint; the future is done when the server has stored it."""
        stored: Future[None] = Future()
        with self._lock:
            if lease.token not in self._leases or lease.answer is not None:
                stored.set_exception(_over())
                return stored
            side = self._side(lease)
            side.checkpoint = checkpoint
            side.waiting.append(stored)
            self._noted[lease.token] = lease
        self.wake()
        return stored

    def stream_opened(self, stream: int) -> None:
        """Answers may be sent on this stream until ``requeue`` is called for it."""
        with self._lock:
            self._open_streams.add(stream)

    def take_answers(self, stream: int, now: float) -> list[tuple[bytes, Answer]]:
        """The next frame's worth of tokens and answers, marked as sent on ``stream``.

        None for a stream that was requeued: its writer may still be about to write one more frame,
        and what it took would be lost.
        """
        taken: list[tuple[bytes, Answer]] = []
        size = 0
        with self._lock:
            if stream not in self._open_streams:
                return taken
            while self._retries and self._retries[0][0] <= now:
                self._outbox.append(heapq.heappop(self._retries)[2])
            while self._outbox and len(taken) < MAX_ANSWERS_PER_FRAME and size < MAX_FRAME_BYTES:
                lease = self._outbox.popleft()
                answer = lease.answer
                if answer is None or lease.token not in self._leases:
                    continue
                lease.sent_on = stream
                taken.append((lease.token, answer))
                # A plain ack is tiny; asking each for its size would cost more than it tells.
                if answer is not answers.PLAIN_ACK:
                    size += answer.ByteSize()
        return taken

    def heartbeats(self, stream: int) -> list[lease_pb2.HeartbeatRequest]:
        """One heartbeat for every lease that still needs its clock moved.

        A lease whose answer is on its way needs none, unless the answer waits for longer than a
        whole round, as it does while the server's database is away.
        """
        beats: list[lease_pb2.HeartbeatRequest] = []
        with self._lock:
            if stream not in self._open_streams:
                return beats
            for lease in self._leases.values():
                if lease.answer is not None and not lease.quiet:
                    lease.quiet = True
                    continue
                beats.append(self._heartbeat(lease, stream))
            self._noted.clear()
        return beats

    def noted_heartbeats(self, stream: int, *, progress: bool) -> list[lease_pb2.HeartbeatRequest]:
        """Heartbeats that carry new checkpoints and, if ``progress``, new progress."""
        beats: list[lease_pb2.HeartbeatRequest] = []
        size = 0
        with self._lock:
            if stream not in self._open_streams:
                return beats
            for token, lease in list(self._noted.items()):
                side = lease.side
                if token not in self._leases or side is None:
                    del self._noted[token]
                elif (progress or side.checkpoint is not None) and size < MAX_FRAME_BYTES:
                    size += len(side.checkpoint.value) if side.checkpoint is not None else 0
                    beats.append(self._heartbeat(lease, stream))
                    del self._noted[token]
        return beats

    def next_due(self) -> float | None:
        """When the first answer is to be repeated."""
        return self._retries[0][0] if self._retries else None

    @property
    def has_notes(self) -> bool:
        """Whether progress or a checkpoint waits to be sent."""
        return bool(self._noted)

    def settle(
        self, stream: int, results: Sequence[lease_pb2.LeaseResult], now: float
    ) -> list[Lease]:
        """Books the results of a frame on ``stream``; returns leases that turned out to be lost."""
        lost: list[bytes] = []
        settled: list[tuple[Future[None], BaseException | None]] = []
        beat = lease_pb2.LEASE_OPERATION_HEARTBEAT
        with self._lock:
            for result in results:
                if result.operation == beat:
                    if self._settle_heartbeat(stream, result, settled):
                        lost.append(result.lease_token)
                elif result.HasField("error"):
                    self._settle_refusal(result, now)
                elif (lease := self._leases.pop(result.lease_token, None)) and lease.side:
                    settled += [(future, _over()) for future in _pending(lease.side)]
        if self._outbox or self._retries:
            self.wake()
        for future, error in settled:
            _resolve(future, error)
        ended = [lease for token in lost if (lease := self.end(token, CancelReason.LEASE_LOST))]
        self._check_empty()
        return ended

    def reconcile(self, held: Iterable[lease_pb2.HeldLease]) -> list[Lease]:
        """Books what the server says of the leases presented after a reconnect.

        Returns those that are lost. An answered one is not: it may be over because its answer was
        taken and only the result was lost with the stream, and the repeated answer will tell.
        """
        lost = []
        for entry in held:
            lease = self._leases.get(entry.lease_token)
            if lease is not None and not entry.alive and lease.answer is None:
                self.end(entry.lease_token, CancelReason.LEASE_LOST)
                lost.append(lease)
        return lost

    def requeue(self, stream: int) -> None:
        """The stream is gone: what it did not confirm is sent again on the next one."""
        with self._lock:
            self._open_streams.discard(stream)
            for lease in self._leases.values():
                if lease.answer is not None and lease.sent_on == stream:
                    lease.sent_on = 0
                    self._outbox.append(lease)
                if lease.beats_on == stream:
                    self._unsend_checkpoints(lease)
        self.wake()

    def unconfirmed_on(self, stream: int) -> int:
        """How many answers written to ``stream`` have no result yet."""
        with self._lock:
            return sum(1 for lease in self._leases.values() if lease.sent_on == stream)

    def _settle_heartbeat(
        self,
        stream: int,
        result: lease_pb2.LeaseResult,
        settled: list[tuple[Future[None], BaseException | None]],
    ) -> bool:
        lease = self._leases.get(result.lease_token)
        if lease is None:
            return False
        failed = result.HasField("error")
        if failed and reason_of(result.error) == "LEASE_LOST":
            # An answered lease is over because of its answer; the answer's own result says more.
            return lease.answer is None
        if lease.beats_on != stream:
            return False
        lease.beats_confirmed += 1
        side = lease.side
        if side is None:
            return False
        if failed and result.error.code in _TRANSIENT:
            self._unsend_checkpoints(lease)
            return False
        error = from_status(result.error) if failed else None
        while side.unconfirmed and side.unconfirmed[0][0] <= lease.beats_confirmed:
            settled.append((side.unconfirmed.pop(0)[2], error))
        return False

    def _settle_refusal(self, result: lease_pb2.LeaseResult, now: float) -> None:
        lease = self._leases.get(result.lease_token)
        if lease is None or lease.answer is None:
            return
        task_id = lease.task.task_id
        if result.error.code in _TRANSIENT:
            retry = (now + RETRY_SECONDS, next(self._retry_order), lease)
            heapq.heappush(self._retries, retry)
            lease.sent_on = 0
            return
        refusal = from_status(result.error)
        if isinstance(refusal, LeaseLostError):
            logger.warning("task %s: the lease was lost before its answer arrived", task_id)
        elif isinstance(lease.answer, lease_pb2.AckRequest) and lease.answer.HasField("result"):
            # The server will not store this result, now or later; the attempt must still end.
            lease.answer = answers.failure(lease.token, "ResultRefused", str(refusal))
            self._outbox.append(lease)
            lease.sent_on = 0
            return
        else:
            logger.error("task %s: the server refused the answer: %s", task_id, refusal)
        del self._leases[lease.token]

    def _heartbeat(self, lease: Lease, stream: int) -> lease_pb2.HeartbeatRequest:
        if lease.beats_on != stream:
            lease.beats_on = stream
            lease.beats_sent = lease.beats_confirmed = 0
            self._unsend_checkpoints(lease)
        lease.beats_sent += 1
        side = lease.side
        if side is None:
            return lease_pb2.HeartbeatRequest(lease_token=lease.token)
        beat = lease_pb2.HeartbeatRequest(
            lease_token=lease.token, progress=side.progress, checkpoint=side.checkpoint
        )
        if side.checkpoint is not None:
            checkpoint = side.checkpoint
            side.unconfirmed += [(lease.beats_sent, checkpoint, future) for future in side.waiting]
            side.waiting = []
        side.progress = side.checkpoint = None
        return beat

    def _unsend_checkpoints(self, lease: Lease) -> None:
        side = lease.side
        if side is None:
            return
        if side.unconfirmed:
            side.checkpoint = side.checkpoint or side.unconfirmed[-1][1]
            side.waiting += [future for _, _, future in side.unconfirmed]
            side.unconfirmed = []
            self._noted[lease.token] = lease

    def _side(self, lease: Lease) -> SideChannel:
        if lease.side is None:
            lease.side = SideChannel()
        return lease.side

    def _check_empty(self) -> None:
        if not self._leases:
            self.emptied()


def _over() -> LeaseLostError:
    return LeaseLostError("the lease is over", reason="LEASE_LOST")


def _pending(side: SideChannel) -> list[Future[None]]:
    pending = side.waiting + [future for _, _, future in side.unconfirmed]
    side.waiting, side.unconfirmed = [], []
    return pending


def _resolve(future: Future[None], error: BaseException | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
