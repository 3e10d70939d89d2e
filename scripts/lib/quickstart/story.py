"""The tasks of the tour and how each is to end."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from workerqueue import EnqueueItem, EnqueueOptions, RetryPolicy
from workerqueue.tasks.v1 import tasks_pb2 as tasks
from workerqueue.v1.task_pb2 import TASK_STATE_DEAD, TASK_STATE_SUCCEEDED, TaskState

# Metadata that tells the worker which mishap to act.
MISHAP = "mishap"
FAILS_TWICE = "fails twice"
ALWAYS_FAILS = "always fails"
HANGS_ONCE = "hangs once"

_SOON = RetryPolicy(initial_backoff=0.2, multiplier=2, jitter=0)


@dataclass(frozen=True)
class Scene:
    """One task, and what must become of it."""

    payload: Message
    mishap: str = ""
    options: EnqueueOptions = field(default_factory=lambda: EnqueueOptions())
    state: TaskState = TASK_STATE_SUCCEEDED
    attempts: int = 1

    def item(self) -> EnqueueItem:
        """The task as an item of a batch."""
        options = self.options.copy()
        if self.mishap:
            options["metadata"] = {MISHAP: self.mishap}
        return EnqueueItem(self.payload, **options)


def scenes() -> list[Scene]:
    """One task of each kind, then one for each mishap."""
    return [
        *(Scene(payload) for payload in _one_of_each_kind()),
        Scene(
            tasks.DeliverHttpSourceRequest(id="req_01J9ZC5W8M"),
            FAILS_TWICE,
            EnqueueOptions(retry=_SOON),
            attempts=3,
        ),
        Scene(
            tasks.ScheduleEmail(
                to="grace@example.com", subject="Your weekly report", text="It is attached."
            ),
            ALWAYS_FAILS,
            EnqueueOptions(retry=_SOON),
            state=TASK_STATE_DEAD,
            attempts=3,
        ),
        Scene(
            tasks.StartRun(id="run_01J9ZC6Q2T"),
            HANGS_ONCE,
            # The server waits this long for a heartbeat before it gives the task to another worker.
            EnqueueOptions(retry=_SOON, lease_duration=1.0),
            attempts=2,
        ),
    ]


def _one_of_each_kind() -> list[Message]:
    return [
        tasks.OrganizationCreated(id="org_01J9Z8K2M4"),
        tasks.IndexEndpoint(
            id="endpoint_01J9Z8N7Q1",
            source="HOOK",
            source_data=_value({"deployment": "dpl_8Hq2", "provider": "vercel"}),
            reason="A deployment of the endpoint went live",
        ),
        tasks.ScheduleEmail(
            to="ada@example.com",
            subject="Welcome aboard",
            html="<p>Good to have you here, <b>Ada</b>.</p>",
            text="Good to have you here, Ada.",
        ),
        tasks.GithubAppInstallationDeleted(id="41273855"),
        tasks.GithubPush(
            branch="main",
            commit_sha="9fceb02d0ae598e95dc970b74767f19372d61af8",
            repository="acme/storefront",
        ),
        tasks.StopVM(id="vm_01J9Z9B3R7"),
        tasks.StartInitialProjectDeployment(id="proj_01J9Z9D8W2"),
        tasks.StartRun(id="run_01J9Z9F1X5"),
        tasks.PerformRunExecution(id="run_01J9Z9F1X5"),
        tasks.PerformTaskOperation(id="task_01J9Z9H4V9"),
        tasks.RunFinished(id="run_01J9Z9F1X5"),
        tasks.DeliverHttpSourceRequest(id="req_01J9Z9K6T3"),
        tasks.RefreshOAuthToken(organization_id="org_01J9Z8K2M4", connection_id="conn_01J9Z9M2P8"),
        tasks.RegisterJob(
            endpoint_id="endpoint_01J9Z8N7Q1",
            job=_struct(
                {"id": "sync-orders", "version": "1.2.0", "event": {"name": "order.created"}}
            ),
        ),
        tasks.RegisterSource(
            endpoint_id="endpoint_01J9Z8N7Q1",
            source=_struct({"key": "github.issues", "channel": "HTTP", "events": ["opened"]}),
        ),
        tasks.RegisterDynamicTrigger(
            endpoint_id="endpoint_01J9Z8N7Q1",
            dynamic_trigger=_struct({"id": "repo-watch", "jobs": [{"id": "triage"}]}),
        ),
        tasks.RegisterDynamicSchedule(
            endpoint_id="endpoint_01J9Z8N7Q1",
            dynamic_schedule=_struct({"id": "per-user-digest", "jobs": [{"id": "digest"}]}),
        ),
        tasks.ActivateSource(id="src_01J9Z9R5N6", orphaned_events=["issues.closed"]),
        tasks.StartQueuedRuns(id="queue_01J9Z9T7L4"),
        tasks.DeliverEvent(id="evt_01J9Z9W1K2"),
        tasks.InvokeDispatcher(id="disp_01J9Z9Y8J5", event_record_id="evt_01J9Z9W1K2"),
        tasks.DeliverScheduled(
            id="sched_01J9ZA2H9",
            payload=_value({"ts": "2026-01-05T09:00:00Z", "lastTimestamp": None}),
        ),
        tasks.MissingConnectionCreated(id="missing_01J9ZA4G3"),
        tasks.ConnectionCreated(id="conn_01J9Z9M2P8"),
    ]


def _struct(fields: dict[str, object]) -> Struct:
    return ParseDict(fields, Struct())


def _value(fields: dict[str, object]) -> Value:
    return Value(struct_value=_struct(fields))
