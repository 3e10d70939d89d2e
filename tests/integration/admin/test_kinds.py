"""Task kinds as an operator sees them."""

from __future__ import annotations

import json

from tests.integration.admin.toolkit import Admin
from tests.toolkit import Api, dynamic, refused
from workerqueue.v1 import queue_admin_pb2


async def kinds(admin: Admin) -> dict[str, queue_admin_pb2.TaskKind]:
    found: dict[str, queue_admin_pb2.TaskKind] = {}
    token = ""
    while True:
        page = await admin.stub.ListKinds(
            queue_admin_pb2.ListKindsRequest(page_size=7, page_token=token)
        )
        assert len(page.kinds) <= 7
        found.update((kind.kind, kind) for kind in page.kinds)
        token = page.next_page_token
        if not token:
            assert list(found) == sorted(found)
            return found


async def test_every_kind_is_listed_with_its_policy_and_fields(admin: Admin) -> None:
    found = await kinds(admin)
    assert len(found) == 24
    execution = found["performRunExecution"]
    assert execution.payload_type == "workerqueue.tasks.v1.PerformRunExecution"
    assert execution.known_here
    policy = execution.policy
    assert (policy.queue, policy.max_attempts, policy.timeout.seconds) == (
        "run-executions",
        1,
        1800,
    )
    assert (policy.concurrency_key, policy.concurrency_limit) == ("runs-{id}", 1)
    assert policy.lease_duration.seconds == 30
    assert policy.retention.dead.seconds == 14 * 86_400
    fields = {field.name: field for field in found["githubPush"].fields}
    assert fields["commit_sha"].json_name == "commitSha"
    assert fields["commit_sha"].type == "string"
    endpoint = {field.name: field for field in found["indexEndpoint"].fields}
    assert list(endpoint["source"].allowed_values) == ["MANUAL", "API", "INTERNAL", "HOOK"]
    orphaned = next(f for f in found["activateSource"].fields if f.name == "orphaned_events")
    assert orphaned.type == "repeated string"


async def test_every_example_can_be_enqueued(api: Api, admin: Admin, queue: str) -> None:
    for name, kind in (await kinds(admin)).items():
        example = json.loads(kind.example_json)
        assert set(example) == {field.json_name for field in kind.fields}, name
        answer = await api.send(dynamic(name, example, queue=queue))
        assert answer.task.kind == name


async def test_a_negative_page_size_is_refused(admin: Admin) -> None:
    problem = await refused(admin.stub.ListKinds(queue_admin_pb2.ListKindsRequest(page_size=-1)))
    assert set(problem.fields) == {"page_size"}
