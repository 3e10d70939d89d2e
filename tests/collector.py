"""A collector of OTLP over gRPC that keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2


class Span(NamedTuple):
    """A span as it arrived."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    is_error: bool
    links: list[str]
    service: str
    # Everything of it, to look for what must not be there.
    text: str


class Collector:
    """Spans and metrics, oldest first."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        # The last value of each metric by name and attributes; a distribution's count.
        self.metrics: dict[tuple[str, frozenset[tuple[str, Any]]], float] = {}
        self.address = ""

    def named(self, name: str) -> list[Span]:
        """The spans of this name."""
        return [span for span in self.spans if span.name == name]

    def metric(self, name: str, **attributes: Any) -> float:
        """The sum of the metric's series with at least these attributes."""
        return sum(
            value
            for (of, given), value in list(self.metrics.items())
            if of == name and attributes.items() <= dict(given).items()
        )

    def take_traces(self, request: Any, _: Any) -> Any:
        """An export of spans."""
        for of_resource in request.resource_spans:
            service = _attributes(of_resource.resource)["service.name"]
            for scope in of_resource.scope_spans:
                self.spans += [_span(span, service) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def take_metrics(self, request: Any, _: Any) -> Any:
        """An export of metrics."""
        for of_resource in request.resource_metrics:
            for scope in of_resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    for point in data.data_points:
                        value = (
                            point.count
                            if metric.HasField("histogram")
                            else getattr(point, point.WhichOneof("value"))
                        )
                        key = metric.name, frozenset(_attributes(point).items())
                        self.metrics[key] = value
        return metrics_service_pb2.ExportMetricsServiceResponse()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of the loopback interface."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    for service, method, take, request in (
        (
            "opentelemetry.proto.collector.trace.v1.TraceService",
            "Export",
            collector.take_traces,
            trace_service_pb2.ExportTraceServiceRequest,
        ),
        (
            "opentelemetry.proto.collector.metrics.v1.MetricsService",
            "Export",
            collector.take_metrics,
            metrics_service_pb2.ExportMetricsServiceRequest,
        ),
    ):
        handler: Any = grpc.unary_unary_rpc_method_handler(
            take, request.FromString, lambda answer: answer.SerializeToString()
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()


def _attributes(of: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def _span(span: trace_pb2.Span, service: str) -> Span:
    return Span(
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span),
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        [link.span_id.hex() for link in span.links],
        service,
        str(span),
    )
