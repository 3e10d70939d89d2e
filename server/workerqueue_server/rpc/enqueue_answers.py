"""The answers of Enqueue and EnqueueBatch, encoded by hand.

What the tasks of one write share is serialized once, and each task's own fields are joined to it:
protobuf fields may come in any order. The tests hold this against the generated classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Outcome, Spec
from workerqueue_server.queue.errors import QueueError
from workerqueue_server.queue.keyed import is_keyed
from workerqueue_server.queue.varint import varint
from workerqueue_server.rpc.bounded_cache import BoundedCache
from workerqueue_server.rpc.frames import batch_results, uuid_text
from workerqueue_server.rpc.status import status_of
from workerqueue_server.rpc.views import enqueue_outcome, stored_task, task_view
from workerqueue_server.store.reads import ReadStore

# Room below the 4 MiB that a client takes by default: for ids, outcomes and refusals.
_MAX_TASK_BYTES = 3 * 1024 * 1024
# Stored tasks may be large, and most of those that are read for one answer may not fit it.
_READ_TASKS = 16
_NO_ID = bytes(16)

# Field tags of EnqueueResponse and of EnqueueBatchResult.
_RESPONSE_TASK, _RESPONSE_OUTCOME = b"\x0a", b"\x10"
_RESULT_ID, _RESULT_OUTCOME, _RESULT_TASK = b"\x0a\x24", b"\x10", b"\x22"
_RESULTS = b"\x0a"


class EnqueueAnswers:
    """Encodes what became of the tasks of a request."""

    def __init__(self, catalog: Catalog, reads: ReadStore) -> None:
        self._catalog = catalog
        self._reads = reads
        # By the write's time: one entry per write and spec.
        self._shared: BoundedCache[tuple[Spec, int], bytes] = BoundedCache()
        self._payload_heads: dict[str, bytes] = {}

    async def one(self, task: NewTask, result: EnqueueResult) -> bytes:
        """An EnqueueResponse. Raises the result's error."""
        if result.error is not None:
            raise result.error
        view = self._new_view(task, result)
        if view is None:
            task_id = result.task_id or task.task_id
            view = (await self._read([task_id])).get(task_id)
        if view is None:
            # Deleted meanwhile: shown as the request has it.
            view = self._encode(task._replace(task_id=result.task_id or task.task_id), result)
        outcome = varint(enqueue_outcome(result.outcome))
        return b"".join((_RESPONSE_TASK, varint(len(view)), view, _RESPONSE_OUTCOME, outcome))

    async def many(
        self,
        size: int,
        tasks: Sequence[NewTask],
        results: Sequence[EnqueueResult],
        refused: dict[int, QueueError],
        *,
        include_tasks: bool,
    ) -> bytes:
        """An EnqueueBatchResponse of so many items: those refused by place, the others in order."""
        if not (refused or include_tasks) and _all_alike(results):
            # The usual answer: all were created by one write.
            outcome = enqueue_outcome(results[0].outcome)
            return batch_results([task.task_id for task in tasks], outcome)
        views: Sequence[bytes | None] = [None] * len(tasks)
        if include_tasks:
            views = await self._views(tasks, results)
        parts: list[bytes] = []
        stored = zip(tasks, results, views, strict=True)
        for place in range(size):
            if refused and place in refused:
                parts.append(_refused(refused[place]))
                continue
            task, result, view = next(stored)
            if result.error is not None:
                parts.append(_refused(result.error))
            else:
                parts.append(
                    _stored(result.task_id or task.task_id, enqueue_outcome(result.outcome), view)
                )
        return b"".join(parts)

    async def _views(
        self, tasks: Sequence[NewTask], results: Sequence[EnqueueResult]
    ) -> list[bytes | None]:
        """The tasks that fit one answer; those that must be read come last."""
        views: list[bytes | None] = []
        room = _MAX_TASK_BYTES
        to_read: list[int] = []
        for place, (task, result) in enumerate(zip(tasks, results, strict=True)):
            view = self._new_view(task, result) if result.error is None else None
            if view is None and result.error is None:
                to_read.append(place)
            elif view is not None and (room := room - len(view)) < 0:
                view = None
            views.append(view)
        for start in range(0, len(to_read), _READ_TASKS):
            if room <= 0:
                break
            places = to_read[start : start + _READ_TASKS]
            ids = {place: results[place].task_id or tasks[place].task_id for place in places}
            read = await self._read(list(ids.values()))
            for place, task_id in ids.items():
                view = read.get(task_id)
                if view is not None and (room := room - len(view)) >= 0:
                    views[place] = view
        return views

    def _new_view(self, task: NewTask, result: EnqueueResult) -> bytes | None:
        """A Task that is stored as the request has it; None: it must be read."""
        if result.outcome is not Outcome.CREATED or is_keyed(task):
            return None
        return self._encode(task, result)

    async def _read(self, task_ids: list[bytes]) -> dict[bytes, bytes]:
        records = await self._reads.tasks(task_ids)
        return {
            task_id: task_view(record, self._catalog).SerializeToString()
            for task_id, record in records.items()
        }

    def _encode(self, task: NewTask, result: EnqueueResult) -> bytes:
        shared = self._shared.get((task.spec, result.stored_at))
        if shared is None:
            shared = self._share(task.spec, result.stored_at)
        head = self._payload_heads[task.spec.kind]
        size = len(task.payload)
        value = b"\x12" + varint(size) + task.payload if size else b""
        view = b"\x0a\x24%b\x42%b%b%b%b" % (
            uuid_text(task.task_id).encode(),
            varint(len(head) + len(value)),
            head,
            value,
            shared,
        )
        if task.concurrency_key:
            key = task.concurrency_key.encode()
            view += b"\x9a\x01" + varint(len(key)) + key
        return view

    def _share(self, spec: Spec, stored_at: int) -> bytes:
        view = stored_task(NewTask(_NO_ID, False, spec, b"", None), stored_at, self._catalog)
        self._payload_heads[spec.kind] = view.payload.SerializeToString()
        view.ClearField("task_id")
        view.ClearField("payload")
        shared = view.SerializeToString()
        return self._shared.keep((spec, stored_at), shared, len(shared) + spec.size)


def _all_alike(results: Sequence[EnqueueResult]) -> bool:
    """Whether there are some and all say the same, of the task itself."""
    if not results:
        return False
    first = results[0]
    return (
        first.error is None and first.task_id is None and all(result is first for result in results)
    )


def _stored(task_id: bytes, outcome: int, view: bytes | None) -> bytes:
    if view is None:
        return batch_results([task_id], outcome)
    text = uuid_text(task_id).encode()
    entry = b"".join(
        (_RESULT_ID, text, _RESULT_OUTCOME, varint(outcome), _RESULT_TASK, varint(len(view)), view)
    )
    return b"".join((_RESULTS, varint(len(entry)), entry))


def _refused(error: QueueError) -> bytes:
    entry = worker_queue_pb2.EnqueueBatchResult(error=status_of(error))
    return worker_queue_pb2.EnqueueBatchResponse(results=[entry]).SerializeToString()
