"""Figures and spans over OTLP/gRPC.

The SDK and the exporter read the standard variables themselves: OTEL_EXPORTER_OTLP_ENDPOINT and its
kin, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*,
OTEL_METRIC_EXPORT_INTERVAL, OTEL_SDK_DISABLED. Imported only where something is exported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    Sum,
)
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from workerqueue_server.telemetry.figures import Counter, Distribution, Figure, Values
from workerqueue_server.telemetry.instruments import FIGURES
from workerqueue_server.telemetry.spans import Spans

_NAME = "workerqueue"


def resource(server_id: str) -> Resource:
    """What all figures and spans of this server say of it."""
    given = Resource.create({SERVICE_INSTANCE_ID: server_id, "service.version": version(_NAME)})
    if os.environ.get("OTEL_SERVICE_NAME") or SERVICE_NAME in _given_attributes():
        return given
    return given.merge(Resource({SERVICE_NAME: _NAME}))


def _given_attributes() -> str:
    return os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")


def spans(about: Resource) -> tuple[Spans, Callable[[], None]]:
    """The maker of spans, and what sends the rest of them at the end."""
    provider = TracerProvider(resource=about, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Spans(provider.get_tracer(_NAME, version(_NAME))), provider.shutdown


def metrics(about: Resource) -> Callable[[], None]:
    """Sends the figures from now on; what sends them a last time at the end."""
    reader = PeriodicExportingMetricReader(_WithFigures(OTLPMetricExporter()))
    provider = MeterProvider([reader], about, shutdown_on_exit=False)
    started = time.time()

    def uptime(_: CallbackOptions) -> Iterator[Observation]:
        yield Observation(time.time() - started)

    # The reader exports what the SDK measures; the figures travel with it.
    provider.get_meter(_NAME, version(_NAME)).create_observable_gauge(
        f"{_NAME}.uptime", [uptime], "s", "Since the server began to export."
    )
    return provider.shutdown


class _WithFigures(MetricExporter):
    """Adds the figures to what the SDK exports.

    The SDK's own instruments cannot take a distribution of many observations at once, and keep
    every attribute value they ever saw, such as the names of workers long gone.
    """

    def __init__(self, exporter: MetricExporter) -> None:
        super().__init__()
        self._exporter = exporter
        self._started_ns = time.time_ns()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Sends both."""
        now = time.time_ns()
        made = [_metric(figure, self._started_ns, now) for figure in FIGURES]
        figures = [metric for metric in made if metric is not None]
        (of_resource,) = metrics_data.resource_metrics
        scopes = [
            replace(scope, metrics=[*scope.metrics, *figures])
            if scope.scope.name == _NAME
            else scope
            for scope in of_resource.scope_metrics
        ]
        return self._exporter.export(
            MetricsData([replace(of_resource, scope_metrics=scopes)]), timeout_millis, **kwargs
        )

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Sends what waits."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Ends."""
        self._exporter.shutdown(timeout_millis, **kwargs)


def _metric(figure: Figure, started_ns: int, now_ns: int) -> Metric | None:
    about = figure.about

    def attributes(values: Values) -> dict[str, str]:
        return dict(zip(about.attributes, values, strict=True))

    data: Gauge | Sum | Histogram
    if isinstance(figure, Distribution):
        data = Histogram(
            [
                HistogramDataPoint(
                    attributes=attributes(values),
                    start_time_unix_nano=started_ns,
                    time_unix_nano=now_ns,
                    count=sum(bins.counts),
                    sum=bins.total,
                    bucket_counts=bins.counts,
                    explicit_bounds=figure.bounds,
                    # Not kept. In OTLP they are optional; the SDK's class says otherwise.
                    min=None,  # type: ignore[arg-type]
                    max=None,  # type: ignore[arg-type]
                )
                for values, bins in figure.points().items()
            ],
            AggregationTemporality.CUMULATIVE,
        )
    else:
        is_sum = isinstance(figure, Counter)
        points = [
            NumberDataPoint(attributes(values), started_ns if is_sum else 0, now_ns, value)
            for values, value in figure.points().items()
        ]
        data = Sum(points, AggregationTemporality.CUMULATIVE, True) if is_sum else Gauge(points)
    if not data.data_points:
        return None
    return Metric(about.name, about.description, about.unit, data)
