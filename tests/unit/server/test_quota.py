"""Streams are counted while they are open, per principal and in all."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from workerqueue_server.queue.errors import Overloaded
from workerqueue_server.queue.quota import CallQuota, StreamQuota


def test_one_principal_cannot_take_the_others_places() -> None:
    quota = StreamQuota(total=3, each=2)
    with ExitStack() as open_streams:
        open_streams.enter_context(quota.stream("a"))
        open_streams.enter_context(quota.stream("a"))
        with pytest.raises(Overloaded), quota.stream("a"):
            pass
        with quota.stream("b"), pytest.raises(Overloaded), quota.stream("c"):
            pass
        with quota.stream("c"):
            pass
    with quota.stream("a"), quota.stream("a"):
        pass


def test_whoever_has_no_name_shares_what_there_is() -> None:
    quota = StreamQuota(total=3, each=1)
    with ExitStack() as open_streams:
        for _ in range(3):
            open_streams.enter_context(quota.stream(""))
        with pytest.raises(Overloaded), quota.stream("a"):
            pass


def test_a_stream_that_fails_gives_its_place_back() -> None:
    quota = StreamQuota(total=1, each=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), quota.stream("a"):
            raise ValueError("broken")


def test_calls_are_counted_while_they_wait() -> None:
    quota = CallQuota(total=2)
    with quota.call():
        with quota.call(), pytest.raises(Overloaded), quota.call():
            pass
        with pytest.raises(ValueError, match="broken"), quota.call():
            raise ValueError("broken")
        with quota.call():
            pass
