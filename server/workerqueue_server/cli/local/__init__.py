"""Commands that run a server, or look at its settings and database, on this machine."""

import os

# Before gRPC is imported: the embedded database is stopped by a forked program that uses no gRPC,
# and gRPC's own precautions for forks would only write a line of their own about it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
