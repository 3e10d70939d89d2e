"""Exit codes, the same for every command.

A supervisor may start a server again after 3, but not after 2: the same command line and settings
would fail the same way.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command ended with."""

    DONE = 0
    """What was asked for is done."""
    REFUSED = 1
    """The server refused it, or part of it failed: not found, wrong state, invalid payload."""
    USAGE = 2
    """The command line or a setting is wrong; nothing was tried."""
    UNREACHABLE = 3
    """The server cannot be reached, cannot take calls now, or cannot start."""
    NOT_ALLOWED = 4
    """The server does not accept the token or certificate, or it does not allow this."""
    TASK_FAILED = 5
    """The task that was waited for ended, but did not succeed."""
    STILL_WAITING = 6
    """The task that was waited for had not ended in time."""
    INTERRUPTED = 130
    """Ctrl-C."""
