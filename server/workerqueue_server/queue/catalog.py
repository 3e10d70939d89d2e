"""The task kinds: one protobuf message each, with its policy as an option.

Everything about a kind is read from descriptors: the built-in catalog's and those of the descriptor
sets given at start. Nothing here names a kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import protovalidate
from google.protobuf import json_format, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2

from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import error_pb2, policy_pb2, worker_queue_admin_pb2, worker_queue_pb2
from workerqueue_server.queue import bounds, canonical
from workerqueue_server.queue.batch_parser import BatchParser
from workerqueue_server.queue.errors import InvalidTask, TooLarge, UnknownKind, Violation
from workerqueue_server.queue.key_template import KeyTemplate, TemplateError, compile_template
from workerqueue_server.queue.policy import Checker, Policy, read_policy

# Part of every pool, for reflection and for JSON views of results and errors.
_OWN_FILES = (
    tasks_pb2.DESCRIPTOR,
    worker_queue_pb2.DESCRIPTOR,
    worker_queue_admin_pb2.DESCRIPTOR,
    error_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
    wrappers_pb2.DESCRIPTOR,
)
_OWN_PACKAGES = ("workerqueue.v1", "buf.validate", "google.protobuf", "google.rpc")


class CatalogError(Exception):
    """A descriptor set that cannot be used; the message says why."""


@dataclass(frozen=True)
class Kind:
    """A task kind."""

    name: str
    policy: Policy
    descriptor: Descriptor
    message_class: type[Message]
    concurrency_key: KeyTemplate | None
    job_key: KeyTemplate | None

    @property
    def type_name(self) -> str:
        """Full name of the payload message."""
        return str(self.descriptor.full_name)

    @cached_property
    def type_url(self) -> str:
        """What an Any with this payload carries."""
        return f"type.googleapis.com/{self.type_name}"

    def declaration(self) -> dict[str, object]:
        """The policy for the database's table of kinds, with all that an enqueue by SQL needs."""
        templates = {"concurrency_key": self.concurrency_key, "job_key": self.job_key}
        return {
            **self.policy.as_json(),
            "templates": {name: t.pieces for name, t in templates.items() if t is not None},
            "root": self.type_name,
            **canonical.describe(self.descriptor),
        }


@dataclass(frozen=True, slots=True)
class QueueDeclaration:
    """A queue's limits as the contract declares them."""

    name: str
    max_in_flight_per_worker: int | None
    max_in_flight: int | None


