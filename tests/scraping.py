"""Reading what a server serves for Prometheus."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import ServerProcess


class Series(NamedTuple):
    """One line of a scrape."""

    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """What an endpoint told at one moment."""

    def __init__(self, text: str) -> None:
        self.series = [
            Series(sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def find(self, name: str, **labels: str) -> Iterator[Series]:
        """The series of a name with at least these labels."""
        for series in self.series:
            if series.name == name and labels.items() <= series.labels.items():
                yield series

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series of a name with at least these labels."""
        return sum(series.value for series in self.find(name, **labels))


def endpoints(server: ServerProcess) -> list[str]:
    """Where the server's processes serve metrics, as they have logged."""
    return re.findall(r"metrics on (http://\S+/metrics)", server.log())


def scrape(url: str) -> Scrape:
    """The endpoint's figures now."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        return Scrape(answer.read().decode())
