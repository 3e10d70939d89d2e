"""Spans of the server, by the OpenTelemetry API. Imported only while traces are exported.

They follow the semantic conventions for messaging: `enqueue` is a producer's span, `attempt` tells
from a lease's grant to its end. The worker's own span, of kind consumer, is the worker's to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()
# Attempts that end in these ways are errors.
_ERRORS = frozenset({"failed", "timed_out", "lost"})

Attribute = str | int


class Lease(NamedTuple):
    """What an attempt's span tells."""

    parent: Mapping[str, str]
    started_ns: int
    attributes: Mapping[str, Attribute]


class Send(NamedTuple):
    """A producer's span under way, and its context to store with the tasks."""

    span: Span
    context: Mapping[str, str]

    def end(self, error_type: str | None) -> None:
        """Ends the span, as an error if there is a type."""
        if error_type is not None:
            self.span.set_attribute("error.type", error_type)
            self.span.set_status(StatusCode.ERROR)
        self.span.end()


class Spans:
    """Makes spans with one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def enqueue(
        self, parent: Mapping[str, str], queue: str | None, attributes: Mapping[str, Attribute]
    ) -> Send:
        """Begins a producer's span."""
        span = self._tracer.start_span(
            _name("enqueue", queue),
            _W3C.extract(parent, Context()),
            SpanKind.PRODUCER,
            {
                **_messaging("enqueue", queue),
                "messaging.operation.type": "send",
                **attributes,
            },
        )
        context: dict[str, str] = {}
        _W3C.inject(context, set_span_in_context(span, Context()))
        return Send(span, context)

    def attempt(self, lease: Lease, outcome: str, ended_ns: int) -> None:
        """The span of an attempt that is over."""
        queue = str(lease.attributes["messaging.destination.name"])
        span = self._tracer.start_span(
            _name("attempt", queue),
            _W3C.extract(lease.parent, Context()),
            SpanKind.INTERNAL,
            {
                **_messaging("attempt", queue),
                **lease.attributes,
                "workerqueue.outcome": outcome,
            },
            start_time=lease.started_ns,
        )
        if outcome in _ERRORS:
            span.set_attribute("error.type", outcome)
            span.set_status(StatusCode.ERROR)
        span.end(ended_ns)


def _name(operation: str, queue: str | None) -> str:
    return operation if queue is None else f"{operation} {queue}"


def _messaging(operation: str, queue: str | None) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {
        "messaging.system": "workerqueue",
        "messaging.operation.name": operation,
    }
    if queue is not None:
        found["messaging.destination.name"] = queue
    return found
