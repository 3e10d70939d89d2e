"""The W3C trace context that a task carries in its metadata.

It travels with the task to workers in every language, and through SQL enqueues too; nothing but
these two entries of the map is needed to continue a trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

# Version, trace id, parent id, flags; later versions may add more.
_FORM = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-|$)"
)


def carrier(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The entries that make the context; empty where there is none, or none that is well formed."""
    if not metadata or _FORM.match(metadata.get(TRACEPARENT, "")) is None:
        return {}
    return {name: metadata[name] for name in (TRACEPARENT, TRACESTATE) if name in metadata}


def trace_id(metadata: Mapping[str, str] | None) -> str | None:
    """The trace's id in hexadecimal."""
    match = _FORM.match(metadata.get(TRACEPARENT, "")) if metadata else None
    return match[1] if match else None
