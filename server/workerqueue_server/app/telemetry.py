"""Sends out what the server tells about itself, as the settings say."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from workerqueue_server.app.prometheus import Endpoint
from workerqueue_server.app.settings import Settings
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.tracing import Tracing

_log = logging.getLogger(__name__)


def start_telemetry(settings: Settings, engine: Engine, stack: AsyncExitStack) -> None:
    """To be called before the engine's start; what it starts ends with the stack.

    Raises OSError if the endpoint's port cannot be had.
    """
    if settings.prometheus_address is not None or settings.otlp_metrics:
        engine.observe()
    if settings.prometheus_address is not None:
        endpoint = Endpoint(settings.prometheus_address)
        stack.callback(endpoint.close)
        host = settings.prometheus_address.rpartition(":")[0]
        _log.info("metrics on http://%s:%d/metrics", host, endpoint.port)
    if settings.otlp_traces or settings.otlp_metrics:
        _start_otlp(settings, engine, stack)


def _start_otlp(settings: Settings, engine: Engine, stack: AsyncExitStack) -> None:
    # Here, because it needs the extra, and takes its time to import.
    from workerqueue_server.app import otlp

    about = otlp.resource(engine.server_id)
    # In threads: what sends the rest waits for the collector, and the loop has streams to end.
    if settings.otlp_metrics:
        stack.push_async_callback(asyncio.to_thread, otlp.metrics(about))
    if settings.otlp_traces:
        spans, shutdown = otlp.spans(about)
        engine.journal.tracing = Tracing(spans)
        stack.push_async_callback(asyncio.to_thread, shutdown)
    sent = [name for name in ("traces", "metrics") if getattr(settings, f"otlp_{name}")]
    _log.info("%s go out over OTLP", " and ".join(sent))
