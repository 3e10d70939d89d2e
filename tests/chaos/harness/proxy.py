"""A TCP proxy that misbehaves on request, each direction for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

_CHUNK = 65_536


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


BOTH = (Direction.TO_SERVER, Direction.TO_CLIENT)


@dataclass
class Behaviour:
    """How one direction treats bytes."""

    # Each chunk waits so long.
    delay_seconds: float = 0.0
    # Bytes are taken and forgotten; the connection stays open.
    swallows: bool = False
    # After so many more bytes, in the middle of whatever they are, the connection is cut.
    cut_after: int | None = None


class Proxy:
    """Listens on a port of its own and passes connections on to `target`.

    Invariant: without a fault every byte passes in order; with one, what a peer gets is a prefix of
    what was sent. Bytes are never altered, reordered or made up: TCP does not do that either.
    """

    def __init__(self, name: str, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self.name = name
        # Connections that are made later go to whatever stands here then.
        self.target = target
        self._host = host
        self.port = 0
        self.refuses = False
        self._behaviours = {direction: Behaviour() for direction in Direction}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{self._host}:{self.port}"

    def cut(self) -> None:
        """Resets every connection; new ones are served."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse(self) -> None:
        """Resets every connection and every new one, until healed."""
        self.refuses = True
        self.cut()

    def delay(self, seconds: float, directions: Iterable[Direction] = BOTH) -> None:
        """Each chunk waits so long before it passes."""
        for direction in directions:
            self._behaviours[direction].delay_seconds = seconds

    def swallow(self, directions: Iterable[Direction] = BOTH) -> None:
        """A black hole: connections stay open, new ones too, and nothing passes.

        What a black hole took is gone, so `heal` cuts the connections: a peer must not see the
        rest of a stream whose middle is missing.
        """
        for direction in directions:
            self._behaviours[direction].swallows = True

    def truncate(self, after_bytes: int, directions: Iterable[Direction] = BOTH) -> None:
        """Lets so many more bytes of each connection pass, then cuts it; new ones too."""
        for direction in directions:
            self._behaviours[direction].cut_after = after_bytes

    def heal(self) -> None:
        """Behaves again."""
        swallowed = any(behaviour.swallows for behaviour in self._behaviours.values())
        self.refuses = False
        self._behaviours = {direction: Behaviour() for direction in Direction}
        if swallowed:
            self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._writers.add(writer)
        opened = [writer]
        try:
            if self.refuses:
                return
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            opened.append(far_writer)
            self._writers.add(far_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, far_writer, Direction.TO_SERVER)),
                asyncio.create_task(self._pump(far_reader, writer, Direction.TO_CLIENT)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in opened:
                self._writers.discard(each)
                # Unlike `cut`: what is under way still arrives.
                each.close()
            self._serving.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        passed: int | None = None
        while chunk := await reader.read(_CHUNK):
            behaviour = self._behaviours[direction]
            if behaviour.delay_seconds:
                await asyncio.sleep(behaviour.delay_seconds)
            if behaviour.swallows:
                continue
            if behaviour.cut_after is None:
                passed = None
            else:
                passed = passed or 0
                chunk = chunk[: behaviour.cut_after - passed]
                passed += len(chunk)
            writer.write(chunk)
            await writer.drain()
            if behaviour.cut_after is not None and (passed or 0) >= behaviour.cut_after:
                return
