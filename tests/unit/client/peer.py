"""A server that says exactly what a test tells it to, in threads of its own.

It runs apart from the test's event loop because some tests block that loop on purpose.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any as AnyType

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from workerqueue import kind_of
from workerqueue.v1 import lease_pb2, worker_queue_pb2, worker_queue_pb2_grpc

PATIENCE = 60.0
HEARTBEAT = lease_pb2.LEASE_OPERATION_HEARTBEAT
ACK = lease_pb2.LEASE_OPERATION_ACK
NACK = lease_pb2.LEASE_OPERATION_NACK

_numbers = itertools.count(1)


def leased(payload: Message, /, **fields: AnyType) -> lease_pb2.LeasedTask:
    """A task with a token of its own."""
    number = next(_numbers)
    packed = Any()
    packed.Pack(payload)
    task = lease_pb2.LeasedTask(
        lease_token=b"token-%d" % number,
        task_id=f"task-{number}",
        kind=kind_of(type(payload)),
        payload=packed,
        attempt=1,
        max_attempts=3,
        queue="default",
    )
    task.timeout.FromSeconds(60)
    task.lease_duration.FromSeconds(30)
    for name in fields:
        task.ClearField(name)
    task.MergeFrom(lease_pb2.LeasedTask(**fields))
    return task


def error_status(
    code: grpc.StatusCode, reason: str = "", *details: Message, message: str = "no"
) -> status_pb2.Status:
    """A status as the server makes it."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if reason:
        info = error_details_pb2.ErrorInfo(reason=reason, domain="workerqueue")
        status.details.add().Pack(info)
    for detail in details:
        status.details.add().Pack(detail)
    return status


