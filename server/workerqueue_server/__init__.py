"""The workerqueue server: gRPC in front, PostgreSQL behind, the queue's rules between them.

Layers, each importing only what stands to its right: `cli`, `app`, `rpc`, `queue`, `store`.
"""

from importlib.metadata import version

__version__ = version("workerqueue")
