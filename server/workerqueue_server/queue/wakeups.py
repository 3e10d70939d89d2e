"""Tells this server's loops, and the other servers, where there may be something to do."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from workerqueue_server.store.hints import HintSender
from workerqueue_server.store.records import Woken


class Wakeups:
    """Fans a change out: at once to this server, as a hint to the others."""

    def __init__(self, hints: HintSender) -> None:
        self._hints = hints
        self.on_lanes: Callable[[Iterable[tuple[int, int]]], None] = lambda _: None
        self.on_queues: Callable[[Iterable[str]], None] = lambda _: None
        self.on_due: Callable[[float], None] = lambda _: None
        self.on_ended: Callable[[Iterable[tuple[bytes, int]]], None] = lambda _: None
        # Told by enqueues by SQL, which do not do it themselves: concurrency keys to admit for, and
        # tasks behind whose leases successors wait.
        self.on_keys: Callable[[Iterable[str]], None] = lambda _: None
        self.on_behind: Callable[[Iterable[bytes]], None] = lambda _: None
        # Tasks (ids, or lease tokens, which begin with them) that this server changed.
        self.touched: Callable[[Iterable[bytes]], None] = lambda _: None
        # Tasks that another server changed, and tasks that another server watches.
        self.on_changed: Callable[[list[bytes]], None] = lambda _: None
        self.on_watched: Callable[[list[bytes]], None] = lambda _: None

    def announce(self, woken: Woken) -> None:
        """A committed change may have made tasks available."""
        if woken.lanes:
            self.on_lanes(woken.lanes)
            self._hints.lanes(woken.lanes)
        if woken.queues:
            self.on_queues(woken.queues)
            self._hints.queues(woken.queues)
        if woken.due_in_ms is not None:
            self.on_due(woken.due_in_ms)
            self._hints.due(woken.due_in_ms)

    def announce_ended(self, leases: Sequence[tuple[bytes, int]]) -> None:
        """Leases (token, cancellation reason) ended that other servers' streams may hold."""
        self.on_ended(leases)
        self._hints.ended(leases)
        self.touched(token for token, _ in leases)

    def receive(self, hint: dict[str, Any]) -> None:
        """A hint from another server."""
        if lanes := hint.get("lanes"):
            self.on_lanes([(int(lane_id), int(position)) for lane_id, position in lanes])
        if queues := hint.get("queues"):
            self.on_queues([str(queue) for queue in queues])
        if ended := hint.get("ended"):
            self.on_ended([(bytes.fromhex(token), int(reason)) for token, reason in ended])
        if keys := hint.get("keys"):
            self.on_keys([str(key) for key in keys])
        if behind := hint.get("behind"):
            self.on_behind([uuid.UUID(task_id).bytes for task_id in behind])
        if tasks := hint.get("tasks"):
            self.on_changed([bytes.fromhex(task_id) for task_id in tasks])
        if watched := hint.get("watched"):
            self.on_watched([bytes.fromhex(task_id) for task_id in watched])
        if (due := hint.get("due")) is not None:
            self.on_due(float(due))
