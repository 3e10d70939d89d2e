"""The bearer tokens in Postgres."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from workerqueue_server.store.hints import CHANNEL
from workerqueue_server.store.link import Link

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TokenRecord(NamedTuple):
    """What checking a token needs."""

    token_id: str
    name: str
    secret_hash: bytes
    roles: Sequence[str]
    queues: Sequence[str]
    kinds: Sequence[str]
    revoked: bool
    # By the database's clock, at the time of reading; None: it does not expire.
    seconds_left: float | None


class NewToken(NamedTuple):
    """A token to store."""

    token_id: str
    name: str
    secret_hash: bytes
    roles: Sequence[str]
    queues: Sequence[str] = ()
    kinds: Sequence[str] = ()
    # Seconds until it expires.
    seconds: float | None = None


class ListedToken(NamedTuple):
    """A token as people see it."""

    token_id: str
    name: str
    roles: Sequence[str]
    queues: Sequence[str]
    kinds: Sequence[str]
    created_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    # active, expired or revoked.
    state: str


class TokenStore:
    """Tokens, on a connection of their own. Every method is one transaction; raises StoreError."""

    def __init__(self, dsn: str) -> None:
        self._link = Link(dsn, "tokens")

    async def close(self) -> None:
        """Closes the connection."""
        await self._link.close()

    async def load(self, token_ids: Sequence[str]) -> dict[str, TokenRecord]:
        """The tokens of these ids that exist."""
        rows = await self._link.fetch("load_tokens", {"token_ids": list(token_ids)})
        return {row[0]: TokenRecord(*row) for row in rows}

    async def note_use(self, token_ids: Sequence[str]) -> None:
        """These tokens are in use."""
        await self._link.fetch("note_token_use", {"token_ids": list(token_ids)})

    async def insert(self, token: NewToken) -> datetime | None:
        """Stores a new token; when it expires."""
        parameters = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in token._asdict().items()
        }
        ((expires_at,),) = await self._link.fetch("insert_token", parameters)
        return _moment(expires_at)

    async def listed(self, *, include_dead: bool) -> list[ListedToken]:
        """All tokens, the newest first; not ``include_dead``: those that can be used."""
        rows = await self._link.fetch("list_tokens", {"all": include_dead})
        return [
            ListedToken._make((*row[:5], *(_moment(micros) for micros in row[5:9]), row[9]))
            for row in rows
        ]

    async def revoke(self, token_ids: Sequence[str]) -> set[str]:
        """Revokes tokens and tells the servers; the ids of those that exist."""
        rows = await self._link.fetch(
            "revoke_tokens", {"token_ids": list(token_ids), "channel": CHANNEL}
        )
        return {row[0] for row in rows}


def _moment(micros: int | None) -> datetime | None:
    """A point in time as the driver hands it over: microseconds since 1970."""
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)
