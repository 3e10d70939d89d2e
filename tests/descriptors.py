"""Compiled task kinds of the tests' own."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).parent.parent
PROTOS = Path(__file__).parent / "protos"


def compile_protos(sources: list[Path], roots: list[Path], output: Path) -> None:
    """Compiles protos to a descriptor set, as `protoc --include_imports` does."""
    well_known = files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        *(f"--proto_path={root}" for root in [*roots, ROOT / "proto", well_known]),
        "--include_imports",
        f"--descriptor_set_out={output}",
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc refused {sources}")


@cache
def everything() -> bytes:
    """The descriptor set with the kinds of everything.proto."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "everything.binpb"
        compile_protos([PROTOS / "everything/v1/everything.proto"], [PROTOS], output)
        data = output.read_bytes()
    assert FileDescriptorSet.FromString(data).file
    return data
