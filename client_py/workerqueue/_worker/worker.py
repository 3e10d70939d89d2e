"""The public worker."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any as AnyType
from typing import Final, TypeVar, get_args

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from workerqueue import _channel, _security
from workerqueue._convert import to_seconds
from workerqueue._errors import CancelReason, WorkerQueueError
from workerqueue._kinds import kind_of
from workerqueue._worker.connection import Connection
from workerqueue._worker.context import SyncTaskContext, TaskContext
from workerqueue._worker.ledger import Ledger
from workerqueue._worker.registry import Registry
from workerqueue._worker.runner import Runner
from workerqueue._worker.stream import Subscription
from workerqueue._worker.tracing import Tracing, handler_spans

logger = logging.getLogger("workerqueue.worker")

M = TypeVar("M", bound=Message)
Returned = Message | None
AsyncHandler = Callable[[M, TaskContext], Awaitable[Returned]] | Callable[[M], Awaitable[Returned]]
SyncHandler = Callable[[M, SyncTaskContext], Returned] | Callable[[M], Returned]
H = TypeVar("H", bound=Callable[..., AnyType])

MAX_WINDOW: Final = 100_000
# What a handler gets to react to its cancellation before the worker answers in its place.
CANCEL_GRACE_SECONDS: Final = 5.0
# How long a stopping worker waits for the server to confirm its last answers.
CONFIRM_SECONDS: Final = 15.0


class Worker:
    """Leases tasks and runs their handlers.

    A handler is ``async def`` (runs on the event loop) or ``def`` (runs in a thread), takes the
    payload and, if it likes, a context, and returns None or a protobuf message, which becomes the
    task's result. An exception fails the attempt with its type, message and trace; ``Discard``,
    ``RetryLater`` and ``Snooze`` end it in other ways.

    Heartbeats, acks and the connection live in threads of their own: a handler that blocks the
    event loop delays the start of other handlers and nothing else. Only code that holds Python's
    global lock without a break (some C extensions) stops them.

    A worker runs once; make a new one to run again.

    Args:
        target: ``host:port`` of the server or any gRPC target; or a channel, which stays open and
            stays the caller's. Default: the environment's ``WORKERQUEUE_ADDRESS``, else
            ``127.0.0.1:50551``. With a channel, reconnecting after a server's drain may reach the
            same server again.
        queues: The queues to take from. Default: any.
        kinds: The kinds to take. Default: those that have a handler, so that a task never meets a
            worker that cannot run it.
        concurrency: How many handlers run at once, 1 to 100,000; also how many threads there are
            for sync ones. Default: 5.
        prefetch: How many tasks to hold beyond those that run, so that short ones need not wait
            for the network. They are leased meanwhile, and other workers cannot take them.
            Default: 0.
        worker_id: The worker's name for people and for per-worker limits; unique per process.
            Default: host name, process id and a random part.
        lease_duration: Replaces the kinds' lease duration, as a timedelta or in seconds; 1 s to
            1 hour. Default: the kind's.
        shutdown_timeout: Seconds that running handlers get to finish when the worker stops, before
            they are cancelled. Default: 30.
        tls: ``True``, or a ``Tls`` with files and names; ``False``: plain text. Default: what the
            environment says (``WORKERQUEUE_TLS``, ``_CACERT``, ``_CERT``, ``_KEY``,
            ``_SERVERNAME``, ``_PLAINTEXT``), else plain text.
        credentials: gRPC's own, instead of ``tls``.
        token: Sent with each stream as a bearer token: the text, a ``Path`` to a file with it, or a
            function that gives it; file and function are asked again, so the token may change.
            Default: the environment's ``WORKERQUEUE_TOKEN``, or the file that
            ``WORKERQUEUE_TOKEN_FILE`` names, else none.
        tracing: Where the program has set up OpenTelemetry before the worker runs, each call of a
            handler has a consumer's span: ``"continue"`` the producer's trace, or ``"link"`` to it
            from a trace of its own. ``"off"``: no spans. Default: ``"continue"``.

    Raises:
        ValueError: An argument is out of range, arguments contradict each other, or a token would
            travel in plain text beyond this machine and nobody said ``tls=False``.
    """

    def __init__(
        self,
        target: str | grpc.Channel | None = None,
        *,
        queues: Iterable[str] = (),
        kinds: Iterable[str] = (),
        concurrency: int = 5,
        prefetch: int = 0,
        worker_id: str | None = None,
        lease_duration: timedelta | float | None = None,
        shutdown_timeout: float = 30.0,
        tls: _security.Tls | bool | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: _security.Token | None = None,
        tracing: Tracing = "continue",
    ) -> None:
        if tracing not in get_args(Tracing):
            raise ValueError(f"tracing is one of {', '.join(get_args(Tracing))}, not {tracing!r}")
        if concurrency < 1 or prefetch < 0 or concurrency + prefetch > MAX_WINDOW:
            raise ValueError(
                f"concurrency is 1 or more, prefetch 0 or more, together at most {MAX_WINDOW}"
            )
        self.worker_id = worker_id or _default_worker_id()
        self._target = target
        self._queues = _names(queues, "queues")
        self._kinds = _names(kinds, "kinds")
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._lease_duration = (
            None if lease_duration is None else to_seconds(lease_duration, "lease_duration")
        )
        self._shutdown_timeout = to_seconds(shutdown_timeout, "shutdown_timeout")
        self._security = _security.resolve(
            None if isinstance(target, grpc.Channel) else _channel.resolve_address(target),
            tls=tls,
            credentials=credentials,
            token=token,
        )
        self._tracing = tracing
        self._registry = Registry()
        self._ledger = Ledger()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._emptied = asyncio.Event()
        self._failure: WorkerQueueError | None = None
        self._stopped_early = False

    def handler(self, message_class: type[Message], *, kind: str | None = None) -> Callable[[H], H]:
        """Decorator that registers the handler of a kind.

        Args:
            message_class: The kind's payload message.
            kind: The kind's name. Default: as the message's policy says.

        Raises:
            TypeError: The message is no task kind, or the function takes something else.
            ValueError: The kind has a handler already.
        """

        def register(handler: H) -> H:
            self._registry.add(kind or kind_of(message_class), message_class, handler)
            return handler

        return register

    def register(
        self,
        message_class: type[M],
        handler: AsyncHandler[M] | SyncHandler[M],
        *,
        kind: str | None = None,
    ) -> None:
        """Registers the handler of a kind; arguments and errors as for ``handler``."""
        self._registry.add(kind or kind_of(message_class), message_class, handler)

    def register_kind(self, kind: str, handler: AsyncHandler[Any] | SyncHandler[Any]) -> None:
        """Registers a handler that gets the payload as it came, a ``google.protobuf.Any``.

        Raises:
            TypeError: The function takes something else.
            ValueError: The kind has a handler already.
        """
        self._registry.add(kind, None, handler)

    def run(self) -> None:
        """Works until SIGTERM or SIGINT, then drains; owns the event loop and the signals.

        The first signal lets running handlers finish for ``shutdown_timeout``; a second one cancels
        them at once.

        Raises:
            As ``run_async``.
        """
        asyncio.run(self._run_with_signals())

    async def run_async(self, stop: asyncio.Event | None = None) -> None:
        """Works on the running event loop until told to stop, then drains.

        Stopping: tasks that have not started are given back uncharged; running handlers may finish
        for ``shutdown_timeout``; then they are cancelled, and their attempts fail with the error
        type ``WorkerShutdown`` and are tried again at once. It returns when the server has
        confirmed every answer, or cannot be reached for 15 s.

        Cancelling this coroutine stops it too, without waiting for handlers to finish.

        Args:
            stop: Stops the worker when it is set. Default: only ``stop()`` does.

        Raises:
            ValueError: There is no handler, or ``kinds`` names one that has none.
            RuntimeError: The worker has run before.
            WorkerQueueError: The server refuses this worker (credentials, subscription, protocol).
                Everything else is retried for as long as it takes.
        """
        if self._loop is not None:
            raise RuntimeError("a worker runs once; make a new one")
        self._loop = asyncio.get_running_loop()
        if self._stopped_early:
            self._stop.set()
        subscription = self._subscription()
        runner = Runner(
            self._registry,
            self._ledger,
            self._concurrency,
            self._on_stuck,
            handler_spans(self._tracing, self.worker_id),
        )
        connection = self._connection = self._connect(subscription, runner)
        connection.start()
        try:
            await self._wait_for_stop(stop)
            await self._shut_down(runner, connection)
        except asyncio.CancelledError:
            self._hurry.set()
            await self._shut_down(runner, connection)
            raise
        finally:
            connection.stop()
            await asyncio.to_thread(connection.join, 5.0)
            self._ledger.end_all(CancelReason.LEASE_LOST)
            runner.close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stops the worker as a signal would; from any thread, more than once if need be."""
        if self._loop is None:
            self._stopped_early = True
        else:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _run_with_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            if self._stop.is_set():
                logger.warning("%s again: cancelling handlers", signal.Signals(number).name)
                self._hurry.set()
            else:
                logger.info("%s: draining", signal.Signals(number).name)
                self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, on_signal, number)
            except NotImplementedError:
                # Windows has no signal handlers on the loop.
                signal.signal(number, lambda got, _frame: loop.call_soon_threadsafe(on_signal, got))
        await self.run_async()

    async def _wait_for_stop(self, stop: asyncio.Event | None) -> None:
        waits = [asyncio.ensure_future(self._stop.wait())]
        if stop is not None:
            waits.append(asyncio.ensure_future(stop.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _shut_down(self, runner: Runner, connection: Connection) -> None:
        self._stop.set()
        connection.drain()
        runner.drain()
        if self._failure is None:
            hurry = asyncio.ensure_future(self._hurry.wait())
            idle = asyncio.ensure_future(runner.wait_idle())
            await asyncio.wait(
                (hurry, idle),
                timeout=self._shutdown_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            hurry.cancel()
            idle.cancel()
        runner.cancel_running()
        try:
            await asyncio.wait_for(runner.wait_idle(), CANCEL_GRACE_SECONDS)
        except TimeoutError:
            runner.abandon_running()
        if self._failure is None:
            await self._wait_for_confirmations()

    async def _wait_for_confirmations(self) -> None:
        self._ledger.wake()
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                while len(self._ledger):
                    self._emptied.clear()
                    if len(self._ledger):
                        await self._emptied.wait()
        except TimeoutError:
            logger.error(
                "%d answers were not confirmed; their tasks will be tried again",
                len(self._ledger),
            )

    def _subscription(self) -> Subscription:
        registered = self._registry.kinds
        if not registered:
            raise ValueError("the worker has no handler; register one first")
        if unknown := [kind for kind in self._kinds if kind not in registered]:
            raise ValueError(f"no handler is registered for: {', '.join(unknown)}")
        kinds = self._kinds or registered
        return Subscription(self.worker_id, self._queues, kinds, self._lease_duration)

    def _connect(self, subscription: Subscription, runner: Runner) -> Connection:
        loop = asyncio.get_running_loop()

        def emptied() -> None:
            # Only a worker that stops waits for this; a busy one is empty thousands of times.
            if self._stop.is_set():
                loop.call_soon_threadsafe(self._emptied.set)

        def failed(error: WorkerQueueError) -> None:
            loop.call_soon_threadsafe(self._on_failure, error)

        self._ledger.emptied = emptied
        return Connection(
            subscription,
            self._ledger,
            window=self._concurrency + self._prefetch,
            channels=self._open_channel,
            owns_channels=not isinstance(self._target, grpc.Channel),
            metadata=lambda: _channel.call_metadata(self._security.token),
            token_rotates=self._security.rotates,
            deliver=runner.deliver,
            end=runner.end,
            failed=failed,
        )

    def _open_channel(self) -> grpc.Channel:
        if isinstance(self._target, grpc.Channel):
            return self._target
        address = _channel.resolve_address(self._target)
        return _channel.open_channel(address, self._security, own_connection=True)

    def _on_failure(self, error: WorkerQueueError) -> None:
        logger.error("the server refuses this worker: %s", error)
        self._failure = error
        self._hurry.set()
        self._stop.set()

    def _on_stuck(self, count: int) -> None:
        self._connection.set_stuck(count)


def _names(values: Iterable[str], what: str) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"{what} must be several names, not one string")
    return tuple(values)


def _default_worker_id() -> str:
    return f"{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(4)}"
