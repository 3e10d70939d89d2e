"""The public names: a change here is a change of the interface."""

from __future__ import annotations

import subprocess
import sys

import workerqueue

PUBLIC = {
    "AsyncClient", "AsyncTaskHandle", "AuthenticationError", "BatchRefusedError", "BatchResult",
    "CancelReason", "Client", "DeadlineError", "Discard", "EnqueueItem", "EnqueueOptions",
    "EnqueueOutcome", "FieldViolation", "HandlerSignal", "InvalidPayloadError",
    "InvalidRequestError", "JobKeyMode", "KeyConflictError", "LeaseLostError", "LoadProgress",
    "OverloadedError", "PermissionDeniedError", "PreconditionError", "ProtocolError",
    "Retention", "RetryLater", "RetryPolicy", "ServerError", "Snooze", "SyncTaskContext",
    "TaskCancelled", "TaskContext", "TaskFailedError", "TaskHandle", "TaskNotFoundError",
    "Tls", "TooLargeError", "UnavailableError", "Unique", "UnknownKindError", "Worker",
    "WorkerQueueError", "WrongStateError", "kind_of", "uuid7",
}  # fmt: skip


def test_exported_names() -> None:
    assert set(workerqueue.__all__) == PUBLIC
    assert all(hasattr(workerqueue, name) for name in PUBLIC)


def test_every_public_name_says_what_it_is() -> None:
    for name in PUBLIC:
        public = getattr(workerqueue, name)
        assert public.__doc__, name
        for attribute, member in vars(public).items():
            if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{attribute}"


def test_every_error_is_in_the_written_hierarchy() -> None:
    from workerqueue import _errors

    written = _errors.__doc__ or ""
    for name in PUBLIC:
        public = getattr(workerqueue, name)
        if isinstance(public, type) and issubclass(public, Exception):
            depth = len([c for c in public.__mro__ if c.__module__ == _errors.__name__])
            assert f"{'    ' * (depth - 1)}* ``{name}``" in written, name


def test_the_import_needs_nothing_of_the_server() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import workerqueue, workerqueue.tasks.v1.tasks_pb2\n"
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}\n"
        "print(*(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    # `import grpc` loads its own extras (grpc_tools, grpc_health, ...) if they happen to be there.
    foreign = {name for name in loaded if not name.lstrip("_").startswith(("grpc", "cython"))}
    # Newer grpcio brings this one.
    assert foreign - {"typing_extensions"} == {"workerqueue", "google", "buf"}
