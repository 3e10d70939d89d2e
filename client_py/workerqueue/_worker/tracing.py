"""Spans of handlers, for workers that use OpenTelemetry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from workerqueue._errors import HandlerSignal
from workerqueue._worker.lease import Lease

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Tracing = Literal["continue", "link", "off"]


def handler_spans(tracing: Tracing, worker_id: str) -> HandlerSpans | None:
    """What makes the spans; None if the program exports none."""
    if tracing == "off":
        return None
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    # Before a program has set a provider up, this is what stands in for it.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return HandlerSpans(trace.get_tracer("workerqueue"), worker_id, links=tracing == "link")


class HandlerSpans:
    """A consumer's span around each call of a handler."""

    def __init__(self, tracer: Tracer, worker_id: str, *, links: bool) -> None:
        """``links``: a trace of its own for each attempt, linked to the producer's."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._worker_id = worker_id
        self._links = links
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def around(self, lease: Lease) -> Iterator[None]:
        """The span of one attempt; an exception makes it an error, a signal of the handler not."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        task = lease.task
        parent = self._propagator.extract(dict(task.metadata), Context())
        link = trace.get_current_span(parent).get_span_context() if self._links else None
        with self._tracer.start_as_current_span(
            f"process {task.queue}",
            context=Context() if self._links else parent,
            kind=trace.SpanKind.CONSUMER,
            links=[trace.Link(link)] if link is not None and link.is_valid else (),
            attributes={
                "messaging.system": "workerqueue",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": task.queue,
                "messaging.message.id": task.task_id,
                "messaging.client.id": self._worker_id,
                "workerqueue.task.kind": task.kind,
                "workerqueue.attempt": task.attempt,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except HandlerSignal as signal:
                span.set_attribute("workerqueue.signal", type(signal).__name__)
                raise
            except asyncio.CancelledError:
                span.set_attribute("workerqueue.signal", "cancelled")
                raise
            except BaseException as error:
                span.record_exception(error)
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(trace.StatusCode.ERROR)
                raise
