"""Task ids in requests."""

from __future__ import annotations

import uuid

from workerqueue_server.queue.errors import InvalidTask, Violation


def read_task_id(text: str, field: str = "task_id") -> bytes:
    """The id. Raises InvalidTask unless it is a UUID in its canonical form."""
    try:
        # The canonical form only, so that one id has one spelling.
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != text.lower():
        raise InvalidTask([Violation(field, "must be a UUID in its 36-character form")])
    return parsed.bytes
