"""What this server knows of the lanes."""

from collections.abc import Callable, Sequence

from workerqueue_server.store.records import Lane
from workerqueue_server.store.tasks import TaskStore


class LaneTable:
    """Lanes by name and by id. A lane never changes once made, so nothing here expires."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._ids: dict[tuple[str, str, int], int] = {}
        self._lanes: dict[int, Lane] = {}
        self._listeners: list[Callable[[Lane], None]] = []

    def on_new(self, listener: Callable[[Lane], None]) -> None:
        """Calls the listener for each lane that becomes known."""
        self._listeners.append(listener)

    def get(self, lane_id: int) -> Lane | None:
        """The lane, if known yet."""
        return self._lanes.get(lane_id)

    def queues(self) -> set[str]:
        """The queues of the lanes known so far."""
        return {lane.queue for lane in self._lanes.values()}

    def learn(self, lane: Lane) -> None:
        """Takes note of a lane."""
        if lane.lane_id in self._lanes:
            return
        self._lanes[lane.lane_id] = lane
        self._ids[lane.queue, lane.kind, lane.priority] = lane.lane_id
        for listener in self._listeners:
            listener(lane)

    async def make(self, wanted: Sequence[tuple[str, str, int]]) -> None:
        """Makes lanes, and rows for their queues, where they are missing."""
        for lane in await self._store.ensure_lanes(wanted):
            self.learn(lane)

    async def ids(self, wanted: Sequence[tuple[str, str, int]]) -> list[int]:
        """Ids of the lanes (queue, kind, priority), made if missing."""
        missing = [name for name in wanted if name not in self._ids]
        if missing:
            await self.make(missing)
        return [self._ids[name] for name in wanted]
