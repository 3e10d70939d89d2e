"""The limits on what a caller may ask for, in one place."""

import re

MILLISECOND = 1
SECOND = 1000
DAY = 24 * 60 * 60 * SECOND

PRIORITY = (-1000, 1000)
MAX_ATTEMPTS = (1, 1000)
TIMEOUT_MS = (100, 7 * DAY)
LEASE_DURATION_MS = (SECOND, 3600 * SECOND)
CONCURRENCY_LIMIT = (1, 1000)
BACKOFF_MULTIPLIER = (1.0, 100.0)
INITIAL_BACKOFF_MS = (MILLISECOND, DAY)
MAX_BACKOFF_MS = (MILLISECOND, 30 * DAY)
JITTER = (0.0, 1.0)
RETENTION_MS = (0, 30 * DAY)
DELAY_MS = (0, 366 * DAY)
UNIQUE_PERIOD_MS = (SECOND, 366 * DAY)
RETRY_AFTER_MS = (0, 30 * DAY)
MAX_IN_FLIGHT = (0, 100_000)

NAME_BYTES = 128
KEY_BYTES = 512
TAGS = 16
METADATA_ENTRIES = 64
METADATA_BYTES = 16 * 1024
HELD_TOKENS = 100_000

# A leased task (payload, checkpoint, metadata, names) must fit the 4 MiB that gRPC clients accept
# by default: 2 MiB + 1 MiB + 16 KiB leaves room for the rest.
MESSAGE_BYTES = 4 * 1024 * 1024
PAYLOAD_BYTES = 2 * 1024 * 1024
CHECKPOINT_BYTES = 1024 * 1024
RESULT_BYTES = 1024 * 1024
BATCH_TASKS = 10_000

ERROR_TYPE_BYTES = 256
ERROR_MESSAGE_BYTES = 8 * 1024
ERROR_TRACE_BYTES = 32 * 1024
PROGRESS_MESSAGE_BYTES = 1024

# What waits for one kind of write, and what one write takes. A batch of the largest messages must
# still be written in seconds, and what waits must be small beside a server's memory.
WAITING_BYTES = 64 * 1024 * 1024
WRITTEN_BYTES = 16 * 1024 * 1024
# Measured: what grpc.aio and asyncio keep of a call that waits for its answer, whatever it asked;
# and a task of a batch, beside the bytes that it was sent as.
CALL_BYTES = 18 * 1024
TASK_BYTES = 300
# Answers that wait as calls of their own: with CALL_BYTES each, 70 MiB.
ANSWER_CALLS = 4_000
# A healthy database stores a batch in milliseconds. Beyond this the callers' deadlines pass anyway.
ENQUEUE_WAIT_SECONDS = 5.0

# Each lane costs every server about a kilobyte and a probe of the index a second.
LANES = 10_000

# An error travels in HTTP/2 trailers, of which clients refuse more than 16 KiB (and from 8 KiB on
# by chance), and then the caller learns nothing at all. The message travels twice: percent-encoded,
# which makes up to three bytes of one, and beside the details in base64, which makes four of three:
# 3 x 900 + 4/3 x (900 + 2 x 256 + 1,900 + names and tags) stays below 8 KiB.
STATUS_MESSAGE_BYTES = 900
VIOLATIONS_BYTES = 1_500
VIOLATION_FIELD_BYTES = 128
VIOLATION_TEXT_BYTES = 256
ERROR_METADATA_BYTES = 256
# More than a caller reads, and all that is kept while a request is checked.
VIOLATIONS = 100

# A stream costs some 100 KiB and two tasks; a fleet has a few per machine.
LEASE_STREAMS = 10_000
LEASE_STREAMS_PER_PRINCIPAL = 1_000
# Two of the largest windows, or a window of 200 on each of a thousand streams. A held lease was
# measured to cost the server 162 bytes: 32 MB.
IN_FLIGHT_PER_PRINCIPAL = 200_000

# Why, for the limits that callers meet; docs/limits.md has them as a table.
REASONS = {
    "MESSAGE_BYTES": "A request, a batch or a frame: what gRPC clients accept by default",
    "BATCH_TASKS": "Tasks of one EnqueueBatch: one transaction of about a second",
    "PAYLOAD_BYTES": "A leased task must fit one message beside its checkpoint",
    "CHECKPOINT_BYTES": "Travels with the task to the next attempt",
    "RESULT_BYTES": "Is kept in history and returned to whoever waits",
    "NAME_BYTES": "Names of queues, kinds, workers, tags, and keys of metadata",
    "KEY_BYTES": "Job keys and concurrency keys, which are indexed; values of filters",
    "TAGS": "Are searched by an index",
    "METADATA_ENTRIES": "Is meant for trace contexts and the like",
    "METADATA_BYTES": "All keys and values of a task together",
    "ERROR_TYPE_BYTES": "Of a failed attempt; cut",
    "ERROR_MESSAGE_BYTES": "Of a failed attempt; cut",
    "ERROR_TRACE_BYTES": "Of a failed attempt; cut. Up to a thousand attempts are kept",
    "PROGRESS_MESSAGE_BYTES": "Cut",
    "HELD_TOKENS": "Of a worker that reconnects: as many as the largest window",
    "MAX_IN_FLIGHT": "The window of one stream",
    "LEASE_STREAMS": "Open at once on one server process",
    "LEASE_STREAMS_PER_PRINCIPAL": "The same for one token; callers without tokens share the above",
    "IN_FLIGHT_PER_PRINCIPAL": "Held by all streams of one token on one server process",
    "WAITING_BYTES": "Memory of all that waits for one kind of write",
    "WRITTEN_BYTES": "The same, of one write",
    "CALL_BYTES": "A waiting call counts so much, and its message twice: as it came, and as read",
    "TASK_BYTES": "Each task of a waiting batch counts so much beside it",
    "ANSWER_CALLS": "Acks, nacks and heartbeats that wait as calls, not in a stream's frame",
    "ENQUEUE_WAIT_SECONDS": "How long the oldest may have waited when another is taken in",
    "LANES": "Combinations of queue, kind and priority: each is looked at once a second",
    "PRIORITY": "Larger runs first",
    "MAX_ATTEMPTS": "Each is kept in the task's history",
    "CONCURRENCY_LIMIT": "Tasks of one concurrency key at a time",
}

_QUEUE_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def is_queue_name(name: str) -> bool:
    """Whether a queue may have this name: letters, digits and ``._:/-``, up to 128."""
    return _QUEUE_NAME.fullmatch(name) is not None


def shorten(text: str, max_bytes: int) -> str:
    """The text, cut to so many bytes of UTF-8; without NUL, which Postgres cannot store."""
    text = text.replace("\x00", "\ufffd")
    if len(text) * 4 <= max_bytes:
        return text
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")
