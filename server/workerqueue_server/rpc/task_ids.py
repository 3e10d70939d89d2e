"""Task ids in requests."""

from __future__ import annotations

from contextlib import suppress

from workerqueue_server.queue.errors import InvalidTask, Violation


def read_task_id(text: str, field: str = "task_id") -> bytes:
    """The id. Raises InvalidTask unless it is a UUID in its canonical form."""
    # The canonical form only, so that one id has one spelling.
    if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":
        with suppress(ValueError):
            task_id = bytes.fromhex(text.replace("-", ""))
            # Fewer if there were more dashes, or spaces.
            if len(task_id) == 16:
                return task_id
    raise InvalidTask([Violation(field, "must be a UUID in its 36-character form")])
