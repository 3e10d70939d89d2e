"""Loading many tasks: an iterable is cut into batches, a few of which are under way at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from workerqueue import _tracing
from workerqueue._enqueue import EnqueueItem, EnqueueOptions, build_request, read_batch
from workerqueue._errors import OverloadedError, UnavailableError, WorkerQueueError
from workerqueue._outcomes import EnqueueOutcome
from workerqueue.v1 import worker_queue_pb2

DEFAULT_CHUNK: Final = 1_000
MAX_CHUNK: Final = 10_000
# Below the 4 MiB of a message, so that a chunk and its framing always fit.
CHUNK_BYTES: Final = 3_500_000
DEFAULT_IN_FLIGHT: Final = 4
# How often a chunk is sent again while the server asks to try later.
MAX_TRIES: Final = 30
_DEFAULT_PAUSE: Final = 0.5


@dataclass(slots=True)
class LoadProgress:
    """How far a load is.

    Attributes:
        created: New tasks.
        existed: Tasks whose id was known.
        replaced: Tasks that took the place of a waiting one with their job key.
        kept: Tasks that were dropped for one with their job key, or for the same task.
        refused: Items that were refused.
    """

    created: int = 0
    existed: int = 0
    replaced: int = 0
    kept: int = 0
    refused: int = 0

    @property
    def done(self) -> int:
        """All items that were answered for."""
        return self.created + self.existed + self.replaced + self.kept + self.refused


OnProgress = Callable[[LoadProgress], None]
# Gets the item's number, from 0, and why it was refused.
OnRefused = Callable[[int, WorkerQueueError], None]
Item = Message | EnqueueItem

_COUNTERS: Final = {
    EnqueueOutcome.CREATED: "created",
    EnqueueOutcome.ALREADY_EXISTED: "existed",
    EnqueueOutcome.REPLACED: "replaced",
    EnqueueOutcome.KEPT: "kept",
    EnqueueOutcome.UNKNOWN: "created",
}


@dataclass(slots=True)
class Chunk:
    """A batch and the number of its first item."""

    first: int
    request: worker_queue_pb2.EnqueueBatchRequest
    tries: int = 0


def check_options(chunk_size: int, in_flight: int) -> None:
    """Raises ValueError for what cannot be meant."""
    if not 1 <= chunk_size <= MAX_CHUNK:
        raise ValueError(f"chunk_size must be 1 to {MAX_CHUNK}, not {chunk_size}")
    if in_flight < 1:
        raise ValueError(f"in_flight must be at least 1, not {in_flight}")


class Chunker:
    """Gathers items into chunks."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._trace = _tracing.current()
        self._trace_size = _tracing.size_of(self._trace)
        self._next = 0
        self._requests: list[worker_queue_pb2.EnqueueRequest] = []
        self._bytes = 0

    def add(self, item: Item) -> Chunk | None:
        """Takes an item; the chunk that is full by it, without it if it does not fit."""
        request = (
            item.request if isinstance(item, EnqueueItem) else build_request(item, EnqueueOptions())
        )
        # A few bytes more than the size for the field's tag and length.
        size = request.ByteSize() + 8 + self._trace_size
        full = None
        if self._requests and (
            len(self._requests) >= self._size or self._bytes + size > CHUNK_BYTES
        ):
            full = self.rest()
        self._requests.append(request)
        self._bytes += size
        return full

    def rest(self) -> Chunk | None:
        """The chunk of what was taken since the last one."""
        if not self._requests:
            return None
        chunk = Chunk(self._next, worker_queue_pb2.EnqueueBatchRequest(tasks=self._requests))
        _tracing.stamp(chunk.request.tasks, self._trace)
        self._next += len(self._requests)
        self._requests = []
        self._bytes = 0
        return chunk


def chunks(items: Iterable[Item], size: int) -> Iterator[Chunk]:
    """The items in chunks."""
    chunker = Chunker(size)
    for item in items:
        chunk = chunker.add(item)
        if chunk is not None:
            yield chunk
    last = chunker.rest()
    if last is not None:
        yield last


class Tally:
    """Counts answers and tells the caller."""

    def __init__(self, on_progress: OnProgress | None, on_refused: OnRefused | None) -> None:
        self.progress = LoadProgress()
        self._on_progress = on_progress
        self._on_refused = on_refused

    def take(self, chunk: Chunk, response: worker_queue_pb2.EnqueueBatchResponse) -> None:
        """Counts a chunk. Raises the first refusal if nobody asked to be told of them."""
        for place, result in enumerate(read_batch(chunk.request, response)):
            if result.error is None:
                assert result.outcome is not None
                name = _COUNTERS[result.outcome]
                setattr(self.progress, name, getattr(self.progress, name) + 1)
                continue
            if self._on_refused is None:
                result.error.add_note(f"item {chunk.first + place} of the load (from 0)")
                raise result.error
            self.progress.refused += 1
            self._on_refused(chunk.first + place, result.error)
        if self._on_progress is not None:
            self._on_progress(self.progress)

    @staticmethod
    def pause_before_retry(chunk: Chunk, error: WorkerQueueError) -> float:
        """Seconds to wait before the chunk is sent again. Raises the error if that is useless."""
        chunk.tries += 1
        patient = isinstance(error, OverloadedError | UnavailableError)
        if not patient or chunk.tries >= MAX_TRIES:
            raise error
        return error.retry_after or _DEFAULT_PAUSE
