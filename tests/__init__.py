"""Tests of the product. `tests.postgres` and `tests.servers` run the real things."""

import os

# Tests start processes while gRPC's threads run. Its fork handlers are for children that go on to
# use gRPC; in ours, which exec at once, they can crash. Read when grpc is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
