"""Sends out what the server tells about itself, as the settings say."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

from workerqueue_server.app.prometheus import Endpoint
from workerqueue_server.app.settings import Settings
from workerqueue_server.queue.engine import Engine

_log = logging.getLogger(__name__)


def start_telemetry(settings: Settings, engine: Engine, stack: AsyncExitStack) -> None:
    """To be called before the engine's start; what it starts ends with the stack.

    Raises OSError if the endpoint's port cannot be had.
    """
    if settings.prometheus_address is None:
        return
    engine.observe()
    endpoint = Endpoint(settings.prometheus_address)
    stack.callback(endpoint.close)
    host = settings.prometheus_address.rpartition(":")[0]
    _log.info("metrics on http://%s:%d/metrics", host, endpoint.port)
