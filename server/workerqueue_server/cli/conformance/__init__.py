"""The conformance kit: drives a worker program in any language through named scenarios.

``servers`` runs what the program talks to, ``program`` is the program, ``stage`` is both for one
scenario, ``scenarios`` says what is demanded, ``kit`` runs them and ``command`` prints the table.
"""

import os

# This process forks only to start programs; without this, gRPC warns of each.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
