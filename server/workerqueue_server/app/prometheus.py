"""The figures over HTTP, for Prometheus to scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from workerqueue_server.telemetry.figures import Bins, Counter, Distribution, Figure
from workerqueue_server.telemetry.instruments import FIGURES

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# OpenTelemetry's rules for names in Prometheus: the unit ends the name, a mere word is left out.
_UNITS = {"s": "_seconds"}


def metric_name(figure: Figure) -> str:
    """The figure's name in Prometheus; a distribution's series add `_bucket`, `_sum`, `_count`."""
    name = figure.about.name.replace(".", "_") + _UNITS.get(figure.about.unit, "")
    return f"{name}_total" if isinstance(figure, Counter) else name


class Endpoint:
    """An HTTP server on a thread of its own."""

    def __init__(self, address: str) -> None:
        """Listens on host:port. Raises OSError, or ImportError without prometheus-client."""
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

        registry = CollectorRegistry()
        registry.register(_Figures())
        ProcessCollector(registry=registry)
        host, _, port = address.rpartition(":")
        try:
            self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise OSError(f"cannot listen on {address}: {error.strerror}") from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Figures:
    """prometheus_client's collector of the server's figures."""

    def collect(self) -> Iterator[Metric]:
        """All of them as they are now."""
        return map(_family, FIGURES)

    def describe(self) -> Iterable[Metric]:
        """Their names are no surprise to the registry: it need not read them to learn them."""
        return ()


def _family(figure: Figure) -> Metric:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    name, about = metric_name(figure), figure.about
    if isinstance(figure, Distribution):
        histogram = HistogramMetricFamily(name, about.description, labels=about.attributes)
        bounds = [*(f"{bound:g}" for bound in figure.bounds), "+Inf"]
        for values, bins in figure.points().items():
            histogram.add_metric(values, _buckets(bounds, bins), bins.total)
        return histogram
    family = (CounterMetricFamily if isinstance(figure, Counter) else GaugeMetricFamily)(
        name, about.description, labels=about.attributes
    )
    for values, value in figure.points().items():
        family.add_metric(values, value)
    return family


def _buckets(bounds: list[str], bins: Bins) -> list[tuple[str, int]]:
    return list(zip(bounds, bins.cumulative(), strict=True))
