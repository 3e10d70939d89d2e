"""One lease that this worker holds, from its arrival to the confirmed answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any

from workerqueue._errors import CancelReason
from workerqueue.v1 import lease_pb2, task_pb2

if TYPE_CHECKING:
    from workerqueue._worker.context import BaseContext

Answer = lease_pb2.AckRequest | lease_pb2.NackRequest


class Lease:
    """The state of one lease. The ledger's lock guards what several threads write."""

    __slots__ = (
        "answer",
        "arrived",
        "beats_confirmed",
        "beats_on",
        "beats_sent",
        "context",
        "ended",
        "execution",
        "quiet",
        "sent_on",
        "side",
        "task",
        "token",
    )

    def __init__(self, task: lease_pb2.LeasedTask, arrived: float) -> None:
        self.task = task
        self.token = task.lease_token
        self.arrived = arrived
        # What the server is (to be) told; kept until it has confirmed it.
        self.answer: Answer | None = None
        # The stream that the answer was last written to; 0: none.
        self.sent_on = 0
        # Answered before the last heartbeat round and still not confirmed: see Ledger.heartbeats.
        self.quiet = False
        # Why the lease is no longer ours.
        self.ended: CancelReason | None = None
        # The asyncio task that runs an async handler.
        self.execution: asyncio.Task[None] | None = None
        self.context: BaseContext | None = None
        # The stream of the last heartbeat, heartbeats sent on it, and results received for them.
        # One result comes per heartbeat, so a checkpoint is stored once as many results came as
        # heartbeats were sent up to it.
        self.beats_on = 0
        self.beats_sent = 0
        self.beats_confirmed = 0
        self.side: SideChannel | None = None


class SideChannel:
    """Progress and checkpoints of one lease; made only for handlers that use them."""

    __slots__ = ("checkpoint", "progress", "unconfirmed", "waiting")

    def __init__(self) -> None:
        self.progress: task_pb2.Progress | None = None
        self.checkpoint: Any | None = None
        # Waiters of the checkpoint that is not sent yet.
        self.waiting: list[Future[None]] = []
        # Waiters of sent checkpoints, each with the number of results that confirms it.
        self.unconfirmed: list[tuple[int, Any, Future[None]]] = []