class Catalog:
    """All kinds this server knows, and their descriptors."""

    def __init__(self, pool: DescriptorPool, files: Iterable[FileDescriptor]) -> None:
        self.pool = pool
        self.files = tuple(files)
        self.kinds: dict[str, Kind] = {}
        self.queues: dict[str, QueueDeclaration] = {}
        self._by_type: dict[str, Kind] = {}
        self._validator = protovalidate.Validator()
        self._batches = BatchParser(pool, self._validator)
        for file in self.files:
            for message in _messages(file.message_types_by_name.values()):
                self._add_message(message)
            self._add_queues(file)

    @classmethod
    def load(cls, descriptor_sets: Mapping[str, bytes] | None = None) -> Catalog:
        """The built-in catalog and the kinds of the descriptor sets (name to serialized bytes).

        Raises CatalogError for a set that is unreadable, incomplete or contradicts what is loaded.
        """
        pool = DescriptorPool()
        loaded: dict[str, FileDescriptorProto] = {}
        for file in _OWN_FILES:
            _add_own(pool, loaded, file)
        for source, data in (descriptor_sets or {}).items():
            _add_set(pool, loaded, source, data)
        return cls(pool, [pool.FindFileByName(name) for name in loaded])

    def by_name(self, name: str, field: str) -> Kind:
        """The kind of that name. Raises UnknownKind, blaming the request's field."""
        kind = self.kinds.get(name)
        if kind is None:
            raise UnknownKind(field, name, self._nearest(name, self.kinds))
        return kind

    def by_type_url(self, type_url: str, field: str) -> Kind:
        """The kind whose payload has that type. Raises UnknownKind, blaming the request's field."""
        kind = self.find(type_url)
        if kind is None:
            type_name = type_url.rpartition("/")[2]
            raise UnknownKind(field, type_name, self._nearest(type_name, self._by_type))
        return kind

    def find(self, type_url: str) -> Kind | None:
        """The kind whose payload has that type, if there is one."""
        return self._by_type.get(type_url.rpartition("/")[2])

    def parse(self, kind: Kind, data: bytes, field: str) -> Message:
        """The payload from its bytes, validated. Raises InvalidTask."""
        try:
            payload = kind.message_class.FromString(data)
        except DecodeError as error:
            raise InvalidTask(
                [Violation(field, f"the bytes are no {kind.type_name}")], payload=True
            ) from error
        self.validate(payload, field)
        return payload

    def parse_all(self, kind: Kind, delimited: Sequence[bytes]) -> Sequence[Message] | None:
        """Many payloads, each behind its length, validated; None if any is to be refused."""
        return self._batches.parse(kind.message_class, delimited)

    def parse_json(self, kind: Kind, args: Mapping[str, Any], field: str) -> Message:
        """The payload from its JSON form, validated. Raises InvalidTask."""
        payload = kind.message_class()
        try:
            json_format.ParseDict(dict(args), payload, descriptor_pool=self.pool)
        except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
            raise InvalidTask([Violation(field, str(error))], payload=True) from error
        self.validate(payload, field)
        return payload

    def payload_of(self, kind: Kind, args: Mapping[str, Any]) -> bytes:
        """The serialized payload of a task enqueued by SQL. Raises InvalidTask or TooLarge."""
        data = self.parse_json(kind, args, "args").SerializeToString()
        if len(data) > bounds.PAYLOAD_BYTES:
            raise TooLarge(
                "args",
                f"the payload has {len(data)} bytes; at most {bounds.PAYLOAD_BYTES} can be "
                "delivered",
            )
        return data

    def validate(self, payload: Message, field: str) -> None:
        """Applies the payload's buf.validate rules. Raises InvalidTask with every broken one."""
        found = self._validator.collect_violations(payload)
        if found:
            raise InvalidTask(
                [
                    Violation(f"{field}{_path(v)}", v.proto.message or v.proto.rule_id)
                    for v in found
                ],
                payload=True,
            )

    @staticmethod
    def _nearest(name: str, known: Iterable[str]) -> list[str]:
        folded = {candidate.lower(): candidate for candidate in known}
        matches = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
        return [folded[match] for match in matches]

    def _add_message(self, message: Descriptor) -> None:
        option = _task_option(message)
        if option is None:
            return
        check = Checker("")
        policy = read_policy(option, check)
        if check.violations:
            details = "; ".join(f"{v.field} {v.description}" for v in check.violations)
            raise CatalogError(f"policy of {message.full_name}: {details}")
        name = option.kind or message.name[:1].lower() + message.name[1:]
        if len(name.encode()) > 128 or not name.isprintable():
            raise CatalogError(f"kind name of {message.full_name} must be 1 to 128 printable bytes")
        if (other := self.kinds.get(name)) is not None:
            raise CatalogError(
                f"kind {name!r} is claimed by both {other.type_name} and {message.full_name}"
            )
        kind = Kind(
            name,
            policy,
            message,
            GetMessageClass(message),
            _template("concurrency_key", policy.concurrency_key, message),
            _template("job_key", policy.job_key, message),
        )
        try:
            # Compiles the rules now, so that a broken one stops the start and not an Enqueue.
            self._validator.collect_violations(kind.message_class())
        except (protovalidate.CompilationError, protovalidate.EvaluationError) as error:
            raise CatalogError(f"validation rules of {message.full_name}: {error}") from error
        self.kinds[name] = kind
        self._by_type[kind.type_name] = kind

    def _add_queues(self, file: FileDescriptor) -> None:
        declared = cast(Any, file.GetOptions()).Extensions[policy_pb2.queues]
        for queue in cast("list[policy_pb2.QueuePolicy]", declared):
            check = Checker("")
            declaration = QueueDeclaration(
                check.queue("name", queue.name),
                queue.max_in_flight_per_worker or None,
                queue.max_in_flight or None,
            )
            if queue.max_in_flight_per_worker < 0 or queue.max_in_flight < 0:
                check.fail("max_in_flight", "must not be negative")
            if check.violations:
                raise CatalogError(
                    f"queue {queue.name!r} of {file.name}: {check.violations[0].description}"
                )
            if self.queues.setdefault(queue.name, declaration) != declaration:
                raise CatalogError(
                    f"{file.name} declares queue {queue.name!r} with other limits than another file"
                )


