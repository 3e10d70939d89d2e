"""Runs handlers: async ones as tasks of the worker's event loop, sync ones in threads.

Everything here happens on that loop, except the bodies of sync handlers. It may be blocked by a
handler for as long as it likes; only the start of the next handlers waits for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any as AnyType
from typing import Final

from google.protobuf.message import Message

from workerqueue._errors import CancelReason, HandlerSignal, Snooze
from workerqueue._worker import answers
from workerqueue._worker.context import BaseContext, SyncTaskContext, TaskContext
from workerqueue._worker.lease import Answer, Lease
from workerqueue._worker.ledger import Ledger
from workerqueue._worker.registry import PayloadError, Registration, Registry
from workerqueue._worker.threads import HandlerThreads
from workerqueue._worker.tracing import HandlerSpans

logger = logging.getLogger("workerqueue.worker")

# How long a task waits that was sent to a worker without a handler for it.
UNKNOWN_KIND_SNOOZE_SECONDS: Final = 30.0
SHUTDOWN_ERROR: Final = "WorkerShutdown"
# May be entered as often as one likes, by several threads at once.
_NO_SPAN: Final = nullcontext()


class Runner:
    """At most ``concurrency`` handlers at once; what comes beyond that waits here."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        concurrency: int,
        stuck_changed: Callable[[int], None],
        spans: HandlerSpans | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._ledger = ledger
        self._concurrency = concurrency
        self._stuck_changed = stuck_changed
        self._spans = spans
        self._threads = HandlerThreads(concurrency)
        self._ready: deque[Lease] = deque()
        self._running: set[Lease] = set()
        self._stuck: set[Lease] = set()
        self._draining = False
        self._filling = False
        self._wake_pending = False
        self._idle = asyncio.Event()
        self._idle.set()

    def deliver(self, leases: list[Lease]) -> None:
        """New leases; from any thread."""
        self._loop.call_soon_threadsafe(self._accept, leases)

    def end(self, leases: list[Lease]) -> None:
        """Leases that are over; from any thread."""
        self._loop.call_soon_threadsafe(self._end, leases)

    def drain(self) -> None:
        """Gives back what has not started, now and whenever more arrives."""
        self._draining = True
        while self._ready:
            self._answer_release(self._ready.popleft())

    async def wait_idle(self) -> None:
        """Returns when no handler runs."""
        await self._idle.wait()

    def cancel_running(self) -> None:
        """Cancels every handler because the worker stops."""
        for lease in list(self._running):
            self._cancel(lease, CancelReason.SHUTDOWN)

    def abandon_running(self) -> None:
        """Answers for the handlers that did not end when they were cancelled."""
        for lease in self._running:
            logger.warning("task %s: its handler does not stop", lease.task.task_id)
            self._answer(lease, _shutdown_failure(lease))

    def close(self) -> None:
        """Lets the handlers' threads go."""
        self._threads.close()

    def _accept(self, leases: list[Lease]) -> None:
        if self._draining:
            for lease in leases:
                self._answer_release(lease)
            return
        self._ready.extend(leases)
        self._fill()

    def _fill(self) -> None:
        # A task that starts eagerly can end before its start returns, and come back here.
        if self._filling:
            return
        self._filling = True
        ready, running = self._ready, self._running
        try:
            while ready and len(running) < self._concurrency:
                lease = ready.popleft()
                if lease.ended is None:
                    self._start(lease)
        finally:
            self._filling = False

    def _start(self, lease: Lease) -> None:
        registration = self._registry.find(lease.task.kind)
        if registration is None:
            logger.error("task %s: no handler for kind %s", lease.task.task_id, lease.task.kind)
            self._answer(lease, answers.snooze(lease.token, UNKNOWN_KIND_SNOOZE_SECONDS))
            return
        try:
            payload = registration.decode(lease.task.payload)
        except PayloadError as error:
            self._answer(lease, answers.failure(lease.token, "PayloadError", str(error)))
            return
        if not self._running:
            self._idle.clear()
        self._running.add(lease)
        if registration.is_async:
            context = TaskContext(lease, self._ledger)
            lease.context = context
            lease.execution = _start_task(
                self._loop, self._run_async(lease, registration, payload, context)
            )
        else:
            sync_context = SyncTaskContext(lease, self._ledger)
            lease.context = sync_context
            outer = contextvars.copy_context()
            self._threads.submit(
                lambda: outer.run(self._run_sync, lease, registration, payload, sync_context)
            )

    async def _run_async(
        self, lease: Lease, registration: Registration, payload: Message, context: TaskContext
    ) -> None:
        try:
            with self._span(lease):
                result = await registration.call(payload, context)
            answer = answers.success(lease.token, result)
        except BaseException as error:
            answer = self._answer_for(lease, context, error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            # Also on the way out of the interpreter: the lease must not look as if it still ran.
            self._finished(lease)
        self._answer(lease, answer)

    def _run_sync(
        self, lease: Lease, registration: Registration, payload: Message, context: SyncTaskContext
    ) -> None:
        try:
            with self._span(lease):
                result = registration.call(payload, context)
            answer = answers.success(lease.token, result)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the attempt
            answer = self._answer_for(lease, context, error)
        # Answered from this thread: the loop may be blocked, and the server need not wait for it.
        if self._ledger.answer(lease, answer):
            self._ledger.wake()
        try:
            self._loop.call_soon_threadsafe(self._finished, lease)
        except RuntimeError:
            # The loop is closed: the worker has stopped and answered for this handler itself.
            logger.debug("task %s: its handler ended after the worker", lease.task.task_id)

    def _span(self, lease: Lease) -> AbstractContextManager[None]:
        return _NO_SPAN if self._spans is None else self._spans.around(lease)

    def _answer_for(self, lease: Lease, context: BaseContext, error: BaseException) -> Answer:
        if context.cancel_reason is CancelReason.SHUTDOWN and not isinstance(error, HandlerSignal):
            return _shutdown_failure(lease)
        if lease.ended is None and not isinstance(error, Snooze):
            logger.info("task %s: attempt failed: %r", lease.task.task_id, error)
        return answers.raised(lease.token, error)

    def _finished(self, lease: Lease) -> None:
        self._running.discard(lease)
        lease.execution = None
        if lease in self._stuck:
            self._stuck.discard(lease)
            self._stuck_changed(len(self._stuck))
        if not self._running:
            self._idle.set()
        if self._ready:
            self._fill()

    def _end(self, leases: list[Lease]) -> None:
        for lease in leases:
            if lease in self._running:
                self._stuck.add(lease)
                self._cancel(lease, lease.ended or CancelReason.LEASE_LOST)
        self._stuck_changed(len(self._stuck))

    def _cancel(self, lease: Lease, reason: CancelReason) -> None:
        if lease.context is not None and not lease.context.is_cancelled:
            lease.context.mark_cancelled(reason)
            if lease.execution is not None:
                lease.execution.cancel(reason.value)

    def _answer_release(self, lease: Lease) -> None:
        self._answer(lease, answers.release(lease.token))

    def _answer(self, lease: Lease, answer: Answer) -> None:
        # Woken once per turn of the loop: everything that ends in this turn goes into one frame.
        if self._ledger.answer(lease, answer) and not self._wake_pending:
            self._wake_pending = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._wake_pending = False
        self._ledger.wake()


def _shutdown_failure(lease: Lease) -> Answer:
    return answers.failure(
        lease.token,
        SHUTDOWN_ERROR,
        "the worker was stopped before the task was done",
        retry_after=0,
    )


def _start_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[AnyType, AnyType, None]
) -> asyncio.Task[None]:
    if sys.version_info >= (3, 12):
        # A handler that never waits is done before this returns and costs no turn of the loop.
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)
