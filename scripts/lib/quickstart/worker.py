"""The tour's worker process: it can run every kind.

`python -m quickstart.worker NAME`, with the server's address in `WORKERQUEUE_ADDRESS`.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from quickstart.story import ALWAYS_FAILS, FAILS_TWICE, HANGS_ONCE, MISHAP
from workerqueue import TaskContext, Worker
from workerqueue.tasks.v1 import tasks_pb2 as tasks

# What each kind's handler says it did, and how many seconds it pretends to need.
_WORK: dict[type[Message], tuple[float, str]] = {
    tasks.OrganizationCreated: (0.02, "workspace prepared"),
    tasks.IndexEndpoint: (0.15, "4 jobs, 2 sources found"),
    tasks.ScheduleEmail: (0.05, "accepted by the mail server"),
    tasks.GithubAppInstallationDeleted: (0.03, "3 repositories disconnected"),
    tasks.GithubPush: (0.08, "deployment started"),
    tasks.StopVM: (0.12, "stopped"),
    tasks.StartInitialProjectDeployment: (0.20, "deployed"),
    tasks.StartRun: (0.04, "first execution enqueued"),
    tasks.PerformRunExecution: (0.25, "5 tasks of the run done"),
    tasks.PerformTaskOperation: (0.06, "fetched"),
    tasks.RunFinished: (0.02, "subscribers told"),
    tasks.DeliverHttpSourceRequest: (0.07, "200 OK"),
    tasks.RefreshOAuthToken: (0.09, "valid for another hour"),
    tasks.RegisterJob: (0.02, "registered"),
    tasks.RegisterSource: (0.02, "registered"),
    tasks.RegisterDynamicTrigger: (0.02, "registered"),
    tasks.RegisterDynamicSchedule: (0.02, "registered"),
    tasks.ActivateSource: (0.10, "webhook created"),
    tasks.StartQueuedRuns: (0.05, "2 runs started"),
    tasks.DeliverEvent: (0.04, "1 dispatcher invoked"),
    tasks.InvokeDispatcher: (0.03, "run created"),
    tasks.DeliverScheduled: (0.03, "event sent"),
    tasks.MissingConnectionCreated: (0.02, "owner told"),
    tasks.ConnectionCreated: (0.02, "1 waiting run continued"),
}
_STEPS = 5


async def _handle(payload: Message, context: TaskContext) -> StringValue:
    mishap = context.metadata.get(MISHAP)
    if mishap == FAILS_TWICE and context.attempt <= 2:
        raise ConnectionError("the endpoint answered 503 Service Unavailable")
    if mishap == ALWAYS_FAILS:
        raise RuntimeError("mailbox full")
    if mishap == HANGS_ONCE:
        return await _work_in_steps(context)
    seconds, result = _WORK[type(payload)]
    await asyncio.sleep(seconds)
    return StringValue(value=result)


async def _work_in_steps(context: TaskContext) -> StringValue:
    """Long work that stores how far it got; the first attempt stays in the middle."""
    done = context.checkpoint(Int32Value)
    first = done.value if done is not None else 0
    for step in range(first, _STEPS):
        if context.attempt == 1 and step == 3:
            context.progress(step / _STEPS, f"step {step} of {_STEPS}")
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)
        await context.save_checkpoint(Int32Value(value=step + 1))
    return StringValue(value=f"went on at step {first}")


def main() -> None:
    """Works until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = Worker(worker_id=sys.argv[1], concurrency=10)
    for message_class in _WORK:
        worker.register(message_class, _handle)
    worker.run()


if __name__ == "__main__":
    main()
