"""A producer on nothing but the generated stubs, for the conformance kit."""

from __future__ import annotations

import json
import os
import sys
import time

import grpc

from workerqueue.conformance.v1 import conformance_pb2
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import worker_queue_pb2, worker_queue_pb2_grpc

RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def enqueue(
    stub: worker_queue_pb2_grpc.WorkerQueueStub, request: worker_queue_pb2.EnqueueRequest
) -> worker_queue_pb2.EnqueueResponse:
    """Repeats the call until the server has answered: with a task_id it makes one task only."""
    while True:
        try:
            return stub.Enqueue(request, timeout=5.0)
        except grpc.RpcError as error:
            if error.code() not in RETRYABLE:
                raise
            time.sleep(0.2)


def main() -> None:
    """Enqueues one task of the kit's kind, and one of the catalog."""
    with grpc.insecure_channel(os.environ["WORKERQUEUE_ADDRESS"]) as channel:
        stub = worker_queue_pb2_grpc.WorkerQueueStub(channel)
        options = worker_queue_pb2.TaskOptions(queue=os.environ["CONFORMANCE_QUEUE"])
        request = worker_queue_pb2.EnqueueRequest(
            task_id=os.environ["CONFORMANCE_TASK_ID"], options=options
        )
        request.payload.Pack(conformance_pb2.Script(text=os.environ["CONFORMANCE_TEXT"]))
        response = enqueue(stub, request)
        outcome = worker_queue_pb2.EnqueueOutcome.Name(response.outcome)
        sys.stdout.write(
            json.dumps(
                {
                    "event": "enqueued",
                    "task_id": response.task.task_id,
                    "outcome": outcome.removeprefix("ENQUEUE_OUTCOME_"),
                }
            )
            + "\n"
        )

        catalog = worker_queue_pb2.EnqueueRequest(
            options=worker_queue_pb2.TaskOptions(
                queue=options.queue, delay={"seconds": 3600}, tags=["example"]
            )
        )
        catalog.payload.Pack(tasks_pb2.StartRun(id="run_1"))
        enqueue(stub, catalog)


if __name__ == "__main__":
    main()
