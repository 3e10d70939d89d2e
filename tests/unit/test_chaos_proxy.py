"""The proxy of the chaos harness: what passes is a prefix of what was sent, and healing heals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.chaos.harness.proxy import Direction, Proxy

_SECONDS = 20


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    made = Proxy("test", server.sockets[0].getsockname()[:2])
    await made.start()
    yield made
    await made.stop()
    server.close()


async def exchange(proxy: Proxy, message: bytes) -> bytes:
    """What comes back until the connection ends or all of it is there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(message)
        async with asyncio.timeout(_SECONDS):
            return await reader.readexactly(len(message))
    except asyncio.IncompleteReadError as error:
        return error.partial
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_without_a_fault_everything_passes(proxy: Proxy) -> None:
    assert await exchange(proxy, b"x" * 100_000) == b"x" * 100_000


@pytest.mark.parametrize("direction", list(Direction))
async def test_truncation_lets_a_prefix_pass(proxy: Proxy, direction: Direction) -> None:
    proxy.truncate(3, [direction])
    assert b"abc".startswith(await exchange(proxy, b"abcdef"))
    proxy.heal()
    assert await exchange(proxy, b"abcdef") == b"abcdef"


async def test_a_black_hole_keeps_the_connection_and_is_silent_until_healed(proxy: Proxy) -> None:
    proxy.swallow([Direction.TO_CLIENT])
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"abc")
    await writer.drain()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.read(1)
    proxy.heal()
    async with asyncio.timeout(_SECONDS):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
    writer.close()
    assert await exchange(proxy, b"abc") == b"abc"


@pytest.mark.parametrize("strike", [Proxy.cut, Proxy.refuse])
async def test_a_cut_ends_connections(proxy: Proxy, strike: Callable[[Proxy], None]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    strike(proxy)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    if proxy.refuses:
        assert await exchange(proxy, b"abc") == b""
        proxy.heal()
    assert await exchange(proxy, b"abc") == b"abc"


async def test_a_delay_only_delays(proxy: Proxy) -> None:
    proxy.delay(0.05)
    assert await exchange(proxy, b"abcdef") == b"abcdef"
