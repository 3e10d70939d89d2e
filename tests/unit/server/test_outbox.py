"""How what waits for a worker is cut into frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerqueue_server.rpc.outbox import Leases, Outbox

CLIENT_LIMIT = 4 * 1024 * 1024
# A lease can be as large as payload, checkpoint and metadata together may be.
LARGEST_LEASE = 3 * 1024 * 1024 + 64 * 1024


def emptied(outbox: Outbox) -> list[tuple[bytes, list[bytes]]]:
    frames = []
    while not outbox.is_empty():
        data, leases = outbox.next_frame()
        frames.append((data, [token for some in leases for token in some.tokens]))
    return frames


@given(
    st.lists(st.integers(1, LARGEST_LEASE) | st.integers(1, 300), max_size=12),
    st.lists(st.integers(1, 130_000), max_size=40),
    st.lists(st.integers(0, 12), max_size=4),
)
def test_every_frame_fits_and_nothing_is_lost_or_reordered(
    leases: list[int], news: list[int], cuts: list[int]
) -> None:
    outbox = Outbox()
    outbox.add_news([bytes([n % 256]) * size for n, size in enumerate(news)])
    cuts = sorted({cut for cut in cuts if cut < len(leases)} | {0, len(leases)})
    for start, end in pairwise(cuts):
        outbox.add_tasks(
            [f"token-{n}".encode() for n in range(start, end)],
            [bytes(size) for size in leases[start:end]],
        )
    frames = emptied(outbox)
    assert all(0 < len(data) < CLIENT_LIMIT for data, _ in frames)
    assert sum(len(data) for data, _ in frames) == sum(leases) + sum(news)
    tokens = [token for _, frame_tokens in frames for token in frame_tokens]
    assert tokens == [f"token-{n}".encode() for n in range(len(leases))]


def test_answers_never_wait_behind_tasks() -> None:
    outbox = Outbox()
    outbox.add_tasks([str(n).encode() for n in range(5_000)], [b"t" * 1_000] * 5_000)
    outbox.next_frame()
    outbox.add_news([b"news"])
    data, leases = outbox.next_frame()
    assert data.startswith(b"news")
    assert leases


def test_tasks_go_with_answers_however_many_those_are() -> None:
    outbox = Outbox()
    outbox.add_tasks([b"token"], [b"t" * 1_000])
    outbox.add_news([b"n" * 100_000] * 30)
    data, leases = outbox.next_frame()
    assert data.startswith(b"n")
    assert [some.tokens for some in leases] == [[b"token"]]


def test_results_that_nobody_reads_are_noticed_until_they_are_written() -> None:
    outbox = Outbox()
    outbox.add_news([bytes(1024 * 1024)] * 4)
    assert not outbox.is_overfull
    outbox.add_news([b"n"])
    assert outbox.is_overfull
    outbox.next_frame()
    assert not outbox.is_overfull


@pytest.mark.parametrize("together", [1, 700, 2_500])
def test_many_small_tasks_share_a_frame_up_to_a_bound(together: int) -> None:
    outbox = Outbox()
    for start in range(0, 2_500, together):
        names = [str(n).encode() for n in range(start, min(start + together, 2_500))]
        outbox.add_tasks(names, [b"t"] * len(names))
    sizes = [len(tokens) for _, tokens in emptied(outbox)]
    assert sum(sizes) == 2_500
    assert max(sizes) <= 1_000
    assert len(sizes) <= 4


def test_what_was_not_written_is_known_and_keeps_its_place() -> None:
    outbox = Outbox()
    for token in (b"a", b"b", b"c"):
        outbox.add_tasks([token], [token])
    _, leases = outbox.next_frame()
    outbox.add_tasks([b"d"], [b"d"])
    outbox.put_back(leases)
    assert outbox.unwritten() == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("together", [True, False])
def test_a_lease_that_ends_before_it_is_written_is_withdrawn(together: bool) -> None:
    outbox = Outbox()
    names = [b"a", b"b"]
    for some in [names] if together else [[name] for name in names]:
        outbox.add_tasks(list(some), list(some))
    assert outbox.withdraw(b"a")
    assert not outbox.withdraw(b"a")
    assert outbox.next_frame() == (b"b", [Leases([b"b"], [b"b"], 1)])
    assert outbox.is_empty()


async def test_the_writer_is_woken_by_whatever_is_added() -> None:
    outbox = Outbox()
    adds: list[Callable[[], None]] = [
        lambda: outbox.add_news([b"n"]),
        lambda: outbox.add_tasks([b"t"], [b"t"]),
        outbox.nudge,
    ]
    for add in adds:
        waiting = asyncio.create_task(outbox.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        add()
        await asyncio.wait_for(waiting, 5)
