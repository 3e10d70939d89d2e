"""The queue as a whole: one object that the RPC layer calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable

from workerqueue_server.queue import bounds
from workerqueue_server.queue.access import Principal
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.queue.dispatcher import Dispatcher
from workerqueue_server.queue.duties import repeat
from workerqueue_server.queue.enqueue import Enqueuer
from workerqueue_server.queue.errors import Refused
from workerqueue_server.queue.journal import Journal
from workerqueue_server.queue.keyed import KeyedCare, KeyedEnqueuer
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.leases import LeaseDesk
from workerqueue_server.queue.maintenance import Maintenance
from workerqueue_server.queue.observation import Observation
from workerqueue_server.queue.presence import Presence
from workerqueue_server.queue.queue_admin import QueueAdmin
from workerqueue_server.queue.retention import Retention
from workerqueue_server.queue.schedule_definition import ReadTask
from workerqueue_server.queue.schedules import Schedules
from workerqueue_server.queue.scoped_desk import LaneFinder, ScopedDesk
from workerqueue_server.queue.sessions import SessionBook
from workerqueue_server.queue.statistics import Statistics
from workerqueue_server.queue.task_admin import TaskAdmin
from workerqueue_server.queue.ticking import Ticker
from workerqueue_server.queue.tokens import TokenBook
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.queue.watching import TaskWatcher
from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.hints import HintSender, listen
from workerqueue_server.store.keyed import KeyedStore
from workerqueue_server.store.partitions import PartitionStore
from workerqueue_server.store.reads import ReadStore
from workerqueue_server.store.records import Return
from workerqueue_server.store.schedules import ScheduleStore
from workerqueue_server.store.task_admin import TaskAdminStore
from workerqueue_server.store.tasks import TaskStore
from workerqueue_server.store.tokens import TokenStore

_log = logging.getLogger(__name__)

# How long a stop waits for the grant under way and for what it gives back.
_LAST_ROUND_SECONDS = 5.0
_PING_SECONDS = 3.0


class Engine:
    """Wires the rules to the store and runs their loops."""

    def __init__(
        self,
        dsn: str,
        catalog: Catalog,
        read_task: ReadTask,
        *,
        listen_dsn: str | None = None,
        in_flight_per_principal: int = bounds.IN_FLIGHT_PER_PRINCIPAL,
        max_lanes: int = bounds.LANES,
    ) -> None:
        """``read_task`` checks the requests that schedules hold, as if somebody sent them."""
        self.server_id = f"server-{uuid.uuid4().hex[:12]}"
        self.catalog = catalog
        self.store = TaskStore(dsn)
        self.reads = ReadStore(dsn)
        self.book = SessionBook(in_flight_per_principal)
        self.journal = Journal()
        self._listen_dsn = listen_dsn or dsn
        self._hints = HintSender(dsn, self.server_id)
        self.wakeups = Wakeups(self._hints)
        self.watcher = TaskWatcher(self.reads, self._hints)
        self.wakeups.touched = self.watcher.touched
        self.wakeups.on_changed = self.watcher.changed_elsewhere
        self.wakeups.on_watched = self.watcher.note_interest
        self.lanes = LaneTable(self.store, max_lanes)
        self.queue_admin = QueueAdmin(self.reads, self.wakeups, catalog.queues)
        self.statistics = Statistics(self.reads)
        self.task_admin = TaskAdmin(
            TaskAdminStore(self.reads), self.reads, self.lanes, self.wakeups
        )
        self.dispatcher = Dispatcher(
            self.store,
            self.lanes,
            self.book,
            self.give_back,
            catalog.kinds.keys(),
            self.wakeups.touched,
            self.journal,
        )
        self.enqueuer = Enqueuer(
            self.store, self.lanes, self.wakeups, self.dispatcher, self.journal
        )
        self.keyed_store = KeyedStore(dsn)
        self.keyed_care = KeyedCare(self.keyed_store, self.wakeups)
        self.keyed = KeyedEnqueuer(
            self.keyed_store, self.lanes, self.wakeups, self.keyed_care, self.journal
        )
        self.schedule_store = ScheduleStore(dsn, self.reads)
        self.ticker = Ticker(
            self.schedule_store,
            self.lanes,
            self.keyed,
            catalog.kinds.keys(),
            read_task,
            self.task_admin.cancel_live,
        )
        self.schedules = Schedules(
            self.schedule_store, self.lanes, self.keyed, read_task, self.ticker.wake
        )
        self.desk = LeaseDesk(
            self.store, self.book, self.wakeups, self.dispatcher.changed, self.journal
        )
        self.finder = LaneFinder(self.store, self.lanes)
        self.partition_store = PartitionStore(dsn)
        self.retention = Retention(self.partition_store)
        self.maintenance = Maintenance(self.store, self.desk, self.wakeups, self.journal)
        self.wakeups.on_lanes = self.dispatcher.wake_lanes
        self.presence = Presence(
            self.reads,
            self.book,
            self.wakeups,
            self.server_id,
            catalog.kinds.keys(),
            self.dispatcher.changed,
        )
        self.tokens = TokenBook(TokenStore(dsn))
        self.wakeups.on_tokens = self.tokens.changed
        self.wakeups.on_queues = self.dispatcher.wake_queues
        self.wakeups.on_settings = self.dispatcher.sweep_soon
        # What runs only while figures are exported.
        self._watching: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Future[object]] = set()
        self._ping: asyncio.Task[bool] | None = None
        # What was found when it was last asked.
        self.was_healthy = False

    def observe(self) -> None:
        """Keeps all figures up to date, for export. To be called before the start."""
        self._watching = Observation(self).loops()

    async def start(self) -> None:
        """Declares the catalog and starts the loops. Raises StoreError."""
        # First: a database that slept for days has no partition for what finishes now.
        await self.retention.prepare()
        for kind in self.catalog.kinds.values():
            await self.store.declare_kind(kind.name, kind.type_name, kind.declaration())
        for queue in self.catalog.queues.values():
            await self.store.declare_queue(
                queue.name, queue.max_in_flight_per_worker, queue.max_in_flight
            )
        # Made ahead, so that an enqueue by SQL need not make them in its own transaction.
        await self.lanes.ids(
            [(k.policy.queue, k.name, k.policy.priority) for k in self.catalog.kinds.values()]
        )
        await self.reads.open()
        await self.presence.sync()
        await self.dispatcher.sweep()
        for name, loop in self._loops():
            self._tasks.append(asyncio.create_task(_forever(name, loop), name=name))

    async def stop(self) -> None:
        """Stops the loops and closes the connections. Leases stay valid."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ROUND_SECONDS):
                await self._finish_grants()
        if self._ping is not None:
            self._ping.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreError):
            await self.presence.leave()
        await self.tokens.leave()
        await self.tokens.close()
        await self._hints.close()
        await self.reads.close()
        await self.schedule_store.close()
        await self.partition_store.close()
        await self.keyed_store.close()
        await self.store.close()

    async def _finish_grants(self) -> None:
        """Grants no more; what is granted to streams that are gone is given back."""
        await self.dispatcher.close()
        await self.enqueuer.settle()
        while self._background:
            await asyncio.wait(self._background)

    def desk_of(self, principal: Principal) -> LeaseDesk | ScopedDesk:
        """Where this principal's answers go."""
        if not principal.scope:
            return self.desk
        return ScopedDesk(self.desk, self.book, self.finder, principal)

    def give_back(self, tokens: list[bytes]) -> None:
        """Returns leases that no worker received; their attempts are not charged."""
        future: asyncio.Future[object] = asyncio.ensure_future(
            self.desk.take_back([Return(token, "release") for token in tokens])
        )
        self._background.add(future)
        future.add_done_callback(self._given_back)

    def reject(self, token: bytes, reason: Refused) -> None:
        """Buries a leased task whose payload cannot be delivered."""
        error = {"type": "InvalidPayload", "message": reason.message}
        future: asyncio.Future[object] = asyncio.ensure_future(
            self.desk.take_back([Return(token, "fail", error=error, permanent=True)])
        )
        self._background.add(future)
        future.add_done_callback(self._given_back)

    def _given_back(self, future: asyncio.Future[object]) -> None:
        self._background.discard(future)
        if not future.cancelled() and future.exception() is not None:
            # Their lease clocks return them all the same, later and charged.
            _log.warning("undelivered leases not given back: %s", future.exception())

    async def is_healthy(self) -> bool:
        """Whether the database answers within three seconds and takes writes."""
        # Not a time-out around the ping: to cancel a statement of a silent database takes longer.
        if self._ping is None:
            self._ping = asyncio.create_task(self.store.ping(), name="ping")
        await asyncio.wait((self._ping,), timeout=_PING_SECONDS)
        self.was_healthy = False
        if self._ping.done():
            ping, self._ping = self._ping, None
            self.was_healthy = ping.exception() is None and ping.result()
        return self.was_healthy

    def waiting(self) -> dict[str, int]:
        """How many items wait for their transaction, by batch."""
        return {
            "enqueue": self.enqueuer.waiting,
            "enqueue keyed": self.keyed.waiting,
            **self.desk.waiting(),
        }

    def _loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        return [
            ("enqueue", self.enqueuer.run),
            ("enqueue keyed", self.keyed.run),
            *self.keyed_care.loops(),
            ("schedules", self.ticker.run),
            ("retention", lambda: repeat("retention", self.retention.duty)),
            ("grant", self.dispatcher.run),
            ("sweep", self.dispatcher.run_sweeps),
            ("send hints", self._hints.run),
            ("listen", self._listen),
            ("watch tasks", self.watcher.run),
            ("announce watched tasks", self.watcher.run_interest),
            ("presence", lambda: repeat("presence", self.presence.duty)),
            ("look up tokens", self.tokens.run_lookups),
            ("lanes of tasks", self.finder.run),
            ("tokens", lambda: repeat("tokens", self.tokens.duty)),
            ("fold statistics", lambda: repeat("fold statistics", self.statistics.fold)),
            *self.desk.loops(),
            *self.maintenance.loops(),
            *self._watching,
        ]

    async def _listen(self) -> None:
        await listen(
            self._listen_dsn,
            self.server_id,
            self._hints,
            self.wakeups.receive,
            self.dispatcher.sweep_soon,
        )


async def _forever(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Keeps a loop running: an unforeseen error is logged and the loop begins again."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - a loop must outlive any error
            _log.exception("the %s loop failed and starts again", name)
            await asyncio.sleep(1)
