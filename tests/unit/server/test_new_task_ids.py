"""Ids that servers make: UUIDs of version 7, and nobody else's."""

from __future__ import annotations

import subprocess
import sys
import uuid

from workerqueue_server.queue.enqueue import new_task_id

_FORK = """
import os
from workerqueue_server.queue.enqueue import new_task_id
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, b"".join(new_task_id() for _ in range(8)))
    os._exit(0)
print(os.read(reader, 128).hex(), b"".join(new_task_id() for _ in range(8)).hex())
"""


def test_ids_are_of_version_7_and_rise_with_time() -> None:
    ids = [uuid.UUID(bytes=new_task_id()) for _ in range(1_000)]
    assert {each.version for each in ids} == {7}
    assert {each.variant for each in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == len(ids)
    milliseconds = [each.int >> 80 for each in ids]
    assert milliseconds == sorted(milliseconds)


def test_a_forked_process_makes_other_ids() -> None:
    done = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, check=True)
    parts = []
    for made in done.stdout.split():
        ids = bytes.fromhex(made)
        # What follows the time: two processes make ids in the same millisecond.
        parts.append({ids[start + 6 : start + 16] for start in range(0, len(ids), 16)})
    child, parent = parts
    assert len(child) == len(parent) == 8
    assert not child & parent
