"""The tokens that this server knows: checked from memory, kept fresh from the database.

A token is read from the database when it is first used, and from then on with all others that are
remembered: every few seconds, and at once when somebody says that tokens changed. So a revocation
is heard by every server within seconds, whatever is lost on the way.

Invariant: every watch stands with an entry, an entry with watches is never forgotten, and every
entry is looked at in each round. So no stream outlives its token by more than a round, as long as
the database answers; while it does not, nothing that a stream asks for can be done anyway.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from workerqueue_server.queue import bearer
from workerqueue_server.queue.access import Names, Principal, Role, Scope
from workerqueue_server.queue.batcher import Batcher
from workerqueue_server.queue.errors import (
    TokenExpired,
    TokenInvalid,
    TokenRevoked,
    Unauthenticated,
)
from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.tokens import TokenRecord, TokenStore

_log = logging.getLogger(__name__)

# The safety net under the hint that tokens changed.
_ROUND_SECONDS = 2.0
_NOTE_SECONDS = 60.0
# Remembered tokens, beyond those with open streams.
_MAX_ENTRIES = 10_000
# Strangers' ids cost one statement for so many, one at a time, and nobody else's place.
_MAX_BATCH = 1_000
_MAX_WAITING = 10_000


class _Entry:
    """A remembered token."""

    def __init__(self, record: TokenRecord) -> None:
        self.watches: set[asyncio.Future[Unauthenticated]] = set()
        self.update(record)
        # What a token may do never changes, so neither does its principal.
        self.principal = Principal(
            record.token_id,
            record.name,
            frozenset(Role(role) for role in record.roles),
            Scope(Names(record.queues), Names(record.kinds)),
        )

    def update(self, record: TokenRecord | None) -> None:
        """What the database says now; None: the token is gone."""
        self.revoked = record is None or record.revoked
        if record is not None:
            self.secret_hash = record.secret_hash
            left = record.seconds_left
            self.expires_at = None if left is None else monotonic() + left

    def refusal(self) -> Unauthenticated | None:
        """Why the token is good no more."""
        if self.revoked:
            return TokenRevoked()
        if self.expires_at is not None and monotonic() >= self.expires_at:
            return TokenExpired()
        return None


class TokenBook:
    """Checks bearer tokens and ends what was opened with those that are good no more."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        # In the order of their last use.
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._used: set[str] = set()
        self._noted_at = monotonic()
        self._soon = asyncio.Event()
        self._lookups = Batcher[str, TokenRecord | None](
            "tokens", self._look_up, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )

    async def run_lookups(self) -> None:
        """Reads tokens that are used for the first time, until cancelled."""
        await self._lookups.run()

    async def close(self) -> None:
        """Closes the store."""
        await self._store.close()

    async def verify(self, text: str) -> Principal:
        """Who has this bearer token. Raises Unauthenticated, Overloaded or Unavailable."""
        given = bearer.read(text)
        if given is None:
            raise TokenInvalid
        entry = self._entries.get(given.token_id)
        if entry is None:
            (record,) = await self._lookups.submit([given.token_id])
            if record is None:
                raise TokenInvalid
            entry = self._remember(record)
        if not hmac.compare_digest(entry.secret_hash, given.secret_hash):
            raise TokenInvalid
        if (refusal := entry.refusal()) is not None:
            raise refusal
        self._entries.move_to_end(given.token_id)
        self._used.add(given.token_id)
        return entry.principal

    @contextmanager
    def watch(self, principal: Principal) -> Iterator[asyncio.Future[Unauthenticated]]:
        """A future that gets the reason once the principal's token is good no more."""
        ended: asyncio.Future[Unauthenticated] = asyncio.get_running_loop().create_future()
        entry = self._entries.get(principal.key)
        if entry is None:
            # Forgotten since it was verified, by a flood of other tokens: come again.
            ended.set_result(TokenInvalid())
            yield ended
            return
        entry.watches.add(ended)
        try:
            yield ended
        finally:
            entry.watches.discard(ended)

    def changed(self) -> None:
        """Tokens changed somewhere: look at once."""
        self._soon.set()

    async def duty(self) -> float:
        """Waits until it is time, then looks at every remembered token. Raises StoreError."""
        try:
            async with asyncio.timeout(self._pause()):
                await self._soon.wait()
        except TimeoutError:
            pass
        self._soon.clear()
        await self._refresh()
        if monotonic() - self._noted_at >= _NOTE_SECONDS:
            await self._note_use()
        return 0

    def _pause(self) -> float:
        """Seconds until the next round: earlier if a token with streams expires before."""
        ends = [e.expires_at for e in self._entries.values() if e.watches and e.expires_at]
        left = min(ends, default=float("inf")) - monotonic()
        return left if 0 < left < _ROUND_SECONDS else _ROUND_SECONDS

    async def _refresh(self) -> None:
        token_ids = list(self._entries)
        for start in range(0, len(token_ids), _MAX_BATCH):
            chunk = token_ids[start : start + _MAX_BATCH]
            records = await self._store.load(chunk)
            for token_id in chunk:
                if (entry := self._entries.get(token_id)) is not None:
                    was_revoked = entry.revoked
                    entry.update(records.get(token_id))
                    if entry.revoked and not was_revoked:
                        _log.info("revoked: %s", entry.principal.label)
                    self._end_if_refused(entry)

    def _end_if_refused(self, entry: _Entry) -> None:
        refusal = entry.refusal()
        if refusal is None or not entry.watches:
            return
        _log.info(
            "%s: %s; its %d open streams end",
            entry.principal.label,
            refusal.message,
            len(entry.watches),
        )
        for ended in entry.watches:
            if not ended.done():
                ended.set_result(refusal)

    async def _note_use(self) -> None:
        self._noted_at = monotonic()
        used, self._used = self._used, set()
        used.update(token_id for token_id, entry in self._entries.items() if entry.watches)
        if used:
            await self._store.note_use(sorted(used))

    async def leave(self) -> None:
        """Notes what was used and not yet noted: this server stops."""
        try:
            await self._note_use()
        except StoreError as error:
            _log.debug("use of tokens not noted: %s", error)

    async def _look_up(self, token_ids: list[str]) -> Sequence[TokenRecord | None]:
        records = await self._store.load(token_ids)
        return [records.get(token_id) for token_id in token_ids]

    def _remember(self, record: TokenRecord) -> _Entry:
        # Two first uses at once must share an entry: watches stand with it.
        entry = self._entries.get(record.token_id)
        if entry is None:
            entry = self._entries[record.token_id] = _Entry(record)
            _log.info("first call here by %s", entry.principal.label)
            self._forget_oldest()
        return entry

    def _forget_oldest(self) -> None:
        for _ in range(len(self._entries) - _MAX_ENTRIES):
            token_id, entry = self._entries.popitem(last=False)
            if entry.watches:
                self._entries[token_id] = entry
