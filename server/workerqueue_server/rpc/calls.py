"""Counts calls by method and status."""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter

from workerqueue_server.telemetry import instruments
from workerqueue_server.telemetry.figures import OTHER


class Call:
    """One call while it is served. Counted once: whoever first says how it ended is right."""

    __slots__ = ("_method", "_started")

    def __init__(self, method: str, *, known: bool) -> None:
        """Callers may name any method: what is not ``known`` has no name of its own."""
        self._method: str | None = method.removeprefix("/") if known else OTHER
        self._started = perf_counter()

    def end(self, code: str, *, is_unary: bool = False) -> None:
        """It ended with the status; ``is_unary`` if its duration says something."""
        method, self._method = self._method, None
        if method is None:
            return
        instruments.CALLS.add(1, method, code)
        if is_unary:
            instruments.CALL_DURATION.record(perf_counter() - self._started, method)


_call: ContextVar[Call | None] = ContextVar("call", default=None)


def begin(method: str, *, known: bool) -> None:
    """A call begins, in this task."""
    _call.set(Call(method, known=known))


def end(code: str, *, is_unary: bool = False) -> None:
    """This task's call ended with the status."""
    call = _call.get()
    if call is not None:
        call.end(code, is_unary=is_unary)
