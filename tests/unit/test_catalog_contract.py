"""The built-in catalog says what the first users' platform expects of it, field by field."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import protovalidate
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import policy_pb2

RUNS, TASKS, QUEUE = "runs-{id}", "tasks-{id}", "queue-{id}"


class Kind(NamedTuple):
    """A line of the catalog. `payload`: the smallest accepted one; `optional`: all other fields."""

    name: str
    payload: dict[str, Any]
    optional: dict[str, Any]
    queue: str
    priority: int
    max_attempts: int
    timeout_seconds: int
    concurrency_key: str = ""


ID = {"id": "abc"}
EMAIL = {"to": "ada@example.com", "subject": "Hello", "html": "<p>Hi</p>", "text": "Hi"}
PUSH = {"branch": "main", "commitSha": "0123abc", "repository": "acme/site"}
OAUTH = {"organizationId": "org", "connectionId": "con"}
SOURCE = {"source": "HOOK", "sourceData": {"a": [1, None, "x"]}, "reason": "because"}


def declared(field: str) -> dict[str, Any]:
    return {"endpointId": "end", field: {"id": "x", "nested": {"list": [1.0, True]}}}


CATALOG = [
    Kind("organizationCreated", ID, {}, "internal-queue", 50, 3, 60),
    Kind("indexEndpoint", ID, SOURCE, "internal-queue", 0, 3, 300),
    Kind("scheduleEmail", EMAIL, {}, "internal-queue", 100, 3, 30),
    Kind("githubAppInstallationDeleted", ID, {}, "internal-queue", 50, 3, 60),
    Kind("githubPush", PUSH, {}, "internal-queue", 50, 3, 120),
    Kind("stopVM", ID, {}, "internal-queue", 50, 3, 120),
    Kind("startInitialProjectDeployment", ID, {}, "internal-queue", 50, 3, 600),
    Kind("startRun", ID, {}, "executions", 0, 13, 600),
    Kind("performRunExecution", ID, {}, "run-executions", 0, 1, 1800, RUNS),
    Kind("performTaskOperation", ID, {}, "task-operations", 0, 3, 300, TASKS),
    Kind("runFinished", ID, {}, "default", 0, 3, 60),
    Kind("deliverHttpSourceRequest", ID, {}, "default", 0, 5, 30),
    Kind("refreshOAuthToken", OAUTH, {}, "internal-queue", 0, 3, 60),
    Kind("registerJob", declared("job"), {}, "default", 0, 3, 60),
    Kind("registerSource", declared("source"), {}, "default", 0, 3, 60),
    Kind("registerDynamicTrigger", declared("dynamicTrigger"), {}, "default", 0, 3, 60),
    Kind("registerDynamicSchedule", declared("dynamicSchedule"), {}, "default", 0, 3, 60),
    Kind("activateSource", ID, {"orphanedEvents": ["push", "pull"]}, "default", 0, 3, 120),
    Kind("startQueuedRuns", ID, {}, "queue-operations", 0, 3, 300, QUEUE),
    Kind("deliverEvent", ID, {}, "event-dispatcher", 0, 3, 120),
    Kind("events.invokeDispatcher", ID | {"eventRecordId": "rec"}, {}, "default", 0, 3, 30),
    Kind("events.deliverScheduled", ID | {"payload": [1.0, "x"]}, {}, "default", 0, 5, 60),
    Kind("missingConnectionCreated", ID, {}, "default", 0, 3, 30),
    Kind("connectionCreated", ID, {}, "default", 0, 3, 30),
]

QUEUES = {
    "default": 100,
    "executions": 10,
    "run-executions": 8,
    "task-operations": 5,
    "queue-operations": 3,
    "internal-queue": 3,
    "event-dispatcher": 8,
}

each_kind = pytest.mark.parametrize("kind", CATALOG, ids=[kind.name for kind in CATALOG])


def policy_of(message: Descriptor) -> policy_pb2.TaskPolicy:
    options = cast(Any, message.GetOptions())
    assert options.HasExtension(policy_pb2.task), f"{message.name} carries no policy"
    return cast(policy_pb2.TaskPolicy, options.Extensions[policy_pb2.task])


def kind_name(message: Descriptor) -> str:
    return policy_of(message).kind or message.name[0].lower() + message.name[1:]


MESSAGES = {
    kind_name(message): message for message in tasks_pb2.DESCRIPTOR.message_types_by_name.values()
}


def parse(kind: str, payload: dict[str, Any]) -> Message:
    return ParseDict(payload, GetMessageClass(MESSAGES[kind])())


def violated_fields(message: Message) -> set[str]:
    """The names of the fields that break a rule; an empty one for a rule of the whole message."""
    paths = [v.proto.field for v in protovalidate.collect_violations(message)]
    return {".".join(e.field_name for e in path.elements) if path else "" for path in paths}


def test_the_catalog_has_exactly_these_kinds() -> None:
    assert sorted(MESSAGES) == sorted(kind.name for kind in CATALOG)
    assert len(MESSAGES) == 24


@each_kind
def test_policy(kind: Kind) -> None:
    assert policy_of(MESSAGES[kind.name]) == policy_pb2.TaskPolicy(
        kind=kind.name if "." in kind.name else "",
        queue=kind.queue,
        priority=kind.priority,
        max_attempts=kind.max_attempts,
        timeout={"seconds": kind.timeout_seconds},
        concurrency_key=kind.concurrency_key,
    )


@each_kind
def test_json_names(kind: Kind) -> None:
    fields = {field.json_name for field in MESSAGES[kind.name].fields}
    assert fields == set(kind.payload) | set(kind.optional)


@each_kind
def test_payloads_keep_their_json_and_are_accepted(kind: Kind) -> None:
    for payload in (kind.payload, kind.payload | kind.optional):
        message = parse(kind.name, payload)
        assert MessageToDict(message) == payload
        assert violated_fields(message) == set()


@each_kind
def test_every_required_field_is_required(kind: Kind) -> None:
    may_be_left_out = {"html", "text"}
    for field in set(kind.payload) - may_be_left_out:
        rest = {name: value for name, value in kind.payload.items() if name != field}
        descriptor = next(f for f in MESSAGES[kind.name].fields if f.json_name == field)
        assert violated_fields(parse(kind.name, rest)) == {descriptor.name}


@each_kind
def test_ids_are_bounded(kind: Kind) -> None:
    ids = [
        field
        for field in MESSAGES[kind.name].fields
        if field.name == "id" or field.name.endswith("_id")
    ]
    for field in ids:
        assert field.type == FieldDescriptor.TYPE_STRING
        assert (
            violated_fields(parse(kind.name, kind.payload | {field.json_name: "x" * 256})) == set()
        )
        too_long = parse(kind.name, kind.payload | {field.json_name: "x" * 257})
        assert violated_fields(too_long) == {field.name}


@pytest.mark.parametrize("source", ["MANUAL", "API", "INTERNAL", "HOOK"])
def test_index_endpoint_takes_the_sources_of_the_source_system(source: str) -> None:
    assert violated_fields(parse("indexEndpoint", ID | {"source": source})) == set()


@pytest.mark.parametrize("source", ["hook", "OTHER"])
def test_index_endpoint_refuses_other_sources(source: str) -> None:
    assert violated_fields(parse("indexEndpoint", ID | {"source": source})) == {"source"}


@pytest.mark.parametrize("to", ["", "ada", "ada@", "a b@example.com"])
def test_an_email_needs_an_address(to: str) -> None:
    assert violated_fields(parse("scheduleEmail", EMAIL | {"to": to})) == {"to"}


@pytest.mark.parametrize("subject", ["a\nBcc: eve@example.com", "x" * 999])
def test_an_email_has_a_subject_of_one_line(subject: str) -> None:
    assert violated_fields(parse("scheduleEmail", EMAIL | {"subject": subject})) == {"subject"}


def test_an_email_needs_a_body_of_one_form() -> None:
    assert violated_fields(parse("scheduleEmail", EMAIL | {"html": ""})) == set()
    assert violated_fields(parse("scheduleEmail", EMAIL | {"text": ""})) == set()
    assert violated_fields(parse("scheduleEmail", EMAIL | {"html": "", "text": ""})) == {""}


@pytest.mark.parametrize("payload", [None, False, 0.0, "", [], {}])
def test_a_scheduled_event_may_carry_any_json(payload: object) -> None:
    message = parse("events.deliverScheduled", ID | {"payload": payload})
    assert violated_fields(message) == set()
    assert MessageToDict(message)["payload"] == payload


def test_a_registered_job_may_be_an_empty_object() -> None:
    assert violated_fields(parse("registerJob", {"endpointId": "end", "job": {}})) == set()


def test_the_queues_of_the_catalog_are_declared_with_their_limits() -> None:
    options = cast(Any, tasks_pb2.DESCRIPTOR.GetOptions())
    queues = list(options.Extensions[policy_pb2.queues])
    assert {queue.name: queue.max_in_flight_per_worker for queue in queues} == QUEUES
    assert len(queues) == len(QUEUES)
    assert all(queue.max_in_flight == 0 for queue in queues)
    assert {kind.queue for kind in CATALOG} == set(QUEUES)
