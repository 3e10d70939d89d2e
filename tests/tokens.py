"""Bearer tokens for tests, and channels that send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc

from tests.toolkit import Api
from workerqueue_server.queue import bearer
from workerqueue_server.store.tokens import NewToken, TokenStore


class Tokens:
    """The tokens of a database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def create(
        self,
        *roles: str,
        name: str = "test",
        queues: Sequence[str] = (),
        kinds: Sequence[str] = (),
        seconds: float | None = None,
    ) -> str:
        """A new token's text."""
        text, kept = bearer.mint()
        token = NewToken(kept.token_id, name, kept.secret_hash, roles, queues, kinds, seconds)
        self._do(lambda store: store.insert(token))
        return text

    def revoke(self, text: str) -> None:
        """Revokes, as the command does."""
        self._do(lambda store: store.revoke([token_id(text)]))

    def _do(self, work: Callable[[TokenStore], Any]) -> None:
        async def run() -> None:
            store = TokenStore(self._dsn)
            try:
                await work(store)
            finally:
                await store.close()

        # On a loop of its own: also for tests that run in one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(run())).result()


def token_id(text: str) -> str:
    """The part of a token that is no secret."""
    return text.split("_")[1]


def sending(*metadata: tuple[str, str]) -> list[grpc.aio.ClientInterceptor]:
    """Adds metadata to every call: an interceptor for each type of call."""

    async def add(_: Any, continuation: Any, details: Any, request: Any) -> Any:
        carried = (*(details.metadata or ()), *metadata)
        return await continuation(details._replace(metadata=carried), request)

    kinds: list[tuple[str, Any]] = [
        ("intercept_unary_unary", grpc.aio.UnaryUnaryClientInterceptor),
        ("intercept_unary_stream", grpc.aio.UnaryStreamClientInterceptor),
        ("intercept_stream_stream", grpc.aio.StreamStreamClientInterceptor),
    ]
    return [type("Adds", (base,), {name: add})() for name, base in kinds]


@asynccontextmanager
async def connected_as(
    address: str,
    text: str | None,
    credentials: grpc.ChannelCredentials | None = None,
    **options: str,
) -> AsyncIterator[Api]:
    """The API of a server for whoever has this token, over a connection of its own."""
    interceptors = sending(("authorization", f"Bearer {text}")) if text is not None else []
    own = [("grpc.use_local_subchannel_pool", 1), *options.items()]
    channel = (
        grpc.aio.insecure_channel(address, own, interceptors=interceptors)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, own, interceptors=interceptors)
    )
    async with channel:
        yield Api(channel)
