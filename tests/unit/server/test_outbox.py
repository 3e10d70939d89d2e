"""How what waits for a worker is cut into frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from workerqueue_server.rpc.outbox import Outbox

CLIENT_LIMIT = 4 * 1024 * 1024
# A lease can be as large as payload, checkpoint and metadata together may be.
LARGEST_LEASE = 3 * 1024 * 1024 + 64 * 1024


def emptied(outbox: Outbox) -> list[tuple[bytes, list[bytes]]]:
    frames = []
    while not outbox.is_empty():
        data, leases = outbox.next_frame()
        frames.append((data, [token for token, _ in leases]))
    return frames


@given(
    st.lists(st.integers(1, LARGEST_LEASE) | st.integers(1, 300), max_size=12),
    st.lists(st.integers(1, 130_000), max_size=40),
)
def test_every_frame_fits_and_nothing_is_lost_or_reordered(
    leases: list[int], news: list[int]
) -> None:
    outbox = Outbox()
    outbox.add_news([bytes([n % 256]) * size for n, size in enumerate(news)])
    for n, size in enumerate(leases):
        outbox.add_task(f"token-{n}".encode(), bytes(size))
    frames = emptied(outbox)
    assert all(0 < len(data) < CLIENT_LIMIT for data, _ in frames)
    assert sum(len(data) for data, _ in frames) == sum(leases) + sum(news)
    tokens = [token for _, frame_tokens in frames for token in frame_tokens]
    assert tokens == [f"token-{n}".encode() for n in range(len(leases))]


def test_answers_never_wait_behind_tasks() -> None:
    outbox = Outbox()
    for n in range(5_000):
        outbox.add_task(str(n).encode(), b"t" * 1_000)
    outbox.next_frame()
    outbox.add_news([b"news"])
    data, leases = outbox.next_frame()
    assert data.startswith(b"news")
    assert leases


def test_many_small_tasks_share_a_frame_up_to_a_bound() -> None:
    outbox = Outbox()
    for n in range(2_500):
        outbox.add_task(str(n).encode(), b"t")
    assert [len(tokens) for _, tokens in emptied(outbox)] == [1_000, 1_000, 500]


def test_what_was_not_written_is_known_and_keeps_its_place() -> None:
    outbox = Outbox()
    for token in (b"a", b"b", b"c"):
        outbox.add_task(token, token)
    _, leases = outbox.next_frame()
    outbox.add_task(b"d", b"d")
    outbox.put_back(leases)
    assert outbox.unwritten() == [b"a", b"b", b"c", b"d"]


def test_a_lease_that_ends_before_it_is_written_is_withdrawn() -> None:
    outbox = Outbox()
    for token in (b"a", b"b"):
        outbox.add_task(token, token)
    assert outbox.withdraw(b"a")
    assert not outbox.withdraw(b"a")
    assert outbox.next_frame() == (b"b", [(b"b", b"b")])


async def test_the_writer_is_woken_by_whatever_is_added() -> None:
    outbox = Outbox()
    adds: list[Callable[[], None]] = [
        lambda: outbox.add_news([b"n"]),
        lambda: outbox.add_task(b"t", b"t"),
        outbox.nudge,
    ]
    for add in adds:
        waiting = asyncio.create_task(outbox.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        add()
        await asyncio.wait_for(waiting, 5)
