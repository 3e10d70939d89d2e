"""Every element of the contract carries a comment: it is the documentation for every language."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PROTO = Path(__file__).parents[2] / "proto"
OURS = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "workerqueue").rglob("*.proto"))

# Where an element stands in its file, as SourceCodeInfo counts: field numbers and indices in turn.
SourcePath = tuple[int, ...]

PACKAGE: SourcePath = (FileDescriptorProto.PACKAGE_FIELD_NUMBER,)


@cache
def files() -> dict[str, FileDescriptorProto]:
    buf = Path(sys.executable).parent / "buf"
    image = subprocess.run(
        [buf, "build", "--output", "-#format=binpb"], cwd=PROTO, check=True, capture_output=True
    ).stdout
    return {file.name: file for file in FileDescriptorSet.FromString(image).file}


def elements(file: FileDescriptorProto) -> Iterator[tuple[str, SourcePath]]:
    """Each element's name and place."""
    yield "package", PACKAGE
    for i, message in enumerate(file.message_type):
        yield from in_message(message, (file.MESSAGE_TYPE_FIELD_NUMBER, i))
    for i, enum in enumerate(file.enum_type):
        yield from in_enum(enum, (file.ENUM_TYPE_FIELD_NUMBER, i))
    for i, service in enumerate(file.service):
        yield from in_service(service, (file.SERVICE_FIELD_NUMBER, i))
    for i, extension in enumerate(file.extension):
        yield f"extension {extension.name}", (file.EXTENSION_FIELD_NUMBER, i)


def in_message(message: DescriptorProto, path: SourcePath) -> Iterator[tuple[str, SourcePath]]:
    if message.options.map_entry:
        return
    yield message.name, path
    for i, field in enumerate(message.field):
        yield f"{message.name}.{field.name}", (*path, message.FIELD_FIELD_NUMBER, i)
    # A proto3 `optional` field makes a oneof of its own, which nobody wrote.
    written = {f.oneof_index for f in message.field if f.HasField("oneof_index")} - {
        f.oneof_index for f in message.field if f.proto3_optional
    }
    for i in sorted(written):
        yield (
            f"{message.name}.{message.oneof_decl[i].name}",
            (
                *path,
                message.ONEOF_DECL_FIELD_NUMBER,
                i,
            ),
        )
    for i, nested in enumerate(message.nested_type):
        yield from in_message(nested, (*path, message.NESTED_TYPE_FIELD_NUMBER, i))
    for i, enum in enumerate(message.enum_type):
        yield from in_enum(enum, (*path, message.ENUM_TYPE_FIELD_NUMBER, i))


def in_enum(enum: EnumDescriptorProto, path: SourcePath) -> Iterator[tuple[str, SourcePath]]:
    yield enum.name, path
    for i, value in enumerate(enum.value):
        yield f"{enum.name}.{value.name}", (*path, enum.VALUE_FIELD_NUMBER, i)


def in_service(
    service: ServiceDescriptorProto, path: SourcePath
) -> Iterator[tuple[str, SourcePath]]:
    yield service.name, path
    for i, method in enumerate(service.method):
        yield f"{service.name}.{method.name}", (*path, service.METHOD_FIELD_NUMBER, i)


def without_comment(file: FileDescriptorProto) -> list[str]:
    commented = {
        tuple(location.path)
        for location in file.source_code_info.location
        if location.leading_comments.strip() or location.trailing_comments.strip()
    }
    return [name for name, path in elements(file) if path not in commented]


def test_the_contract_is_found() -> None:
    assert "workerqueue/v1/worker_queue.proto" in OURS
    assert "workerqueue/tasks/v1/tasks.proto" in OURS


@pytest.mark.parametrize("name", OURS)
def test_every_element_has_a_comment(name: str) -> None:
    assert without_comment(files()[name]) == []


def test_a_missing_comment_would_be_found() -> None:
    """Holds the search itself: with the source comments gone, every element is reported."""
    stripped = FileDescriptorProto()
    stripped.CopyFrom(files()["workerqueue/v1/lease.proto"])
    stripped.ClearField("source_code_info")
    missing = without_comment(stripped)
    assert {"package", "NackRequest.action", "LeaseOperation.LEASE_OPERATION_ACK"} <= set(missing)
