"""Traces through tasks, for programs that use OpenTelemetry; without it nothing here does anything.

A task carries its W3C context in the entries ``traceparent`` and ``tracestate`` of its metadata.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Final

from workerqueue.v1 import worker_queue_pb2

TRACEPARENT: Final = "traceparent"


def current() -> Mapping[str, str]:
    """The context of the caller's current span; empty: there is none."""
    # Who has a span has imported the API. So the import costs nobody anything who does not use it.
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


def size_of(context: Mapping[str, str]) -> int:
    """The most bytes that a context adds to a request."""
    return sum(len(name) + len(value) + 8 for name, value in context.items()) + 8 if context else 0


def stamp(requests: Iterable[worker_queue_pb2.EnqueueRequest], context: Mapping[str, str]) -> None:
    """Gives the context to those tasks that carry none."""
    if not context:
        return
    for request in requests:
        if TRACEPARENT not in request.options.metadata:
            request.options.metadata.update(context)