def _template(option: str, template: str, message: Descriptor) -> KeyTemplate | None:
    try:
        return compile_template(template, message) if template else None
    except TemplateError as error:
        raise CatalogError(f"{option} of {message.full_name}: {error}") from error


def _task_option(message: Descriptor) -> policy_pb2.TaskPolicy | None:
    options = cast(Any, message.GetOptions())
    if not options.HasExtension(policy_pb2.task):
        return None
    return cast(policy_pb2.TaskPolicy, options.Extensions[policy_pb2.task])


def _messages(messages: Iterable[Descriptor]) -> Iterable[Descriptor]:
    for message in messages:
        yield message
        yield from _messages(message.nested_types)


def _path(violation: protovalidate.Violation) -> str:
    path = ""
    field = violation.proto.field
    for element in field.elements if field is not None else ():
        path += f".{element.field_name}"
        subscript = element.subscript
        if subscript is not None and subscript.field == "index":
            path += f"[{subscript.value}]"
        elif subscript is not None:
            path += f"[{subscript.value!r}]"
    return path


def _add_own(
    pool: DescriptorPool, loaded: dict[str, FileDescriptorProto], file: FileDescriptor
) -> None:
    if file.name in loaded:
        return
    for dependency in file.dependencies:
        _add_own(pool, loaded, dependency)
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    pool.AddSerializedFile(file.serialized_pb)
    loaded[file.name] = proto


def _add_set(
    pool: DescriptorPool, loaded: dict[str, FileDescriptorProto], source: str, data: bytes
) -> None:
    try:
        files = FileDescriptorSet.FromString(data).file
    except DecodeError as error:
        raise CatalogError(
            f"{source} is no descriptor set; make one with `buf build -o {source}` or "
            "`protoc --include_imports --descriptor_set_out`"
        ) from error
    if not files:
        raise CatalogError(f"{source} holds no files")
    waiting = {file.name: file for file in files}
    while waiting:
        ready = [
            file for file in waiting.values() if all(name in loaded for name in file.dependency)
        ]
        if not ready:
            missing = {
                name for file in waiting.values() for name in file.dependency if name not in waiting
            } - loaded.keys()
            raise CatalogError(
                f"{source} lacks imported files: {', '.join(sorted(missing)) or 'a cycle'}; "
                "make it with --include_imports (buf does so by itself)"
            )
        for file in ready:
            del waiting[file.name]
            _add_file(pool, loaded, source, file)


def _add_file(
    pool: DescriptorPool,
    loaded: dict[str, FileDescriptorProto],
    source: str,
    file: FileDescriptorProto,
) -> None:
    known = loaded.get(file.name)
    if known is not None:
        # The contract's own files may come from another release of it; ours counts.
        if file.package not in _OWN_PACKAGES and _stripped(known) != _stripped(file):
            raise CatalogError(f"{source}: {file.name} differs from the file already loaded")
        return
    try:
        pool.AddSerializedFile(file.SerializeToString())
        pool.FindFileByName(file.name)
    except (TypeError, KeyError) as error:
        raise CatalogError(f"{source}: {file.name} contradicts what is loaded: {error}") from error
    loaded[file.name] = file


def _stripped(file: FileDescriptorProto) -> bytes:
    """The file without what compilers are free to leave out: comments and JSON names."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    copy.ClearField("source_code_info")
    _clear_json_names(copy.message_type)
    return copy.SerializeToString(deterministic=True)


def _clear_json_names(messages: Iterable[Any]) -> None:
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _clear_json_names(message.nested_type)
