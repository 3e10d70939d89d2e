"""Times for people."""

from __future__ import annotations

import pytest

from workerqueue_server.cli.parameters import parse_span
from workerqueue_server.cli.views.times import rate, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0004, "<1ms"),
        (0.25, "250ms"),
        (0.9996, "1s"),
        (3.24, "3.2s"),
        (59.99, "1m"),
        (61, "1m1s"),
        (3600, "1h"),
        (3_661, "1h1m"),
        (86_400, "1d"),
        (90_061, "1d1h"),
        (14 * 86_400, "14d"),
    ],
)
def test_a_span_shows_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize("seconds", [0.25, 3.2, 61, 3_660, 90_000, 14 * 86_400])
def test_what_is_shown_can_be_typed(seconds: float) -> None:
    parsed = parse_span(span(seconds))
    assert parsed is not None
    assert parsed.total_seconds() == seconds


@pytest.mark.parametrize(
    ("value", "text"), [(0, "-"), (0.01, "<0.1/s"), (3.21, "3.2/s"), (12_345.6, "12,346/s")]
)
def test_a_rate_has_as_many_digits_as_it_needs(value: float, text: str) -> None:
    assert rate(value) == text
