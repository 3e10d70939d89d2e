"""The part of WorkerQueueAdmin that is about task kinds."""

from __future__ import annotations

from typing import Any

import grpc

from workerqueue.v1 import policy_pb2
from workerqueue.v1 import queue_admin_pb2 as pb
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.policy import DEFAULT_RETENTION
from workerqueue_server.rpc.frames import milliseconds
from workerqueue_server.rpc.handlers import Context, unary
from workerqueue_server.rpc.pages import NamePages, read_page_size
from workerqueue_server.rpc.payload_examples import example_payload, payload_fields
from workerqueue_server.rpc.views import add_policies
from workerqueue_server.store.reads import Record

_PAGES = NamePages(b"kinds")


class KindAdminMethods:
    """Validates, reads, answers."""

    def __init__(self, engine: Engine) -> None:
        self._reads = engine.reads
        self._catalog = engine.catalog
        self._examples: dict[str, str] = {}

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods' handlers by name."""
        return {"ListKinds": unary(self.list_kinds, pb.ListKindsRequest)}

    async def list_kinds(self, request: pb.ListKindsRequest, _: Context) -> pb.ListKindsResponse:
        size = read_page_size(request.page_size)
        # One more than asked for tells whether there is a next page.
        records = await self._reads.fetch(
            "list_kinds", {"after": _PAGES.after(request.page_token), "limit": size + 1}
        )
        return pb.ListKindsResponse(
            kinds=[self._view(record) for record in records[:size]],
            next_page_token=_PAGES.token([record["kind"] for record in records], size),
        )

    def _view(self, record: Record) -> pb.TaskKind:
        view = pb.TaskKind(
            kind=record["kind"],
            payload_type=record["type_name"],
            policy=_policy_view(record["kind"], record["policy"]),
        )
        kind = self._catalog.kinds.get(record["kind"])
        if kind is not None:
            if kind.name not in self._examples:
                self._examples[kind.name] = example_payload(kind, self._catalog)
            view.known_here = True
            view.fields.extend(payload_fields(kind.descriptor))
            view.example_json = self._examples[kind.name]
        return view


def _policy_view(kind: str, policy: dict[str, Any]) -> policy_pb2.TaskPolicy:
    view = policy_pb2.TaskPolicy(
        kind=kind,
        queue=policy["queue"],
        priority=policy["priority"],
        max_attempts=policy["max_attempts"],
        timeout=milliseconds(policy["timeout_ms"]),
        lease_duration=milliseconds(policy["lease_duration_ms"]),
        concurrency_key=policy["concurrency_key"],
        concurrency_limit=policy["concurrency_limit"],
        job_key=policy.get("job_key", ""),
        job_key_mode=f"JOB_KEY_MODE_{policy.get('job_key_mode', 'replace').upper()}",
    )
    retention = policy["retention"] or (None,) * len(DEFAULT_RETENTION)
    add_policies(
        view,
        {
            "retry_policy": policy["retry"],
            "retention": [
                default if seconds is None else seconds
                for seconds, default in zip(retention, DEFAULT_RETENTION, strict=True)
            ],
        },
    )
    return view
