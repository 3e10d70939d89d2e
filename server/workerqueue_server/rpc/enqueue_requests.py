"""From an EnqueueRequest to a checked task."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import NamedTuple

from google.protobuf import json_format
from google.protobuf.message import Message

from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.catalog import Catalog, Kind
from workerqueue_server.queue.enqueue import NewTask, Spec, new_task_id
from workerqueue_server.queue.errors import InvalidTask, TooLarge, Violation
from workerqueue_server.queue.key_template import KeyTemplate
from workerqueue_server.queue.policy import (
    DEFAULT_JOB_KEY_MODE,
    Checker,
    read_retention,
    read_retry,
)
from workerqueue_server.rpc.bounded_cache import BoundedCache
from workerqueue_server.rpc.task_ids import read_task_id
from workerqueue_server.rpc.unique_requests import is_wanted, unique_fields, unique_key

_CONCURRENCY = "concurrency key"
_JOB = "job key"
_TWO_KEYS = (
    "cannot be combined with a job key; where the kind's policy has one, set job_key to an empty "
    "string"
)


class Payload(NamedTuple):
    """A payload that has been parsed and validated."""

    kind: Kind
    message: Message
    data: bytes
    field: str


class EnqueueReader:
    """Checks requests against the catalog and turns them into tasks."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        # Equal options share one spec, and so one place in the batch's list of specs.
        self._specs: BoundedCache[tuple[str, bytes], Spec] = BoundedCache()
        # The same for options that say nothing of one task alone: no key, no uniqueness.
        self._plain: BoundedCache[tuple[str, bytes], Spec] = BoundedCache()

    def plain_spec(self, kind: Kind, options: bytes) -> Spec | None:
        """The spec of these options, if they were read before and say all but the payload.

        None where the kind has keys, which come of the payload, and for options that say something
        of one task alone.
        """
        if kind.concurrency_key is not None or kind.job_key is not None:
            return None
        return self._plain.get((kind.name, options))

    def read(
        self, request: worker_queue_pb2.EnqueueRequest, payload: Payload | None = None
    ) -> NewTask:
        """The task; its payload may have been read before.

        Raises InvalidTask, UnknownKind or TooLarge.
        """
        payload = payload or self._payload(request)
        kind = payload.kind
        task_id = read_task_id(request.task_id) if request.task_id else None
        unique = None
        # Most tasks of a batch have the same options, and these cost more to read than to compare.
        # Bytes that differ for equal options (in the order of a map) only cost the reading.
        data = request.options.SerializeToString() if request.HasField("options") else b""
        spec = self._plain.get((kind.name, data))
        if spec is not None:
            key = _policy_key(payload, kind.concurrency_key, _CONCURRENCY)
            job_key = _policy_key(payload, kind.job_key, _JOB)
        else:
            spec, key, job_key, unique = self._read_options(payload, request.options)
            if not _is_of_one_task(request.options):
                self._plain.keep((kind.name, data), spec, len(data) + spec.size)
        return NewTask(
            task_id or new_task_id(),
            task_id is not None,
            spec,
            payload.data,
            key or None,
            job_key or None,
            unique,
        )

    def _read_options(
        self, payload: Payload, options: worker_queue_pb2.TaskOptions
    ) -> tuple[Spec, str | None, str | None, bytes | None]:
        """Spec, concurrency key, job key and unique key. Raises InvalidTask."""
        kind = payload.kind
        spec = self._spec(kind, options)
        if options.HasField("concurrency_key"):
            key: str | None = options.concurrency_key
            _check_key(options.concurrency_key, "options.concurrency_key", _CONCURRENCY)
        else:
            key = _policy_key(payload, kind.concurrency_key, _CONCURRENCY)
        if options.HasField("job_key"):
            job_key: str | None = options.job_key
            _check_key(options.job_key, "options.job_key", _JOB)
        else:
            job_key = _policy_key(payload, kind.job_key, _JOB)
        unique = None
        if options.HasField("unique") and is_wanted(options.unique):
            if job_key:
                raise InvalidTask([Violation("options.unique", _TWO_KEYS)])
            unique = unique_key(
                kind,
                spec.queue,
                payload.message,
                options.unique,
                spec.fields.get("unique_period_ms"),
            )
        return spec, key, job_key, unique

    def _spec(self, kind: Kind, options: worker_queue_pb2.TaskOptions) -> Spec:
        if options.HasField("concurrency_key") or options.HasField("job_key"):
            # The keys are the task's own: without them many tasks share a spec.
            shared = worker_queue_pb2.TaskOptions()
            shared.CopyFrom(options)
            shared.ClearField("concurrency_key")
            shared.ClearField("job_key")
            options = shared
        name = (kind.name, options.SerializeToString(deterministic=True))
        spec = self._specs.get(name)
        if spec is None:
            spec = _spec(kind, options)
            self._specs.keep(name, spec, len(name[1]) + spec.size)
        return spec

    def _payload(self, request: worker_queue_pb2.EnqueueRequest) -> Payload:
        form = request.WhichOneof("payload_form")
        if form == "payload":
            packed = request.payload
            kind = self._catalog.by_type_url(packed.type_url, "payload.type_url")
            data = packed.value
            _check_size(len(data), "payload")
            return Payload(kind, self._catalog.parse(kind, data, "payload"), data, "payload")
        if form == "dynamic":
            kind = self._catalog.by_name(request.dynamic.kind, "dynamic.kind")
            try:
                args = json_format.MessageToDict(request.dynamic.args)
            except (ValueError, RecursionError) as error:
                # What a Struct can hold and JSON cannot.
                raise InvalidTask(
                    [Violation("dynamic.args", "NaN and infinite numbers have no JSON form")],
                    payload=True,
                ) from error
            message = self._catalog.parse_json(kind, args, "dynamic.args")
            data = message.SerializeToString()
            _check_size(len(data), "dynamic.args")
            return Payload(kind, message, data, "dynamic.args")
        raise InvalidTask([Violation("payload", "is required: set payload or dynamic")])


