"""What a token looks like, and how a server remembers and checks tokens."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from typing import cast

import pytest

from workerqueue_server.queue import bearer, tokens
from workerqueue_server.queue.access import Names, Scope
from workerqueue_server.queue.errors import TokenExpired, TokenInvalid, TokenRevoked
from workerqueue_server.queue.tokens import TokenBook
from workerqueue_server.store.tokens import TokenRecord, TokenStore


class Store:
    """Tokens in memory."""

    def __init__(self) -> None:
        self.records: dict[str, TokenRecord] = {}
        self.asked: list[list[str]] = []

    def mint(self, seconds_left: float | None = None) -> str:
        text, kept = bearer.mint()
        self.records[kept.token_id] = TokenRecord(
            kept.token_id, "test", kept.secret_hash, ["worker"], [], [], False, seconds_left
        )
        return text

    def revoke(self, text: str) -> None:
        token_id = text.split("_")[1]
        self.records[token_id] = self.records[token_id]._replace(revoked=True)

    async def load(self, token_ids: Sequence[str]) -> dict[str, TokenRecord]:
        self.asked.append(list(token_ids))
        return {key: self.records[key] for key in token_ids if key in self.records}

    async def note_use(self, token_ids: Sequence[str]) -> None:
        """Nothing."""


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def book(store: Store):  # type: ignore[no-untyped-def]
    made = TokenBook(cast("TokenStore", store))
    loop = asyncio.create_task(made.run_lookups())
    yield made
    loop.cancel()


def test_a_token_is_long_random_and_known_by_its_hash_alone() -> None:
    made = [bearer.mint() for _ in range(100)]
    assert len({text for text, _ in made}) == 100
    for text, kept in made:
        secret = text.split("_", 2)[2]
        # 43 characters of base64 carry 256 bits.
        assert len(secret) == 43
        assert bearer.read(text) == kept
        assert secret.encode() not in kept.secret_hash
        assert len(kept.secret_hash) == 32


async def test_hashes_are_compared_in_constant_time(
    book: TokenBook, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = store.mint()
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Hmac:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(tokens, "hmac", Hmac)
    await book.verify(text)
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    with pytest.raises(TokenInvalid):
        await book.verify(wrong)
    assert len(compared) == 2


async def test_a_known_token_asks_the_database_once(book: TokenBook, store: Store) -> None:
    text = store.mint()
    first = await book.verify(text)
    assert await book.verify(text) is first
    assert len(store.asked) == 1


async def test_callers_at_once_share_a_statement_and_a_principal(
    book: TokenBook, store: Store
) -> None:
    text = store.mint()
    first, *others = await asyncio.gather(*(book.verify(text) for _ in range(20)))
    assert all(other is first for other in others)
    assert len(store.asked) <= 2


async def test_remembered_tokens_are_bounded_and_those_with_streams_stay(
    book: TokenBook, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_MAX_ENTRIES", 3)
    watched = store.mint()
    with book.watch(await book.verify(watched)) as ended:
        for _ in range(10):
            await book.verify(store.mint())
        store.asked.clear()
        await book.verify(watched)
        assert store.asked == []
        store.revoke(watched)
        book.changed()
        await book.duty()
        assert len(store.asked[-1]) <= 4
        assert isinstance(ended.result(), TokenRevoked)


async def test_an_expired_or_revoked_token_is_refused(book: TokenBook, store: Store) -> None:
    with pytest.raises(TokenExpired):
        await book.verify(store.mint(seconds_left=-1))
    text = store.mint()
    await book.verify(text)
    store.revoke(text)
    book.changed()
    await book.duty()
    with pytest.raises(TokenRevoked):
        await book.verify(text)


async def test_a_token_that_is_gone_from_the_database_is_as_good_as_revoked(
    book: TokenBook, store: Store
) -> None:
    text = store.mint()
    with book.watch(await book.verify(text)) as ended:
        store.records.clear()
        book.changed()
        await book.duty()
        assert isinstance(ended.result(), TokenRevoked)


def test_names_are_exact_or_begin_with_what_stands_before_a_star() -> None:
    names = Names(["exact", "pre-*"])
    assert [name in names for name in ("exact", "exactly", "pre-", "pre-x", "pre", "")] == [
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    assert "anything" in Names()


def test_a_scope_wants_both_the_queue_and_the_kind() -> None:
    scope = Scope(Names(["q"]), Names(["k*"]))
    assert scope.has("q", "kind")
    assert not scope.has("other", "kind")
    assert not scope.has("q", "other")
    assert scope
    assert not Scope()
