"""`workerqueue serve` as it is, but for how often its duties look at the clock.

The clock of a model test jumps; a server that looks twice a second would make every jump last half
a second. What only makes up for lost announcements is slowed down instead, to once an hour:
whatever waits for it is waited for in vain, and the test sees that an announcement is missing.
"""

from __future__ import annotations

import sys

from workerqueue_server.cli.main import main
from workerqueue_server.queue import dispatcher, keyed, maintenance

_OFTEN = 0.02
_HARDLY_EVER = 3600.0


def attend() -> None:
    """Changes the pauses between the duties."""
    for name in ("_EXPIRY_SECONDS", "_PROMOTE_SECONDS", "_UNSTARTED_SECONDS"):
        assert hasattr(maintenance, name)
        setattr(maintenance, name, _OFTEN)
    for module, name in (
        (maintenance, "_ADMIT_SECONDS"),
        (maintenance, "_AUDIT_SECONDS"),
        (dispatcher, "_SWEEP_SECONDS"),
        (keyed, "_SETTLE_SECONDS"),
    ):
        assert hasattr(module, name)
        setattr(module, name, _HARDLY_EVER)


if __name__ == "__main__":
    attend()
    sys.exit(main())