def _is_of_one_task(options: worker_queue_pb2.TaskOptions) -> bool:
    return (
        options.HasField("concurrency_key")
        or options.HasField("job_key")
        or options.HasField("unique")
    )


def _check_size(size: int, field: str) -> None:
    if size > bounds.PAYLOAD_BYTES:
        raise TooLarge(
            field, f"the payload has {size} bytes; at most {bounds.PAYLOAD_BYTES} can be delivered"
        )


def _policy_key(payload: Payload, template: KeyTemplate | None, name: str) -> str | None:
    if template is None:
        return None
    key = template.render(payload.message)
    _check_key(key, payload.field, name)
    if not key:
        raise InvalidTask(
            [Violation(payload.field, f"makes the {name} of this kind empty")], payload=True
        )
    return key


def _check_key(key: str, field: str, name: str) -> None:
    if len(key.encode()) > bounds.KEY_BYTES:
        raise InvalidTask([Violation(field, f"the {name} is longer than {bounds.KEY_BYTES} bytes")])
    if "\x00" in key:
        raise InvalidTask([Violation(field, f"the {name} must not hold NUL")])


def _spec(kind: Kind, options: worker_queue_pb2.TaskOptions) -> Spec:
    policy = kind.policy
    check = Checker("options.")
    spec = Spec(
        queue=check.queue("queue", options.queue) if options.queue else policy.queue,
        kind=kind.name,
        priority=(
            check.number("priority", options.priority, bounds.PRIORITY)
            if options.HasField("priority")
            else policy.priority
        ),
        max_attempts=(
            check.number("max_attempts", options.max_attempts, bounds.MAX_ATTEMPTS)
            if options.max_attempts
            else policy.max_attempts
        ),
        timeout_ms=(
            check.milliseconds("timeout", options.timeout, bounds.TIMEOUT_MS)
            if options.HasField("timeout")
            else policy.timeout_ms
        ),
        lease_duration_ms=(
            check.milliseconds("lease_duration", options.lease_duration, bounds.LEASE_DURATION_MS)
            if options.HasField("lease_duration")
            else policy.lease_duration_ms
        ),
        concurrency_limit=(
            check.number("concurrency_limit", options.concurrency_limit, bounds.CONCURRENCY_LIMIT)
            if options.concurrency_limit
            else policy.concurrency_limit
        ),
        fields=_more_fields(kind, options, check),
    )
    if check.violations:
        raise InvalidTask(check.violations)
    return replace(spec, size=_size_of(spec.fields))


def _size_of(value: object) -> int:
    """The bytes of memory that a value of the kinds that JSON knows takes."""
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        size += sum([_size_of(key) + _size_of(item) for key, item in value.items()])
    elif isinstance(value, list):
        size += sum(map(_size_of, value))
    return size


def _more_fields(
    kind: Kind, options: worker_queue_pb2.TaskOptions, check: Checker
) -> dict[str, object]:
    fields: dict[str, object] = {}
    when = options.WhichOneof("when")
    if when == "run_at":
        fields["run_at"] = check.time("run_at", options.run_at)
    elif when == "delay":
        fields["delay_ms"] = check.milliseconds("delay", options.delay, bounds.DELAY_MS)
    if options.HasField("expire_at"):
        fields["expire_at"] = check.time("expire_at", options.expire_at)
    retry = read_retry(options.retry, check) if options.HasField("retry") else kind.policy.retry
    if retry is not None:
        fields["retry_policy"] = list(retry)
    retention = read_retention(options.retention, kind.policy.retention, check)
    if retention is not None:
        fields["retention"] = list(retention)
    if options.tags:
        fields["tags"] = _tags(options, check)
    if options.metadata:
        fields["metadata"] = _metadata(options, check)
    mode = check.job_key_mode("job_key_mode", options.job_key_mode, kind.policy.job_key_mode)
    if mode != DEFAULT_JOB_KEY_MODE:
        fields["job_key_mode"] = mode
    if options.HasField("unique"):
        fields |= unique_fields(options.unique, check)
    return fields


def _tags(options: worker_queue_pb2.TaskOptions, check: Checker) -> list[str]:
    if len(options.tags) > bounds.TAGS:
        check.fail("tags", f"at most {bounds.TAGS} tags, not {len(options.tags)}")
    for place, tag in enumerate(options.tags):
        if not 1 <= len(tag.encode()) <= bounds.NAME_BYTES or "\x00" in tag:
            check.fail(f"tags[{place}]", f"must be 1 to {bounds.NAME_BYTES} bytes without NUL")
    return list(dict.fromkeys(options.tags))


def _metadata(options: worker_queue_pb2.TaskOptions, check: Checker) -> dict[str, str]:
    metadata = dict(options.metadata)
    if len(metadata) > bounds.METADATA_ENTRIES:
        check.fail("metadata", f"at most {bounds.METADATA_ENTRIES} entries, not {len(metadata)}")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > bounds.METADATA_BYTES:
        check.fail("metadata", f"at most {bounds.METADATA_BYTES} bytes, not {size}")
    for key, value in metadata.items():
        if not 1 <= len(key.encode()) <= bounds.NAME_BYTES or "\x00" in key or "\x00" in value:
            check.fail(
                "metadata", f"keys must be 1 to {bounds.NAME_BYTES} bytes, and nothing may hold NUL"
            )
            break
    return metadata
