"""Traces through tasks: a producer's span for each enqueue, a span for each attempt.

Only tasks that carry a context get spans of their attempts, and only on the server that granted
the lease: the context came with the grant. If that server dies, the attempt has no span.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from workerqueue_server.queue.errors import QueueError
from workerqueue_server.store.records import GrantRun, Lane
from workerqueue_server.telemetry import trace_context

if TYPE_CHECKING:
    from workerqueue_server.queue.enqueue import NewTask, Spec
    from workerqueue_server.telemetry.spans import Attribute, Lease, Send, Spans

Result = TypeVar("Result")

# Leases whose span is begun; beyond that the oldest are forgotten.
_MAX_OPEN = 100_000


class Tracing:
    """Begins and ends spans as tasks come and go."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._open: dict[bytes, Lease] = {}

    async def enqueue(
        self,
        tasks: Sequence[NewTask],
        call: Mapping[str, str],
        store: Callable[[Sequence[NewTask]], Awaitable[Result]],
    ) -> Result:
        """Stores tasks within producers' spans, whose context they carry from then on.

        One span for all tasks of one parent: the context in a task's own metadata, else the
        ``call``'s.
        """
        of_call = trace_context.carrier(call)
        parents: dict[str, list[int]] = {}
        carriers: dict[str, dict[str, str]] = {}
        for place, task in enumerate(tasks):
            parent = trace_context.carrier(_metadata(task.spec)) or of_call
            name = parent.get(trace_context.TRACEPARENT, "")
            carriers[name] = parent
            parents.setdefault(name, []).append(place)
        stamped = list(tasks)
        sends: list[Send] = []
        for name, places in parents.items():
            send = self._begin([tasks[place] for place in places], carriers[name])
            sends.append(send)
            specs: dict[Spec, Spec] = {}
            for place in places:
                spec = tasks[place].spec
                if spec not in specs:
                    specs[spec] = _with_context(spec, send.context)
                stamped[place] = tasks[place]._replace(spec=specs[spec])
        error_type: str | None = "unknown"
        try:
            result = await store(stamped)
            error_type = None
        except QueueError as error:
            error_type = error.reason
            raise
        finally:
            for send in sends:
                send.end(error_type)
        return result

    def _begin(self, tasks: Sequence[NewTask], parent: Mapping[str, str]) -> Send:
        queues = {task.spec.queue for task in tasks}
        kinds = {task.spec.kind for task in tasks}
        attributes: dict[str, Attribute] = {}
        if len(tasks) == 1:
            attributes["messaging.message.id"] = str(UUID(bytes=tasks[0].task_id))
        else:
            attributes["messaging.batch.message_count"] = len(tasks)
        if len(kinds) == 1:
            attributes["workerqueue.task.kind"] = next(iter(kinds))
        return self._spans.enqueue(
            parent, next(iter(queues)) if len(queues) == 1 else None, attributes
        )

    def granted(self, worker_id: str, lane: Lane, run: GrantRun) -> None:
        """Leases went to a worker: their spans begin, if the tasks carry a context."""
        from workerqueue_server.telemetry.spans import Lease

        parent = trace_context.carrier(run.metadata)
        if not parent:
            return
        now = time.time_ns()
        for token in run.tokens:
            self._open[token] = Lease(
                parent,
                now,
                {
                    "messaging.destination.name": lane.queue,
                    "messaging.message.id": str(UUID(bytes=token[:16])),
                    "workerqueue.task.kind": lane.kind,
                    "workerqueue.attempt": run.attempt,
                    "workerqueue.worker.id": worker_id,
                },
            )
        while len(self._open) > _MAX_OPEN:
            del self._open[next(iter(self._open))]

    def ended(self, outcome: str, tokens: Collection[bytes]) -> None:
        """Leases are over; those whose span was begun here get it."""
        now = time.time_ns()
        for token in tokens:
            lease = self._open.pop(token, None)
            if lease is not None:
                self._spans.attempt(lease, outcome, now)


def _metadata(spec: Spec) -> Mapping[str, str] | None:
    metadata = spec.fields.get("metadata")
    return metadata if isinstance(metadata, dict) else None


def _with_context(spec: Spec, context: Mapping[str, str]) -> Spec:
    metadata = dict(_metadata(spec) or {})
    # A state belongs to its parent: one without the other would be another trace's.
    metadata.pop(trace_context.TRACESTATE, None)
    return replace(spec, fields={**spec.fields, "metadata": {**metadata, **context}})
