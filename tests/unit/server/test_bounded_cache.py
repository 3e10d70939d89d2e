"""A cache whose keys callers choose stays small."""

from __future__ import annotations

from workerqueue_server.rpc.bounded_cache import BoundedCache


def test_it_never_holds_more_entries_than_it_may() -> None:
    cache: BoundedCache[int, str] = BoundedCache(max_entries=3)
    for number in range(10):
        assert cache.keep(number, "value", 5) == "value"
        assert cache[number] == "value"
        assert len(cache) <= 3


def test_it_never_holds_more_bytes_than_it_may() -> None:
    cache: BoundedCache[int, bytes] = BoundedCache(max_bytes=10_000)
    for number in range(100):
        cache.keep(number, bytes(1_000), 1_000)
        assert sum(map(len, cache.values())) <= 10_000
    assert cache


def test_it_begins_to_count_anew_when_it_was_emptied() -> None:
    cache: BoundedCache[int, bytes] = BoundedCache(max_bytes=10_000)
    cache.keep(0, bytes(9_000), 9_000)
    cache.keep(1, bytes(9_000), 9_000)
    assert list(cache) == [1]
    cache.keep(2, b"", 0)
    assert list(cache) == [1, 2]
