"""A producer and a worker that export their spans: `ADDRESS QUEUE continue|link`.

Two tasks in two calls of one span, and two in a batch of another; each handler fails once.
"""

from __future__ import annotations

import sys
import threading

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from workerqueue import Client, EnqueueItem, SyncTaskContext, Worker
from workerqueue.tasks.v1 import tasks_pb2


def main(address: str, queue: str, tracing: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("shop")
    payload = tasks_pb2.RunFinished(id="payload-canary")
    with Client(address) as client:
        with tracer.start_as_current_span("one by one"):
            client.enqueue(payload, queue=queue)
            client.enqueue_dynamic("runFinished", {"id": "payload-canary"}, queue=queue)
        with tracer.start_as_current_span("at once"):
            client.enqueue_batch([EnqueueItem(payload, queue=queue) for _ in range(2)])

    worker = Worker(address, queues=[queue], tracing=tracing)  # type: ignore[arg-type]
    done = threading.Semaphore(0)

    @worker.handler(tasks_pb2.RunFinished)
    def run(_: tasks_pb2.RunFinished, context: SyncTaskContext) -> None:
        with tracer.start_as_current_span("inside"):
            if context.attempt == 1:
                raise ValueError("error-canary")
        done.release()

    def stop_when_done() -> None:
        for _ in range(4):
            done.acquire()
        worker.stop()

    threading.Thread(target=stop_when_done, daemon=True).start()
    worker.run()
    provider.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
