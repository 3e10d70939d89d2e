from workerqueue.v1 import queue_admin_pb2 as _queue_admin_pb2
from workerqueue.v1 import schedule_pb2 as _schedule_pb2
from workerqueue.v1 import task_admin_pb2 as _task_admin_pb2
from workerqueue.v1 import worker_admin_pb2 as _worker_admin_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
