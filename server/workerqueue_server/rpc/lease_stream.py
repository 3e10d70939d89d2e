"""One Lease stream: a reader and a writer, and what happens when either ends.

Invariants:
  * Only the writer calls ``context.write``; gRPC allows one write at a time.
  * Only the reader calls ``context.read``, and no read is ever cancelled while the stream goes on:
    a cancelled read would make every later one report the end of the stream.
  * A lease that was granted is either written, or given back uncharged when the stream ends. What
    was written and never read is left to the lease clock.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, TypeVar

import grpc

from workerqueue.v1 import lease_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.errors import (
    InvalidTask,
    LeaseLost,
    Overloaded,
    ProtocolViolation,
    QueueError,
    Refused,
    Violation,
)
from workerqueue_server.queue.leases import Finish
from workerqueue_server.queue.policy import Checker
from workerqueue_server.queue.sessions import EndReason, Session
from workerqueue_server.rpc.access import current_principal
from workerqueue_server.rpc.answers import read_ack, read_heartbeat, read_nack
from workerqueue_server.rpc.frames import (
    LeaseEncoder,
    cancellation,
    failed_result,
    milliseconds,
    ok_results,
    plain_acks,
)
from workerqueue_server.rpc.handlers import Context, decode
from workerqueue_server.rpc.outbox import Outbox
from workerqueue_server.rpc.status import status_of
from workerqueue_server.rpc.views import timestamp
from workerqueue_server.store.records import GrantRun

PROTOCOL_VERSION = 1
_SHORTEST_HEARTBEAT_MS = 200
# Answers under way per stream; past that the reader waits, and so does the worker.
_MAX_ANSWERS = 100_000
# How long a worker that is to hear of its error may take to read what was written before.
_LAST_WRITE_SECONDS = 10.0
_log = logging.getLogger(__name__)

_ACK = lease_pb2.LEASE_OPERATION_ACK
_NACK = lease_pb2.LEASE_OPERATION_NACK
_HEARTBEAT = lease_pb2.LEASE_OPERATION_HEARTBEAT


RequestT = TypeVar(
    "RequestT", lease_pb2.AckRequest, lease_pb2.NackRequest, lease_pb2.HeartbeatRequest
)
Item = TypeVar("Item")


class LeaseStream:
    """Serves one worker's stream; the Sink of its session."""

    def __init__(self, engine: Engine, encoder: LeaseEncoder, context: Context) -> None:
        self._engine = engine
        self._encoder = encoder
        self._context = context
        self._principal = current_principal()
        self._desk = engine.desk_of(self._principal)
        self._outbox = Outbox()
        self._session: Session | None = None
        self._answers = 0
        # Something was answered or written.
        self._moved = asyncio.Event()
        # The writer ends the stream once this is set and nothing is left to say.
        self._finishing = False
        # The stream is over: the writer writes nothing more.
        self._broken = False
        self._server_drains = False

    # The queue's side (Sink).

    def deliver(self, runs: Sequence[GrantRun]) -> None:
        """Queues granted leases for the writer."""
        lanes, catalog = self._engine.lanes, self._engine.catalog
        for run in runs:
            lane = lanes.get(run.lane_id)
            assert lane is not None
            kind = catalog.kinds[lane.kind]
            payloads = [payload for payload in run.payloads if payload is not None]
            if not payloads:
                # Enqueued by SQL, and therefore a run of one.
                try:
                    payloads = [catalog.payload_of(kind, run.args or {})]
                except Refused as error:
                    self._engine.reject(run.tokens[0], error)
                    continue
            self._outbox.add_tasks(run.tokens, self._encoder.encode(run, lane, kind, payloads))

    def cancel(self, token: bytes, reason: EndReason) -> None:
        """Tells the worker that a lease ended, unless it never heard of it."""
        if not self._outbox.withdraw(token):
            self._outbox.add_news([cancellation(token, reason)])

    def wake(self) -> None:
        """A lease was answered; a draining stream may be done."""
        if self._session is not None and self._session.draining:
            self._outbox.nudge()

    # The server's side.

    def drain(self, grace_seconds: float) -> None:
        """The server goes away: no more tasks, and the worker is told."""
        self._server_drains = True
        if self._session is not None:
            self._session.draining = True
        notice = lease_pb2.LeaseResponse(
            drain=lease_pb2.Drain(grace=milliseconds(int(grace_seconds * 1000)))
        )
        self._outbox.add_news([notice.SerializeToString()])

    async def serve(self) -> None:
        """Runs the stream to its end. Raises QueueError or StoreError."""
        first = await self._context.read()
        if first is grpc.aio.EOF:
            raise ProtocolViolation("the stream ended before a frame with subscribe")
        frame = decode(lease_pb2.LeaseRequest, first)
        session = await self._subscribe(frame)
        writer = asyncio.create_task(self._write(), name="lease stream writer")
        reader = asyncio.create_task(self._read(frame), name="lease stream reader")
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                # Nothing can be said any more, or all has been said.
                reader.cancel()
                writer.result()
                return
            reader.result()
            await self._half_closed(session)
            # Not awaited itself: to cancel this would cut a write short.
            await asyncio.wait((writer,))
            writer.result()
        finally:
            self._engine.dispatcher.leave(session)
            reader.cancel()
            await self._stop_writing(writer)
            await asyncio.gather(reader, writer, return_exceptions=True)
            unwritten = self._outbox.unwritten()
            if unwritten:
                self._engine.give_back(unwritten)

    async def _subscribe(self, frame: lease_pb2.LeaseRequest) -> Session:
        if not frame.HasField("subscribe"):
            raise ProtocolViolation("the first frame must carry subscribe")
        subscribe = frame.subscribe
        lease_ms = _check_subscribe(self._engine, subscribe)
        self._principal.check_subscription(subscribe.queues, subscribe.kinds)
        if frame.HasField("max_in_flight"):
            _check_window(frame.max_in_flight, "max_in_flight")
        session = Session(
            f"session-{uuid.uuid4().hex[:16]}",
            subscribe.worker_id,
            subscribe.queues,
            subscribe.kinds,
            lease_ms,
            self,
            self._principal,
            self._engine.book.allowance_of(self._principal),
        )
        session.window = (
            frame.max_in_flight if frame.HasField("max_in_flight") else subscribe.max_in_flight
        )
        session.draining = self._server_drains or frame.drain
        welcome = lease_pb2.Welcome(
            session_id=session.session_id,
            heartbeat_interval=milliseconds(self._heartbeat_ms(session)),
            max_in_flight=session.widest,
            queue_windows=self._queue_windows(session),
            held_leases=await self._take_over(session, subscribe.held_lease_tokens),
            server_id=self._engine.server_id,
            protocol_version=PROTOCOL_VERSION,
        )
        self._outbox.add_news([lease_pb2.LeaseResponse(welcome=welcome).SerializeToString()])
        self._session = session
        # The server may have begun to drain while the held leases were looked up.
        session.draining = session.draining or self._server_drains
        self._engine.dispatcher.subscribe(session)
        return session

    async def _take_over(
        self, session: Session, tokens: Sequence[bytes]
    ) -> list[lease_pb2.HeldLease]:
        """A reconnecting worker's leases: the live ones count in this stream's window."""
        alive = await self._desk.present(tokens)
        held = []
        for token in tokens:
            lease = alive.get(token)
            entry = lease_pb2.HeldLease(lease_token=token, alive=lease is not None)
            if lease is not None:
                lane = self._engine.lanes.get(lease.lane_id)
                previous = self._engine.book.holder(token)
                self._engine.book.resume(session, token, lane, lease.worker_id)
                if previous is not None:
                    self._engine.dispatcher.changed(previous)
                entry.lease_expires_at.CopyFrom(timestamp(lease.expires_at))
            held.append(entry)
        return held

    def _heartbeat_ms(self, session: Session) -> int:
        shortest = session.lease_ms or min(
            (
                kind.policy.lease_duration_ms
                for kind in self._engine.catalog.kinds.values()
                if not session.kinds or kind.name in session.kinds
            ),
            default=30_000,
        )
        return max(_SHORTEST_HEARTBEAT_MS, shortest // 3)

    def _queue_windows(self, session: Session) -> list[lease_pb2.QueueWindow]:
        limits = self._engine.dispatcher.planner.limits
        windows = []
        for queue, limit in sorted(limits.items()):
            narrow = [n for n in (limit.per_worker, limit.total) if n is not None]
            if narrow and (not session.queues or queue in session.queues):
                windows.append(lease_pb2.QueueWindow(queue=queue, max_in_flight=min(narrow)))
        return windows

    # The reader.

    async def _read(self, frame: lease_pb2.LeaseRequest) -> None:
        """Handles frames until the worker half-closes."""
        session = self._session
        assert session is not None
        self._handle(frame)
        while True:
            data = await self._context.read()
            if data is grpc.aio.EOF:
                return
            if session.heard(monotonic()):
                self._engine.dispatcher.changed(session)
            tokens = plain_acks(data)
            if tokens is not None:
                self._submit(tokens, list(map(Finish, tokens)), _ACK, self._desk.finish)
            else:
                frame = decode(lease_pb2.LeaseRequest, data)
                if frame.HasField("subscribe"):
                    raise ProtocolViolation("subscribe is allowed in the first frame only")
                if frame.HasField("max_in_flight"):
                    _check_window(frame.max_in_flight, "max_in_flight")
                self._handle(frame)
            while self._answers > _MAX_ANSWERS or self._outbox.is_overfull:
                self._moved.clear()
                await self._moved.wait()

    def _handle(self, frame: lease_pb2.LeaseRequest) -> None:
        session, desk = self._session, self._desk
        assert session is not None
        if frame.HasField("max_in_flight"):
            session.window = frame.max_in_flight
            self._engine.dispatcher.changed(session)
        if frame.acks:
            self._answer(frame.acks, _ACK, read_ack, desk.finish)
        if frame.nacks:
            self._answer(frame.nacks, _NACK, read_nack, desk.take_back)
        if frame.heartbeats:
            self._answer(frame.heartbeats, _HEARTBEAT, read_heartbeat, desk.heartbeat)
        if frame.drain:
            session.draining = True
            self._outbox.nudge()

    def _answer(
        self,
        requests: Iterable[RequestT],
        operation: lease_pb2.LeaseOperation,
        read: Callable[[RequestT], Item],
        submit: Callable[[Sequence[Item]], asyncio.Future[Sequence[Any]]],
    ) -> None:
        tokens, items, refused = [], [], []
        for request in requests:
            try:
                items.append(read(request))
                tokens.append(request.lease_token)
            except QueueError as error:
                refused.append(failed_result(request.lease_token, operation, status_of(error)))
        if refused:
            self._outbox.add_news(refused)
        if items:
            self._submit(tokens, items, operation, submit)

    def _submit(
        self,
        tokens: list[bytes],
        items: Sequence[Item],
        operation: lease_pb2.LeaseOperation,
        submit: Callable[[Sequence[Item]], asyncio.Future[Sequence[Any]]],
    ) -> None:
        try:
            future = submit(items)
        except Overloaded as error:
            status = status_of(error)
            self._outbox.add_news([failed_result(token, operation, status) for token in tokens])
            return
        self._answers += len(items)
        future.add_done_callback(lambda done: self._report(tokens, operation, done))

    def _report(
        self,
        tokens: list[bytes],
        operation: lease_pb2.LeaseOperation,
        future: asyncio.Future[Sequence[object]],
    ) -> None:
        self._answers -= len(tokens)
        self._moved.set()
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            status = status_of(error)
            self._outbox.add_news([failed_result(t, operation, status) for t in tokens])
            return
        alive = future.result()
        if all(alive):
            self._outbox.add_news([ok_results(tokens, operation)])
            return
        lost = status_of(LeaseLost())
        self._outbox.add_news(
            [
                ok_results([token], operation) if ok else failed_result(token, operation, lost)
                for token, ok in zip(tokens, alive, strict=True)
            ]
        )

    async def _half_closed(self, session: Session) -> None:
        """The worker will send no more: deliver what is available now, then end the stream.

        Raises StoreError if the database cannot tell what is available.
        """
        # Answers under way make room in the window.
        while self._answers:
            self._moved.clear()
            await self._moved.wait()
        await self._engine.dispatcher.settle(session)
        session.draining = True
        self._finishing = True
        self._outbox.nudge()

    # The writer.

    async def _stop_writing(self, writer: asyncio.Task[None]) -> None:
        """Lets a write under way end: after one that was cut short gRPC can send no status."""
        self._broken = True
        self._outbox.nudge()
        try:
            await asyncio.wait((writer,), timeout=_LAST_WRITE_SECONDS)
        finally:
            writer.cancel()

    async def _write(self) -> None:
        while not self._broken:
            while not self._outbox.is_empty() and not self._broken:
                frame, leases = self._outbox.next_frame()
                try:
                    await self._context.write(frame)
                except BaseException:
                    self._outbox.put_back(leases)
                    raise
                self._moved.set()
            if self._is_done():
                return
            await self._outbox.wait()

    def _is_done(self) -> bool:
        session = self._session
        if session is None or self._answers:
            return False
        return self._finishing or (session.draining and not session.held)


def _check_subscribe(engine: Engine, subscribe: lease_pb2.Subscribe) -> int | None:
    """The stream's own lease duration in ms, if it has one. Raises Refused."""
    if subscribe.protocol_version > PROTOCOL_VERSION:
        raise ProtocolViolation(
            f"this server speaks protocol version {PROTOCOL_VERSION}, "
            f"not {subscribe.protocol_version}"
        )
    check = Checker("subscribe.")
    check.worker("worker_id", subscribe.worker_id)
    for place, queue in enumerate(subscribe.queues):
        check.queue(f"queues[{place}]", queue)
    check.number("max_in_flight", subscribe.max_in_flight, bounds.MAX_IN_FLIGHT)
    if len(subscribe.held_lease_tokens) > bounds.HELD_TOKENS:
        check.fail("held_lease_tokens", f"at most {bounds.HELD_TOKENS} tokens")
    lease_ms = (
        check.milliseconds("lease_duration", subscribe.lease_duration, bounds.LEASE_DURATION_MS)
        if subscribe.HasField("lease_duration")
        else None
    )
    if check.violations:
        raise InvalidTask(check.violations)
    for place, kind in enumerate(subscribe.kinds):
        engine.catalog.by_name(kind, f"subscribe.kinds[{place}]")
    return lease_ms


def _check_window(value: int, field: str) -> None:
    low, high = bounds.MAX_IN_FLIGHT
    if not low <= value <= high:
        raise InvalidTask([Violation(field, f"must be {low} to {high}, not {value}")])
