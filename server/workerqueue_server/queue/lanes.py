"""What this server knows of the lanes."""

from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic

from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import TooManyLanes
from workerqueue_server.store.records import Lane
from workerqueue_server.store.tasks import TaskStore

# Queue, kind and priority.
LaneName = tuple[str, str, int]

# How long a lane that may be made counts although it is not there: its write may still wait.
_PROMISE_SECONDS = 30.0


class LaneTable:
    """Lanes by name and by id. A lane never changes once made, so nothing here expires.

    Producers make lanes by naming them, and each costs every server memory and a probe a second: so
    there is a bound on how many this server lets them make. It counts the lanes that it knows,
    which are all but those made within the last second elsewhere; what is there already stays.
    """

    def __init__(self, store: TaskStore, max_lanes: int = bounds.LANES) -> None:
        self._store = store
        self._max_lanes = max_lanes
        # Lanes that calls under way may make, and until when they count.
        self._promised: dict[LaneName, float] = {}
        self._ids: dict[LaneName, int] = {}
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

    def admit(self, names: Iterable[LaneName]) -> dict[LaneName, TooManyLanes]:
        """Promises lanes to a call that may make them; those that it may not, with the error."""
        refused: dict[LaneName, TooManyLanes] = {}
        for name in names:
            if name in self._ids or name in self._promised:
                continue
            if self._is_full():
                refused[name] = TooManyLanes(self._max_lanes, name[0])
            else:
                self._promised[name] = monotonic() + _PROMISE_SECONDS
        return refused

    def _is_full(self) -> bool:
        if len(self._lanes) + len(self._promised) < self._max_lanes:
            return False
        now = monotonic()
        self._promised = {name: end for name, end in self._promised.items() if end > now}
        return len(self._lanes) + len(self._promised) >= self._max_lanes

    def learn(self, lane: Lane) -> None:
        """Takes note of a lane."""
        self._promised.pop((lane.queue, lane.kind, lane.priority), None)
        if lane.lane_id in self._lanes:
            return
        self._lanes[lane.lane_id] = lane
        self._ids[lane.queue, lane.kind, lane.priority] = lane.lane_id
        for listener in self._listeners:
            listener(lane)

    async def make(self, wanted: Collection[LaneName]) -> None:
        """Makes lanes, and rows for their queues, where they are missing."""
        for lane in await self._store.ensure_lanes(list(wanted)):
            self.learn(lane)

    async def ids(self, wanted: Sequence[LaneName]) -> list[int]:
        """Ids of the lanes (queue, kind, priority), made if missing."""
        missing = [name for name in wanted if name not in self._ids]
        if missing:
            await self.make(missing)
        return [self._ids[name] for name in wanted]