class Session:
    """One Lease stream, as the server sees it."""

    def __init__(self, peer: Peer) -> None:
        self.frames: list[lease_pb2.LeaseRequest] = []
        self.half_closed = False
        self._peer = peer
        self._changed = threading.Condition()
        self._outgoing: queue.SimpleQueue[lease_pb2.LeaseResponse | status_pb2.Status | None] = (
            queue.SimpleQueue()
        )

    # What the test does.

    def send(self, **parts: AnyType) -> None:
        self._outgoing.put(lease_pb2.LeaseResponse(**parts))

    def send_tasks(self, *tasks: lease_pb2.LeasedTask) -> None:
        self.send(tasks=tasks)

    def cancel(self, task: lease_pb2.LeasedTask, reason: lease_pb2.CancellationReason) -> None:
        self.send(
            cancellations=[lease_pb2.Cancellation(lease_token=task.lease_token, reason=reason)]
        )

    def end(self, status: status_pb2.Status | None = None) -> None:
        """Ends the stream, with OK or with an error."""
        self._outgoing.put(status)

    def confirm(
        self,
        token: bytes,
        operation: lease_pb2.LeaseOperation,
        error: status_pb2.Status | None = None,
    ) -> None:
        self.send(
            results=[lease_pb2.LeaseResult(lease_token=token, operation=operation, error=error)]
        )

    def wait(self, condition: Callable[[Session], AnyType], what: str = "a frame") -> AnyType:
        """Waits until ``condition`` is true of what has been received; returns its value."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), PATIENCE):
                raise AssertionError(f"{what} did not come; received: {self.frames}")
            return condition(self)

    @property
    def subscribe(self) -> lease_pb2.Subscribe:
        return self.frames[0].subscribe

    @property
    def acks(self) -> list[lease_pb2.AckRequest]:
        return [ack for frame in self.frames for ack in frame.acks]

    @property
    def nacks(self) -> list[lease_pb2.NackRequest]:
        return [nack for frame in self.frames for nack in frame.nacks]

    @property
    def heartbeats(self) -> list[lease_pb2.HeartbeatRequest]:
        return [beat for frame in self.frames for beat in frame.heartbeats]

    @property
    def windows(self) -> list[int]:
        return [f.max_in_flight for f in self.frames if f.HasField("max_in_flight")]

    @property
    def drained(self) -> bool:
        return any(frame.drain for frame in self.frames)

    # What the stream does.

    def receive(self, requests: Iterator[lease_pb2.LeaseRequest]) -> None:
        try:
            for frame in requests:
                if self._peer.confirms:
                    self._confirm(frame)
                with self._changed:
                    self.frames.append(frame)
                    self._changed.notify_all()
        except grpc.RpcError:
            pass
        with self._changed:
            self.half_closed = True
            self._changed.notify_all()
        self._outgoing.put(None)

    def responses(self, context: grpc.ServicerContext) -> Iterator[lease_pb2.LeaseResponse]:
        while (item := self._outgoing.get()) is not None:
            if isinstance(item, status_pb2.Status):
                context.set_trailing_metadata(
                    (("grpc-status-details-bin", item.SerializeToString()),)
                )
                context.abort(_code(item.code), item.message)
            else:
                yield item

    def _confirm(self, frame: lease_pb2.LeaseRequest) -> None:
        results = [
            lease_pb2.LeaseResult(lease_token=item.lease_token, operation=operation)
            for items, operation in (
                (frame.acks, ACK),
                (frame.nacks, NACK),
                (frame.heartbeats, HEARTBEAT),
            )
            for item in items
        ]
        if results:
            self.send(results=results)


class Peer(worker_queue_pb2_grpc.WorkerQueueServicer):
    """The scripted server."""

    def __init__(self) -> None:
        self.confirms = True
        """Whether acks, nacks and heartbeats get their results without being told."""
        self.welcomes = True
        """Whether a subscription gets a plain welcome without being told."""
        self.heartbeat_seconds = 60.0
        self.refusals: list[status_pb2.Status] = []
        """Answers for the next streams or calls, instead of taking them; OK takes one."""
        self.enqueued: list[worker_queue_pb2.EnqueueRequest] = []
        self.batches: list[int] = []
        """How many tasks each EnqueueBatch carried."""
        self.untold: set[str] = set()
        """Queues whose tasks a batch's answer leaves out."""
        self.answering = threading.Event()
        """Set while enqueue calls are answered; clear it to keep them waiting."""
        self.answering.set()
        self.arrivals = threading.Semaphore(0)
        """Released once for each enqueue call that arrives."""
        self.metadata: list[dict[str, str | bytes]] = []
        self._sessions: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._open: list[Session] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        worker_queue_pb2_grpc.add_WorkerQueueServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def session(self) -> Session:
        """The next stream that a worker opens, subscribed and welcomed."""
        return self._sessions.get(timeout=PATIENCE)

    def stop(self) -> None:
        for session in self._open:
            session.end()
        self._server.stop(0).wait()

    def Lease(  # noqa: N802 - gRPC's name
        self, requests: Iterator[lease_pb2.LeaseRequest], context: grpc.ServicerContext
    ) -> Iterator[lease_pb2.LeaseResponse]:
        self._refuse_or_note(context)
        session = Session(self)
        self._open.append(session)
        session.frames.append(next(requests))
        if self.welcomes:
            session.send(welcome=self.welcome(session))
        threading.Thread(target=session.receive, args=(requests,), daemon=True).start()
        self._sessions.put(session)
        return session.responses(context)

    def welcome(self, session: Session, lost: tuple[bytes, ...] = ()) -> lease_pb2.Welcome:
        welcome = lease_pb2.Welcome(
            session_id="s",
            max_in_flight=session.subscribe.max_in_flight,
            held_leases=[
                lease_pb2.HeldLease(lease_token=token, alive=token not in lost)
                for token in session.subscribe.held_lease_tokens
            ],
        )
        welcome.heartbeat_interval.FromNanoseconds(int(self.heartbeat_seconds * 1e9))
        return welcome

    def Enqueue(  # noqa: N802 - gRPC's name
        self, request: worker_queue_pb2.EnqueueRequest, context: grpc.ServicerContext
    ) -> worker_queue_pb2.EnqueueResponse:
        self.enqueued.append(request)
        self._hold()
        self._refuse_or_note(context)
        response = worker_queue_pb2.EnqueueResponse(
            outcome=worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
        )
        response.task.task_id = request.task_id
        return response

    def EnqueueBatch(  # noqa: N802 - gRPC's name
        self, request: worker_queue_pb2.EnqueueBatchRequest, context: grpc.ServicerContext
    ) -> worker_queue_pb2.EnqueueBatchResponse:
        self.batches.append(len(request.tasks))
        self._hold()
        self._refuse_or_note(context)
        response = worker_queue_pb2.EnqueueBatchResponse()
        for item in request.tasks:
            self.enqueued.append(item)
            if item.options.queue == "refused":
                error = error_status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
                response.results.add(error=error)
            else:
                result = response.results.add(
                    task_id=item.task_id, outcome=worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
                )
                if request.include_tasks and item.options.queue not in self.untold:
                    result.task.task_id = item.task_id
        return response

    def Ack(  # noqa: N802 - gRPC's name
        self, request: lease_pb2.AckRequest, context: grpc.ServicerContext
    ) -> lease_pb2.AckResponse:
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, "the worker answers on its stream")

    def Nack(  # noqa: N802 - gRPC's name
        self, request: lease_pb2.NackRequest, context: grpc.ServicerContext
    ) -> lease_pb2.NackResponse:
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, "the worker answers on its stream")

    def Heartbeat(  # noqa: N802 - gRPC's name
        self, request: lease_pb2.HeartbeatRequest, context: grpc.ServicerContext
    ) -> lease_pb2.HeartbeatResponse:
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, "the worker answers on its stream")

    def _hold(self) -> None:
        self.arrivals.release()
        if not self.answering.wait(PATIENCE):
            raise AssertionError("the call was held for too long")

    def _refuse_or_note(self, context: grpc.ServicerContext) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refusals:
            status = self.refusals.pop(0)
            if not status.code:
                return
            context.set_trailing_metadata(
                (("grpc-status-details-bin", status.SerializeToString()),)
            )
            context.abort(_code(status.code), status.message)


def _code(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)
