"""Tells this server's loops, and the other servers, where there may be something to do."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from workerqueue_server.store.hints import HintSender
from workerqueue_server.store.records import Woken


class Wakeups:
    """Fans a change out: at once to this server, as a hint to the others."""

    def __init__(self, hints: HintSender) -> None:
        self._hints = hints
        self._readers: dict[str, Callable[[Any], None]] = {
            "lanes": self._read_lanes,
            "queues": self._read_queues,
            # Before the end itself, after which nobody holds them.
            "ran_out": self._read_ran_out,
            "ended": self._read_ended,
            "tasks": self._read_tasks,
            "watched": self._read_watched,
            "due": self._read_due,
            "signals": self._read_signals,
        }
        self.on_lanes: Callable[[Iterable[tuple[int, int]]], None] = lambda _: None
        self.on_queues: Callable[[Iterable[str]], None] = lambda _: None
        self.on_due: Callable[[float], None] = lambda _: None
        self.on_ended: Callable[[Iterable[tuple[bytes, int]]], None] = lambda _: None
        # Leases that ended by their clocks.
        self.on_ran_out: Callable[[Iterable[tuple[bytes, int]]], None] = lambda _: None
        # Told by enqueues by SQL, which do not do it themselves: concurrency keys to admit for, and
        # tasks behind whose leases successors wait.
        self.on_keys: Callable[[Iterable[str]], None] = lambda _: None
        self.on_behind: Callable[[Iterable[bytes]], None] = lambda _: None
        self.on_settings: Callable[[], None] = lambda: None
        self.on_drains: Callable[[], None] = lambda: None
        self.on_tokens: Callable[[], None] = lambda: None
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

    def announce_settings(self) -> None:
        """Queues' settings changed; every server reads them anew."""
        self.on_settings()
        self._hints.signal("settings")

    def announce_drains(self) -> None:
        """Operators' wishes about workers changed; every server reads them anew."""
        self.on_drains()
        self._hints.signal("drains")

    def announce_ended(self, leases: Sequence[tuple[bytes, int]]) -> None:
        """Leases (token, cancellation reason) ended that other servers' streams may hold."""
        self.on_ended(leases)
        self._hints.ended(leases)
        self.touched(token for token, _ in leases)

    def announce_ran_out(self, leases: Sequence[tuple[bytes, int]]) -> None:
        """Leases (token, reason) ended by their clocks; to be told before ``announce_ended``."""
        self.on_ran_out(leases)
        self._hints.ran_out(leases)

    def receive(self, hint: dict[str, Any]) -> None:
        """A hint from another server."""
        for part, read in self._readers.items():
            if part in hint:
                read(hint[part])

    def _read_lanes(self, lanes: list[Any]) -> None:
        self.on_lanes([(int(lane_id), int(position)) for lane_id, position in lanes])

    def _read_queues(self, queues: list[Any]) -> None:
        self.on_queues([str(queue) for queue in queues])

    def _read_ended(self, leases: list[Any]) -> None:
        self.on_ended([(bytes.fromhex(token), int(reason)) for token, reason in leases])

    def _read_ran_out(self, leases: list[Any]) -> None:
        self.on_ran_out([(bytes.fromhex(token), int(reason)) for token, reason in leases])

    def _read_tasks(self, task_ids: list[Any]) -> None:
        self.on_changed([bytes.fromhex(task_id) for task_id in task_ids])

    def _read_watched(self, task_ids: list[Any]) -> None:
        self.on_watched([bytes.fromhex(task_id) for task_id in task_ids])

    def _read_due(self, milliseconds: Any) -> None:
        self.on_due(float(milliseconds))

    def _read_signals(self, names: list[Any]) -> None:
        for name in names:
            if name == "settings":
                self.on_settings()
            elif name == "drains":
                self.on_drains()
            elif name == "tokens":
                self.on_tokens()
