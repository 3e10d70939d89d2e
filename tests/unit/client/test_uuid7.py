"""The ids that clients make."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from workerqueue import uuid7


def test_layout_is_rfc_9562_version_7() -> None:
    before = time.time_ns() // 1_000_000
    text = uuid7()
    after = time.time_ns() // 1_000_000
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert before <= parsed.int >> 80 <= after + 1


def test_ids_increase_within_a_process() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_increase_when_the_clock_stands_still_or_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    later = [uuid7() for _ in range(100)]
    assert [first, *later] == sorted([first, *later])


def test_threads_never_share_an_id() -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend([uuid7() for _ in range(2_000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8_000
